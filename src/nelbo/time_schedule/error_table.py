r"""The error table: all that schedules need to know of a model, from one network call per image and noise level.

At each level of a grid the table sums, over images, the mistake :math:`e = \epsilon - \hat\epsilon` of the denoiser:
its square, its covariance between colours at each spatial frequency, and what leaving for the data from there would
cost. Costs of all N^2 steps follow from these N entries. Sums come with their counts, so tables of different images
add up, and a table that was interrupted goes on.

One noise image per image serves all levels, so that costs vary smoothly from one level to the next.
"""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nelbo.basis import Basis, plain_basis, principal_axes
from nelbo.bound import prior_kl_of
from nelbo.errors import NelboError
from nelbo.exit import Exit

_COLOUR_GAMMA = -5.0  # Where mistakes are about edges and textures: luma, red-blue and green-magenta.


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
        ranges: The histograms of :mod:`nelbo.time_schedule.ranges`, shape (n, bins, 4), of a model with such variances.
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
    exits: dict[str, list[Exit]] = field(default_factory=dict)
    exit_losses: dict[str, Float[Tensor, "m 2"]] = field(default_factory=dict)
    exit_levels: Int[Tensor, " m"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    ranges: Float[Tensor, "n bins 4"] | None = None
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

    def spectrum(self, level: int) -> Float[Tensor, "c bh bw"]:
        """Returns the mean square of each coordinate of the mistake at a level, in the table's basis."""
        basis = self.basis()
        n_blocks = self.n_dims // (len(basis.colours) * basis.block[0] * basis.block[1])
        mean = symmetric(self.covariance[level], len(basis.colours)) / (self.n_images[level] * n_blocks)
        return torch.einsum("ac,ad,cdhw->ahw", basis.colours, basis.colours, mean).clamp(min=0)

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


def _same_exits(one: dict[str, list[Exit]], other: dict[str, list[Exit]]) -> bool:
    if one.keys() != other.keys():
        return False
    matched = ((a, b) for kind in one for a, b in zip(one[kind], other[kind], strict=False))
    lengths = all(len(one[kind]) == len(other[kind]) for kind in one)
    return lengths and all(
        torch.equal(a.weights, b.weights) and torch.equal(a.scales, b.scales) and a.rounding == b.rounding
        for a, b in matched
    )
