r"""Reverse kernels :math:`p(z_s \mid z_t)`: what a model believes of a cleaner latent, and what that belief costs.

Each is a Gaussian around the posterior's mean with the denoised image in the image's place, and all differ in the
covariance alone, in units of the posterior's own variance :math:`\sigma_Q^2`:

.. math:: p(z_s \mid z_t) = \mathcal N\bigl(\mu_Q(z_t, \hat x),\ \sigma_Q^2\, U^\top \mathrm{diag}(R)\, U\bigr)

with an orthonormal basis :math:`U`. Its cost is its divergence from the truth, which depends on the image through the
denoiser's error :math:`e = U(\epsilon - \hat\epsilon)` alone:

.. math:: \mathrm{KL}(q(z_s \mid z_t, x) \parallel p(z_s \mid z_t))
          = \tfrac12 \sum_k \Bigl(\tfrac1{R_k} - 1 + \ln R_k + \tfrac{r}{R_k} e_k^2\Bigr), \qquad
          r = \mathrm{expm1}(\gamma_t - \gamma_s)

A kernel is therefore one formula, :meth:`ReverseKernel.log_ratio`, for :math:`\ln R`, and one entry of ``KERNELS``.
Everything else asks it: what a step costs on average (from an error table's statistics), what a time schedule keeps of
the table for it, and whether the codec can code with it.

============= =============================================== ==============================================
posterior     0                                               VDM; DDPM's ``fixed_small`` (beta tilde)
forward       :math:`\ln(\sigma_t^2 / \sigma_s^2)`            DDPM's ``fixed_large`` (beta)
learned-range :math:`\nu \ln(\sigma_t^2 / \sigma_s^2)`        improved DDPM, :math:`\nu` from the network
analytic      :math:`\ln(1 + r\, m)`                          extended Analytic-DPM, m the mean of :math:`e^2`
spectral      :math:`\ln(1 + r\, C_k)`                        here, C the mean of :math:`e^2` per coordinate
============= =============================================== ==============================================

References:
    Variational Diffusion Models (Kingma et al., 2021), "Reverse time generative model" and appendix A.
    https://arxiv.org/abs/2107.00630
    Denoising Diffusion Probabilistic Models (Ho et al., 2020), section 3.2. https://arxiv.org/abs/2006.11239
    Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021), eq. 15. https://arxiv.org/abs/2102.09672
    Estimating the Optimal Covariance with Imperfect Mean in Diffusion Probabilistic Models (Bao et al., 2022), which
    has the optimum of a mean that is not exact; that of an exact mean is in Analytic-DPM (https://arxiv.org/abs/2201.06503).
    https://arxiv.org/abs/2206.07309
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from nelbo.diffusion.error_statistics import ErrorStatistics
from nelbo.diffusion.gaussian import denoised, over_image, posterior
from nelbo.diffusion.spectral_basis import Basis
from nelbo.diffusion.variance_histogram import range_cost


class ReverseKernel(ABC):
    """A Gaussian p(z_s | z_t).

    A kernel without fields implements :meth:`log_ratio` alone. One with fields, which differ from step to step, says
    in :meth:`of_errors` how they follow from an error table, and in :meth:`tensors` and :meth:`of_tensors` how a file
    holds them.

    Attributes:
        name: Its name among ``KERNELS``.
        needs_range: Whether it reads nu, which only models with learned variances have.
        needs_many_images: Whether its variances follow from so many statistics that an error table of few images
            predicts its bound too low.
        basis: The basis in which it is diagonal; None is the pixels.
    """

    name: ClassVar[str]
    needs_range: ClassVar[bool] = False
    needs_many_images: ClassVar[bool] = False
    basis: Basis | None = None

    @abstractmethod
    def log_ratio(
        self, gamma_s: Float[Tensor, " b"], gamma_t: Float[Tensor, " b"], nu: Float[Tensor, "b *chw"] | None
    ) -> Float[Tensor, "..."]:
        r"""Returns :math:`\ln R`, the log of the variance over :math:`\sigma_Q^2`, broadcastable over the images.

        Args:
            gamma_s: Negative log-SNR at the cleaner end.
            gamma_t: Negative log-SNR at the noisier end, above ``gamma_s``.
            nu: Where the network says in its output between beta tilde (0) and beta (1) the variance lies.
        """

    @classmethod
    def of_errors(cls, errors: ErrorStatistics) -> "ReverseKernel":
        """Returns the kernel of steps down from a level at which a denoiser's errors have these statistics."""
        return cls()

    def tensors(self) -> dict[str, Tensor]:
        """Returns by name what a time schedule keeps of the kernel of one step, the basis apart."""
        return {}

    @classmethod
    def of_tensors(
        cls, tensors: Mapping[str, Tensor], basis: Basis | None, image_shape: tuple[int, int, int]
    ) -> "ReverseKernel":
        """Returns the kernel of one step, the inverse of :meth:`tensors`."""
        return cls()

    def expected_kl(
        self, errors: ErrorStatistics, gamma_s: Float[Tensor, " s"], gamma_t: Float[Tensor, " s"]
    ) -> Float[Tensor, " s"]:
        """Returns the mean over images of :meth:`step_kl`, in nats, of steps from one level to each of some lower ones.

        This is exact for one variance a step, and for one variance for each coordinate of the error table's basis.

        Args:
            errors: The statistics of the denoiser's errors at the upper level.
            gamma_s: The lower ends.
            gamma_t: The upper level, as often as there are lower ends.
        """
        log_ratio = self.log_ratio(gamma_s, gamma_t, None)
        r = torch.expm1(gamma_t - gamma_s)[:, None, None, None]
        square = errors.mean_square if self.basis is None else errors.spread_spectrum()
        cost = torch.expm1(-log_ratio) + log_ratio + r * torch.exp(-log_ratio) * square
        return 0.5 * errors.n_dims * cost.flatten(1).mean(1)

    def forward(self, x: Float[Tensor, "b *chw"]) -> Float[Tensor, "b *chw"]:
        """Returns images in the basis in which the kernel is diagonal."""
        return x if self.basis is None else self.basis.forward(x)

    def inverse(self, y: Float[Tensor, "b *chw"]) -> Float[Tensor, "b *chw"]:
        """Returns images from that basis."""
        return y if self.basis is None else self.basis.inverse(y)

    def step_kl(
        self,
        error: Float[Tensor, "b *chw"],
        gamma_s: Float[Tensor, " b"],
        gamma_t: Float[Tensor, " b"],
        nu: Float[Tensor, "b *chw"] | None = None,
    ) -> Float[Tensor, " b"]:
        """Returns the cost in nats of the reverse step z_t -> z_s, in float64.

        Args:
            error: The denoiser's error, eps - eps_hat.
            gamma_s: Negative log-SNR at the cleaner end.
            gamma_t: Negative log-SNR at the noisier end, above ``gamma_s``.
            nu: See :meth:`log_ratio`.

        Example:
            >>> error, gamma_s, gamma_t = torch.ones(1, 2), torch.tensor([-1.0]), torch.tensor([0.0])
            >>> Posterior().step_kl(error, gamma_s, gamma_t)
            tensor([1.7183], dtype=torch.float64)
        """
        square = self.forward(error).double().square()
        log_ratio = self.log_ratio(gamma_s.double(), gamma_t.double(), nu).double()
        r = over_image(torch.expm1(gamma_t.double() - gamma_s.double()), square)
        cost = torch.expm1(-log_ratio) + log_ratio + r * torch.exp(-log_ratio) * square
        return 0.5 * cost.flatten(1).sum(1)

    def step(
        self,
        z_t: Float[Tensor, "b *chw"],
        eps_hat: Float[Tensor, "b *chw"],
        gamma_s: Float[Tensor, " b"],
        gamma_t: Float[Tensor, " b"],
        noise: Float[Tensor, "b *chw"],
        nu: Float[Tensor, "b *chw"] | None = None,
    ) -> Float[Tensor, "b *chw"]:
        """Returns the latent z_s ~ p(z_s | z_t) that standard normal noise in the kernel's basis picks."""
        mean, std = posterior(z_t, denoised(z_t, eps_hat, gamma_t), gamma_s, gamma_t)
        scale = torch.exp(0.5 * self.log_ratio(gamma_s, gamma_t, nu)).to(noise.dtype)
        return mean + over_image(std, mean) * self.inverse(scale * noise)


class Posterior(ReverseKernel):
    r"""The VDM kernel: the posterior with the denoised image for the image, :math:`q(z_s \mid z_t, x = \hat x)`."""

    name = "posterior"

    def log_ratio(
        self, gamma_s: Float[Tensor, " b"], gamma_t: Float[Tensor, " b"], nu: Float[Tensor, "b *chw"] | None
    ) -> Float[Tensor, "..."]:
        """Returns 0."""
        return torch.zeros((), dtype=torch.float64, device=gamma_s.device)


@dataclass(frozen=True, eq=False)
class OfBeta(ReverseKernel):
    r"""A kernel whose variance depends on beta, the one quantity here that depends on the units of the latents.

    Attributes:
        gamma_shift: Gamma in the units that beta is meant in, less gamma in ours.
    """

    gamma_shift: float = 0.0

    def tensors(self) -> dict[str, Tensor]:
        """Returns the shift, where there is one."""
        return {"gamma_shift": torch.tensor(self.gamma_shift, dtype=torch.float64)} if self.gamma_shift else {}

    @classmethod
    def of_tensors(
        cls, tensors: Mapping[str, Tensor], basis: Basis | None, image_shape: tuple[int, int, int]
    ) -> "OfBeta":
        """Returns the kernel of one step."""
        return cls(tensors["gamma_shift"].item() if tensors else 0.0)

    def log_beta_ratio(self, gamma_s: Float[Tensor, "*b"], gamma_t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        r"""Returns :math:`\ln(\beta / \tilde\beta) = \ln(\sigma_t^2 / \sigma_s^2)` in its units."""
        return logsigmoid(gamma_t + self.gamma_shift) - logsigmoid(gamma_s + self.gamma_shift)


class Forward(OfBeta):
    r"""The variance of the forward step, :math:`\sigma_{t|s}^2`: DDPM's beta."""

    name = "forward"

    def log_ratio(
        self, gamma_s: Float[Tensor, " b"], gamma_t: Float[Tensor, " b"], nu: Float[Tensor, "b *chw"] | None
    ) -> Float[Tensor, "..."]:
        r"""Returns :math:`\ln(\sigma_t^2 / \sigma_s^2)`: :math:`\sigma_{t|s}^2 \sigma_s^2 = \sigma_Q^2 \sigma_t^2`."""
        return self.log_beta_ratio(gamma_s, gamma_t)[:, None, None, None]


class LearnedRange(OfBeta):
    """A variance per pixel between beta tilde and beta of this very pair of levels, as the network interpolates."""

    name = "learned-range"
    needs_range = True

    def log_ratio(
        self, gamma_s: Float[Tensor, " b"], gamma_t: Float[Tensor, " b"], nu: Float[Tensor, "b *chw"] | None
    ) -> Float[Tensor, "..."]:
        r"""Returns :math:`\nu \ln(\sigma_t^2 / \sigma_s^2)`."""
        assert nu is not None, "only models with learned variances have this kernel"
        return nu.double() * self.log_beta_ratio(gamma_s, gamma_t)[:, None, None, None]

    def expected_kl(
        self, errors: ErrorStatistics, gamma_s: Float[Tensor, " s"], gamma_t: Float[Tensor, " s"]
    ) -> Float[Tensor, " s"]:
        """Returns the mean cost of steps from one level, from the histogram of nu."""
        assert errors.ranges is not None, "only models with learned variances have this kernel"
        return range_cost(errors.ranges, torch.expm1(gamma_t - gamma_s), self.log_beta_ratio(gamma_s, gamma_t))


@dataclass(frozen=True, eq=False)
class Analytic(ReverseKernel):
    r"""The best single variance: the error's expected square on top of :math:`\sigma_Q^2`.

    Attributes:
        mean_square: m, the mean of the squared error per dimension at gamma_t.
    """

    name = "analytic"

    mean_square: float

    def log_ratio(
        self, gamma_s: Float[Tensor, " b"], gamma_t: Float[Tensor, " b"], nu: Float[Tensor, "b *chw"] | None
    ) -> Float[Tensor, "..."]:
        r"""Returns :math:`\ln(1 + r\, m)`."""
        return torch.log1p(torch.expm1(gamma_t - gamma_s) * self.mean_square)[:, None, None, None]

    @classmethod
    def of_errors(cls, errors: ErrorStatistics) -> "Analytic":
        """Returns the kernel of steps down from a level."""
        return cls(errors.mean_square.item())

    def tensors(self) -> dict[str, Tensor]:
        """Returns the mean square."""
        return {"mean_squares": torch.tensor(self.mean_square, dtype=torch.float64)}

    @classmethod
    def of_tensors(
        cls, tensors: Mapping[str, Tensor], basis: Basis | None, image_shape: tuple[int, int, int]
    ) -> "Analytic":
        """Returns the kernel of one step."""
        return cls(tensors["mean_squares"].item())


@dataclass(frozen=True, eq=False)
class Spectral(ReverseKernel):
    r"""The best variance per coordinate of a fixed orthonormal basis.

    Attributes:
        basis: The basis, one for the whole chain.
        spectrum: C, the mean square of each coordinate of the error at gamma_t, shape (c, h, w).
    """

    name = "spectral"
    needs_many_images = True

    basis: Basis = field()  # pyright: ignore[reportIncompatibleVariableOverride]
    spectrum: Float[Tensor, "c h w"]

    def log_ratio(
        self, gamma_s: Float[Tensor, " b"], gamma_t: Float[Tensor, " b"], nu: Float[Tensor, "b *chw"] | None
    ) -> Float[Tensor, "..."]:
        r"""Returns :math:`\ln(1 + r\, C_k)`."""
        r = torch.expm1(gamma_t - gamma_s)[:, None, None, None]
        return torch.log1p(r * self.spectrum.to(r.device, torch.float64))

    @classmethod
    def of_errors(cls, errors: ErrorStatistics) -> "Spectral":
        """Returns the kernel of steps down from a level."""
        return cls(errors.basis, errors.spread_spectrum())

    def tensors(self) -> dict[str, Tensor]:
        """Returns the spectrum of one block, which all blocks share."""
        height, width = self.basis.block
        return {"spectra": self.spectrum[:, :height, :width]}

    @classmethod
    def of_tensors(
        cls, tensors: Mapping[str, Tensor], basis: Basis | None, image_shape: tuple[int, int, int]
    ) -> "Spectral":
        """Returns the kernel of one step."""
        assert basis is not None, "a spectral schedule has one"
        return cls(basis, basis.spread(tensors["spectra"], image_shape))

    def expected_kl(
        self, errors: ErrorStatistics, gamma_s: Float[Tensor, " s"], gamma_t: Float[Tensor, " s"]
    ) -> Float[Tensor, " s"]:
        r"""Returns :math:`\tfrac12 \sum_k \ln(1 + r\, C_k)`: one logarithm for eight factors, which do not overflow."""
        spectrum, r = errors.spectrum.flatten(), torch.expm1(gamma_t - gamma_s)[:, None]
        parts = torch.nn.functional.pad(spectrum, (0, -len(spectrum) % 8)).reshape(8, 1, -1)
        product = 1 + r * parts[0]
        for part in parts[1:]:
            product *= 1 + r * part
        sums = product.log().sum(1)
        return 0.5 * errors.n_dims / len(spectrum) * sums


KERNELS: dict[str, type[ReverseKernel]] = {
    kernel.name: kernel for kernel in (Posterior, Forward, LearnedRange, Analytic, Spectral)
}
FIXED_KERNELS: dict[str, ReverseKernel] = {kernel.name: kernel() for kernel in (Posterior, Forward, LearnedRange)}
"""Those that need no error table, so that a model can be trained with them."""
