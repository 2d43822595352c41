r"""The error table: all that schedules need to know of a model, from one network call per image and noise level.

At each level of a grid the table sums, over images, the error :math:`e = \epsilon - \hat\epsilon` of the denoiser:
its square, its covariance between colours at each spatial frequency, and what leaving for the data from there would
cost. Costs of all N^2 steps follow from these N entries. Sums come with their counts, so tables of different images
add up, and a table that was interrupted goes on.

One noise image per image serves all levels, so that costs vary smoothly from one level to the next.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor

from nelbo.diffusion.bound import prior_kl_of
from nelbo.diffusion.error_statistics import ErrorStatistics
from nelbo.diffusion.residual_decoder import ResidualDecoder
from nelbo.diffusion.reverse import KERNELS
from nelbo.diffusion.spectral_basis import Basis, plain_basis, principal_axes
from nelbo.errors import NelboError, one_line
from nelbo.runtime.atomic import new_file
from nelbo.runtime.tensor_file import read_tensors
from nelbo.time_schedule.checks import check_table

ENOUGH_IMAGES = 32  # Spectra of 2 to 16 images were seen to promise up to 0.06 bits per dimension too much.
_COLOUR_GAMMA = -5.0  # Where errors are about edges and textures: luma, red-blue and green-magenta.


@dataclass(frozen=True)
class Subject:
    """What a table is about; only tables with the same subject add up.

    Attributes:
        fingerprint: Of the model.
        image_shape: Of its images.
        gamma_0: Gamma of the latent that the model decodes without its network; None where the last step is a
            network call.
        discrete: Whether the levels are the model's own.
        seed: The randomness of the noise.
        precision: The arithmetic the network ran in.
    """

    fingerprint: str
    image_shape: tuple[int, int, int]
    gamma_0: float | None
    discrete: bool
    seed: int
    precision: str


@dataclass(frozen=True, eq=False)
class ErrorTable:
    """Sums over images at each of n levels, float64.

    Attributes:
        subject: What the table is about.
        gammas: The levels, increasing, shape (n,).
        n_images: Images seen at each level.
        n_decoded: Images whose squares and decoder losses are summed, where these do not depend on the level.
        square: Sum of ||x||^2, and of its square.
        decoder: Sums and sums of squares of -log p(x | z) of the model's own decoder, shape (1, 2) at gamma_0 or
            (n, 2) where it is a network call.
        error: Sums and sums of squares over images of ||e||^2, shape (n, 2).
        covariance: Sums over images and blocks of the products of each two colours' frequencies, shape (n, p, bh, bw).
        exits: By kind, the exit at each of the exit levels.
        exit_losses: By kind, sums and sums of squares of their losses, shape (m, 2).
        exit_levels: Positions of the exit levels in ``gammas``, increasing.
        ranges: The histograms of learned variances, shape (n, bins, 4); None of a model without.
        timesteps: Which of a discrete-time model's levels these are; None for all of them, and of continuous time.
        images: The SHA-256 of all the images that the table is of once it is finished; None of a sum of tables, or from
            a file that does not say.
    """

    subject: Subject
    gammas: Float[Tensor, " n"]
    n_images: Int[Tensor, " n"]
    n_decoded: int
    square: Float[Tensor, " 2"]
    decoder: Float[Tensor, "k 2"]
    error: Float[Tensor, "n 2"]
    covariance: Float[Tensor, "n p bh bw"]
    exits: dict[str, list[ResidualDecoder]] = field(default_factory=dict)
    exit_losses: dict[str, Float[Tensor, "m 2"]] = field(default_factory=dict)
    exit_levels: Int[Tensor, " m"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    ranges: Float[Tensor, "n bins 4"] | None = None
    timesteps: Int[Tensor, " n"] | None = None
    images: str | None = None

    def __post_init__(self) -> None:
        """Raises NelboError if a sum is no finite number."""
        for tensor in (self.square, self.decoder, self.error, self.covariance, *self.exit_losses.values()):
            if not bool(torch.isfinite(tensor).all()):
                raise NelboError("the error table holds a value that is no number: the model's output is not finite")

    @property
    def n_dims(self) -> int:
        """Dimensions of one image."""
        channels, height, width = self.subject.image_shape
        return channels * height * width

    def timestep(self, level: int) -> int:
        """Returns which of a discrete-time model's own levels one of the table's is."""
        return level if self.timesteps is None else int(self.timesteps[level])

    @property
    def mean_square(self) -> Float[Tensor, " n"]:
        """The mean of e^2 per dimension at each level."""
        return self.error[:, 0] / self.n_images / self.n_dims

    def basis(self) -> Basis:
        """Returns the spectral kernel's basis: one set of colour axes, the principal ones near gamma = -5."""
        plain = plain_basis(self.subject.image_shape)
        level = int((self.gammas - _COLOUR_GAMMA).abs().argmin())
        colours = symmetric(self.covariance[level].sum((1, 2)), len(plain.colours))
        return Basis(principal_axes(colours), plain.block)

    def statistics(self, levels: Iterable[int]) -> Iterator[ErrorStatistics]:
        """Yields the statistics of the errors at some levels, in the table's basis."""
        basis = self.basis()
        n_blocks = self.n_dims // (len(basis.colours) * basis.block[0] * basis.block[1])
        for level in levels:
            n = self.n_images[level]
            covariance = symmetric(self.covariance[level], len(basis.colours)) / (n * n_blocks)
            ranges = None if self.ranges is None else self.ranges[level] / n
            yield ErrorStatistics(self.subject.image_shape, self.mean_square[level], covariance, basis, ranges)

    def spectrum(self, level: int) -> Float[Tensor, "c bh bw"]:
        """Returns the mean square of each coordinate of the error at a level, in the table's basis."""
        return next(self.statistics([level])).spectrum

    def prior(self) -> Float[Tensor, " n"]:
        """Returns the mean KL(q(z_t | x) || p(z_1)) in nats of starting the chain at each level."""
        return prior_kl_of(self.square[0] / self.n_decoded, self.n_dims, self.gammas)

    def __add__(self, other: "ErrorTable") -> "ErrorTable":
        """Returns the table of both tables' images, which must be different images of one subject.

        Raises:
            NelboError: If the tables are about different models, levels, randomness or exits.
        """
        if self.subject != other.subject or not torch.equal(self.gammas, other.gammas):
            raise NelboError("error tables add up for one model, one seed, one precision and the same gammas only")
        if not _same_exits(self.exits, other.exits):
            raise NelboError("error tables with different exits do not add up: make the second one with exits_of=first")
        return replace(
            self,
            n_images=self.n_images + other.n_images,
            n_decoded=self.n_decoded + other.n_decoded,
            square=self.square + other.square,
            decoder=self.decoder + other.decoder,
            error=self.error + other.error,
            covariance=self.covariance + other.covariance,
            exit_losses={kind: losses + other.exit_losses[kind] for kind, losses in self.exit_losses.items()},
            ranges=None if self.ranges is None or other.ranges is None else self.ranges + other.ranges,
            images=None,
        )


def standard_errors(sums: Float[Tensor, "n 2"], count: Int[Tensor, " n"] | int) -> Float[Tensor, " n"]:
    """Returns the standard error of each mean, from the sum and the sum of squares of its values."""
    mean = sums[:, 0] / count
    variance = (sums[:, 1] / count - mean.square()).clamp(min=0)
    return torch.sqrt(variance / torch.clamp(torch.as_tensor(count) - 1, min=1))


def pairs(n_channels: int) -> list[tuple[int, int]]:
    """Returns the pairs of channels whose products are summed: each unordered one once."""
    return [(a, b) for a in range(n_channels) for b in range(a, n_channels)]


def symmetric(packed: Float[Tensor, "p *hw"], n_channels: int) -> Float[Tensor, "c c *hw"]:
    """Returns the symmetric matrices whose upper triangles are packed."""
    full = packed.new_zeros(n_channels, n_channels, *packed.shape[1:])
    for entry, (a, b) in zip(packed, pairs(n_channels), strict=True):
        full[a, b] = full[b, a] = entry
    return full


def _same_exits(one: dict[str, list[ResidualDecoder]], other: dict[str, list[ResidualDecoder]]) -> bool:
    if one.keys() != other.keys():
        return False
    matched = ((a, b) for kind in one for a, b in zip(one[kind], other[kind], strict=False))
    lengths = all(len(one[kind]) == len(other[kind]) for kind in one)
    return lengths and all(
        torch.equal(a.weights, b.weights) and torch.equal(a.scales, b.scales) and a.rounding == b.rounding
        for a, b in matched
    )


def doubt(table: ErrorTable, reverse: str | None = None) -> str | None:
    """Returns why the spectra of a table are not to be trusted; None where they are, or a kernel does not need them."""
    n_images = int(table.n_images.min())
    if n_images >= ENOUGH_IMAGES or (reverse is not None and not KERNELS[reverse].needs_many_images):
        return None
    return (
        f"{n_images} images are few for the spectral kernel: its schedules may be 0.05 bits per dimension worse than "
        f"predicted; measure {ENOUGH_IMAGES} or more, or take the analytic kernel"
    )


FORMAT = "nelbo error table 1"
_DAMAGE = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_TENSORS = ("gammas", "n_images", "square", "decoder", "error", "covariance", "exit_levels")


def save_table(table: ErrorTable, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Writes an error table, whole or not at all.

    Args:
        table: The table.
        path: The file.
        dtype: What the covariances are stored in, as fractions of the largest of their level; everything else stays in
            float64.
    """
    tensors: dict[str, Tensor] = {name: getattr(table, name).contiguous() for name in _TENSORS}
    tensors["largest"] = table.covariance.abs().amax((1, 2, 3)).clamp(min=1e-300)
    tensors["covariance"] = (table.covariance / _per_level(tensors["largest"])).to(dtype).contiguous()
    if table.ranges is not None:
        tensors["ranges"] = table.ranges
    if table.timesteps is not None:
        tensors["timesteps"] = table.timesteps
    for kind, exits in table.exits.items():
        tensors |= _exit_tensors(kind, exits) | {f"{kind}.losses": table.exit_losses[kind]}
    header = {
        "format": FORMAT,
        "subject": json.dumps(asdict(table.subject)),
        "n_decoded": str(table.n_decoded),
        "exits": json.dumps(list(table.exits)),
    }
    if table.images is not None:
        header["images"] = table.images
    with new_file(path) as temporary:
        save_file(tensors, temporary, header)


def load_table(path: Path) -> ErrorTable:
    """Reads an error table.

    Raises:
        NelboError: If the file is missing, damaged or something else.
    """
    if not path.is_file():
        raise NelboError(f"no error table at {path}: make one with `nelbo schedule MODEL --data IMAGES --out FOLDER`")
    header, tensors = read_tensors(path, "{path} is damaged or no error table ({error})")
    if header.get("format") != FORMAT:
        raise NelboError(f"{path} is no error table of this version of nelbo ({header.get('format', 'no format')!r})")
    try:
        table = _table(header, tensors)
        check_table(table)
    except _DAMAGE as error:
        raise NelboError(f"{path} is damaged: {one_line(error, 200)}") from None
    return table


def _table(header: dict[str, str], tensors: dict[str, Tensor]) -> ErrorTable:
    fields = json.loads(header["subject"])
    fields["image_shape"] = tuple(fields["image_shape"])
    parts = {name: tensors[name] for name in _TENSORS}
    if not (tensors["largest"].is_floating_point() and parts["covariance"].is_floating_point()):
        raise ValueError("covariance holds no numbers")
    parts["covariance"] = parts["covariance"].double() * _per_level(tensors["largest"])
    kinds = json.loads(header["exits"])
    return ErrorTable(
        subject=Subject(**fields),
        n_decoded=int(header["n_decoded"]),
        exits={kind: _exits(kind, tensors) for kind in kinds},
        exit_losses={kind: tensors[f"{kind}.losses"] for kind in kinds},
        ranges=tensors.get("ranges"),
        timesteps=tensors.get("timesteps"),
        images=header.get("images"),
        **parts,
    )


def _per_level(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _exit_tensors(kind: str, exits: list[ResidualDecoder]) -> dict[str, Tensor]:
    if not exits:
        return {}
    return {
        f"{kind}.weights": torch.stack([exit.weights for exit in exits]),
        f"{kind}.scales": torch.stack([exit.scales for exit in exits]),
        f"{kind}.rounding": torch.tensor([exit.rounding for exit in exits], dtype=torch.float64),
    }


def _exits(kind: str, tensors: dict[str, Tensor]) -> list[ResidualDecoder]:
    if f"{kind}.weights" not in tensors:
        return []
    names = (f"{kind}.weights", f"{kind}.scales", f"{kind}.rounding")
    columns = zip(*(tensors[name] for name in names), strict=True)
    return [ResidualDecoder(kind, weights, scales, rounding.item()) for weights, scales, rounding in columns]
