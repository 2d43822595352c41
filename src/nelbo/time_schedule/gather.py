"""Gathering an error table: one network call per image and noise level, in any number of sittings."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nelbo.data.arrays import Labels, as_images
from nelbo.data.images import Images
from nelbo.diffusion.bound import exit_loss
from nelbo.diffusion.decoder import to_unit
from nelbo.diffusion.draws import chain_draws
from nelbo.diffusion.gaussian import denoised, diffuse
from nelbo.diffusion.residual_decoder import ResidualDecoder, fit_exit
from nelbo.diffusion.spectral_basis import Basis, plain_basis
from nelbo.diffusion.variance_histogram import moments
from nelbo.errors import NelboError
from nelbo.models.fingerprint import images_digest
from nelbo.models.interface import DiffusionModel, check_seed
from nelbo.models.labels import check_fits, labels_of
from nelbo.models.precision import precision_of
from nelbo.runtime.agreement import agree, collect
from nelbo.runtime.atomic import uninterrupted
from nelbo.runtime.device import Precision, autocast, set_precision
from nelbo.runtime.processes import World
from nelbo.runtime.randomness import permutation
from nelbo.time_schedule.empty_table import empty_table
from nelbo.time_schedule.error_table import ErrorTable, pairs
from nelbo.time_schedule.table_levels import n_levels, table_levels
from nelbo.time_schedule.table_parts import cut, join

SITTING = 32  # Images that go through all levels before the next ones do; the first sitting also fits the exits.


@dataclass(frozen=True)
class Progress:
    """What a gathering reports: how many network calls on one image this process has done, and of how many.

    Attributes:
        done: The calls.
        total: All calls of this process.
        is_whole: Whether the table is that of all processes.
    """

    done: int
    total: int
    is_whole: bool = True


def error_table(
    model: DiffusionModel,
    data: Images | UInt8[Tensor, "n c h w"],
    n_gammas: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
    precision: str = "auto",
    start: ErrorTable | None = None,
    exits_of: ErrorTable | None = None,
    exit_kinds: Sequence[str] | None = None,
    progress: Callable[[ErrorTable, Progress], object] = lambda table, progress: None,
    labels: Labels | None = None,
    world: World | None = None,
) -> ErrorTable:
    """Returns the error table of a model on images.

    Args:
        model: The model.
        data: The images, of the model's shape: training images, if schedules are to be judged on test images.
        n_gammas: Levels: by default 1000, evenly spread in gamma over the model's range; of a discrete-time model at
            most 250 of its own, both ends among them, chosen where a pilot pass of 128 calls finds the cost. Schedules
            stop at these levels alone.
        seed: The randomness of the noise; image k of the data has the noise of image k.
        batch_size: Images a network call, at most 32.
        precision: ``auto``, ``float32`` or ``bfloat16``.
        start: A table of the same call that was interrupted, on the same images; what it holds is not computed again.
        exits_of: A table whose exits to use, so that the two add up; by default exits are fitted to the first images.
        exit_kinds: Which residual decoders to fit and measure, keys of
            :data:`nelbo.diffusion.residual_decoder.NEIGHBOURS`; by default all.
        progress: Called after each batch with the table so far, which is complete in itself and stays so: it grows by
            whole levels, whenever the gathering is interrupted.
        labels: With a tensor of images, the class of each, integers of any type; a data set has its own.
        world: The processes that share the levels; each of them makes this call. Their parts are put together after
            every 32 images, and ``progress`` is called with parts, whose ``is_whole`` is false, in between.

    Raises:
        NelboError: If the images do not fit the model, a setting is out of range, ``start`` is the table of something
            else, or the model's output is no number.
    """
    data = as_images(data, labels)
    world = World(0, 1, model.device) if world is None else world
    if n_gammas is None and start is not None:
        n_gammas = len(start.gammas)
    n, resolved = agree(world, lambda: _checked(model, data, n_gammas, seed, batch_size, precision))
    model.eval()
    set_precision(model, model.device, resolved)
    gammas, timesteps = table_levels(model, data, n, seed, batch_size, resolved, world, start or exits_of)

    def begin() -> ErrorTable:
        table = empty_table(model, gammas, timesteps, seed, resolved, exit_kinds, exits_of)
        table = replace(table, images=images_digest(data, labels_of(model, data)))
        if start is None:
            return table
        _check_continues(table, start)
        return copy.deepcopy(start)  # What follows adds to its sums in place.

    table = agree(world, begin)
    with torch.no_grad():
        for first in range(0, len(data), SITTING):
            indices = range(first, min(first + SITTING, len(data)))
            sitting = _Sitting(model, data, indices, batch_size, seed, resolved)
            table = _sit_together(world, table, sitting, len(data), progress)
    return table


def _checked(
    model: DiffusionModel, data: Images, n_gammas: int | None, seed: int, batch_size: int, precision: str
) -> tuple[int, Precision]:
    """Returns the number of levels and the precision, if everything that was asked for is in range."""
    check_fits(model, data)
    check_seed(seed)
    if batch_size < 1:
        raise NelboError(f"batch_size must be at least 1, got {batch_size}")
    n = n_levels(model, n_gammas)
    return n, precision_of(model, precision, data, len(data) * n)


def _sit_together(
    world: World,
    table: ErrorTable,
    sitting: "_Sitting",
    n_data: int,
    progress: Callable[[ErrorTable, Progress], object],
) -> ErrorTable:
    """Returns the table with a sitting's images, each process having taken them through its share of the levels."""
    if world.size == 1:
        return _sit(table, sitting, n_data, progress)
    mine = world.share(len(table.gammas))

    def part_done(part: ErrorTable, state: Progress) -> None:
        progress(part, replace(state, is_whole=False))

    part = agree(world, lambda: _sit(cut(table, mine), sitting, n_data, part_done))
    whole = join(collect(world, part))
    agree(world, lambda: progress(whole, Progress(int(part.n_images.sum()), n_data * len(mine))))
    return whole


def chosen_images(data: Images, n_images: int, seed: int = 0) -> Images:
    """Returns some of a data set's images, chosen at random, in their order."""
    return data.select(np.sort(permutation(len(data), "images of an error table", seed)[:n_images]))


@dataclass(frozen=True, eq=False)
class _Sitting:
    """Some images that go through all levels."""

    model: DiffusionModel
    data: Images
    indices: range
    batch_size: int
    seed: int
    precision: Precision

    def read(self) -> tuple[UInt8[Tensor, "b c h w"], Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """Returns the images, the noise of their decoded latents, and the noise that serves all their levels."""
        images = self.data.read(self.indices).to(self.model.device)
        self.model.check_images(images)
        eps_0, eps = chain_draws(self.indices, self.model.image_shape, self.seed)
        return images, eps_0.to(self.model.device), eps.to(self.model.device)

    def errors(
        self, x: Float[Tensor, "b c h w"], eps: Float[Tensor, "b c h w"], gamma: Float[Tensor, ""]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"], Float[Tensor, "b c h w"] | None]:
        """Returns the denoiser's errors, its x_hats and its variance ranges at one level."""
        gammas = gamma.expand(len(x)).to(x.device)
        z = diffuse(x, eps, gammas)
        labels = labels_of(self.model, self.data)
        if labels is not None:
            labels = labels[list(self.indices)].to(x.device)
        slices = [slice(i, i + self.batch_size) for i in range(0, len(x), self.batch_size)]
        with autocast(self.model.device, self.precision):
            parts = [
                self.model.given(None if labels is None else labels[part]).predict(z[part], gammas[part])
                for part in slices
            ]
        eps_hat = torch.cat([part[0] for part in parts])
        nus = [part[1] for part in parts if part[1] is not None]
        if not bool(torch.isfinite(eps_hat).all()):
            raise NelboError(f"the model's output at gamma = {gamma.item():.3f} is not finite: its weights are damaged")
        return eps - eps_hat, denoised(z, eps_hat, gammas), torch.cat(nus) if nus else None


def _sit(
    table: ErrorTable, sitting: _Sitting, n_data: int, progress: Callable[[ErrorTable, Progress], object]
) -> ErrorTable:
    """Returns the table with a sitting's images at every level that lacks them."""
    todo = [level for level in range(len(table.gammas)) if table.n_images[level] < sitting.indices.stop]
    if not todo:
        return table
    images, eps_0, eps = sitting.read()
    if table.n_decoded < sitting.indices.stop:
        table = _with_images(table, sitting.model, images, eps_0)
    x, basis = to_unit(images), plain_basis(table.subject.image_shape)
    for level in todo:
        _add_level(table, sitting, level, images, x, eps, basis)
        progress(table, Progress(int(table.n_images.sum()), n_data * len(table.gammas)))
    return table


def _with_images(
    table: ErrorTable, model: DiffusionModel, images: UInt8[Tensor, "b c h w"], eps_0: Float[Tensor, "b c h w"]
) -> ErrorTable:
    """Returns the table with what does not depend on the level; the given one keeps its own sums of that."""
    square = table.square + _sums(to_unit(images).double().square().flatten(1).sum(1))
    decoder = table.decoder
    if table.subject.gamma_0 is not None:
        gamma_0 = torch.tensor(table.subject.gamma_0, dtype=torch.float64, device=model.device)
        z_0 = diffuse(to_unit(images), eps_0, gamma_0.expand(len(images)))
        decoder = decoder + _sums(-model.decoder.log_likelihood(images, z_0, gamma_0))
    return replace(table, square=square, decoder=decoder, n_decoded=table.n_decoded + len(images))


def _add_level(
    table: ErrorTable,
    sitting: _Sitting,
    level: int,
    images: UInt8[Tensor, "b c h w"],
    x: Float[Tensor, "b c h w"],
    eps: Float[Tensor, "b c h w"],
    basis: Basis,
) -> None:
    """Adds a sitting's errors at one level to the table's sums, in place: all of them, or none if interrupted."""
    error, x_hat, nu = sitting.errors(x, eps, table.gammas[level])
    sums = [
        (table.error[level], _sums(error.double().square().flatten(1).sum(1))),
        (table.covariance[level], _block_products(basis.forward(error), basis.block).cpu()),
        (table.n_images[level], torch.tensor(len(images))),
    ]
    if nu is not None and table.ranges is not None:
        sums.append((table.ranges[level], moments(nu, error.square()).cpu()))
    if sitting.model.exit_std is not None:
        small, large = sitting.model.exit_std, sitting.model.exit_std_large
        sums.append((table.decoder[level], _sums(exit_loss(images, x_hat, small, large, nu))))
    leaving = _leaving(table, level, images, x_hat)
    with uninterrupted():
        for total, more in sums:
            total += more
        for kind, (position, exit, losses) in leaving.items():
            if position == len(table.exits[kind]):
                table.exits[kind].append(exit)
            table.exit_losses[kind][position] += losses


def _leaving(
    table: ErrorTable, level: int, images: UInt8[Tensor, "b c h w"], x_hat: Float[Tensor, "b c h w"]
) -> dict[str, tuple[int, ResidualDecoder, Float[Tensor, " 2"]]]:
    """Returns by kind the exit of a level, if it is an exit level, and its losses; the first images fit the exit."""
    position = int(torch.searchsorted(table.exit_levels, level))
    if position == len(table.exit_levels) or table.exit_levels[position] != level:
        return {}
    found = {}
    for kind, fitted in table.exits.items():
        exit = fitted[position] if position < len(fitted) else fit_exit(kind, images, x_hat)
        found[kind] = (position, exit, _sums(-exit.log_likelihood(images, x_hat)))
    return found


def _block_products(y: Float[Tensor, "b c h w"], block: tuple[int, int]) -> Float[Tensor, "p bh bw"]:
    """Returns the products of each two colours' frequencies, summed over images and blocks in float64."""
    b, c, h, w = y.shape
    blocks = y.reshape(b, c, h // block[0], block[0], w // block[1], block[1])
    return torch.stack([(blocks[:, a] * blocks[:, d]).double().sum((0, 1, 3)) for a, d in pairs(c)])


def _sums(values: Float[Tensor, " b"]) -> Float[Tensor, " 2"]:
    """Returns the sum of values and of their squares."""
    values = values.double().cpu()
    return torch.stack([values.sum(), values.square().sum()])


def _check_continues(fresh: ErrorTable, start: ErrorTable) -> None:
    """Raises NelboError if a started table is not one of this very call."""
    if start.subject != fresh.subject or not torch.equal(start.gammas, fresh.gammas):
        raise NelboError(
            "the error table to go on with is of another model, seed, precision or grid of gammas: "
            "remove it to start anew, or choose another --out"
        )
    if start.images != fresh.images:
        found = (
            "does not say of which images it is" if start.images is None else "is of other images, or of more or fewer"
        )
        raise NelboError(
            f"the error table to go on with {found}: remove it to start anew, choose another --out, "
            "or give it as --table, in place of images, to search it as it is"
        )
