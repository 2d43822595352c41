"""The interface that every model offers, and its one home-grown implementation.

Evaluation, time schedules and sampling see a model only as a :class:`DiffusionModel`; :class:`VDM` is one, which the
codec takes as well, a pre-trained DDPM another.
"""

from abc import ABC, abstractmethod
from itertools import chain
from numbers import Integral

import torch
from jaxtyping import Float, Int64, Integer, UInt8
from torch import Tensor, nn

from nelbo.diffusion import bound
from nelbo.diffusion.bound import Bound, BoundedModel
from nelbo.diffusion.decoder import Decoder
from nelbo.diffusion.draws import evaluation_draws, to_device
from nelbo.diffusion.gaussian_entry import ImageMoments
from nelbo.diffusion.noise_schedule import NoiseSchedule
from nelbo.diffusion.reverse import ReverseKernel
from nelbo.errors import NelboError

MAX_STEPS = 10**9  # With more, steps are so short that rounding shows in the bound.


class DiffusionModel(nn.Module, ABC):
    r"""A diffusion model seen through its bound.

    Attributes:
        image_shape: Channels, height and width of its images.
        noise_schedule: Gamma as a function of time.
        gammas: The increasing float64 gammas of a discrete-time model, of its timesteps 0, 1, ...; the clean image is
            none of them. None where the denoiser takes any gamma.
        decoder: p(x | z_0).
        reverse: p(z_s | z_t), the kernel it was trained with.
        exit_std: Of a model whose last step is a network evaluation, the standard deviation of
            :math:`p(x \mid z_t)`, a discretised Gaussian around :math:`\hat x(z_t)`, by the convention of Ho et al.
            (2020): :math:`\sqrt{\tilde\beta_2}`, for x in [-1, 1]. None where the decoder reads the latent itself.
        exit_std_large: Of a model with learned variances, :math:`\sqrt{\beta_1}`: its network's :math:`\nu` puts each
            pixel's standard deviation between the two. None of any other.
        n_classes: Classes of the images of a class-conditional model, whose bound is that of p(x | class); else 0.
        is_foreign: Whether it was trained by another program, perhaps in another arithmetic.
        image_moments: The mean and the spectrum of its images, which samplers start with; None where they are unknown.
        identity: What tells it from models of the same weights, see :func:`nelbo.models.fingerprint.fingerprint`.
    """

    image_shape: tuple[int, int, int]
    noise_schedule: NoiseSchedule
    gammas: Float[Tensor, " n"] | None = None
    decoder: Decoder
    reverse: ReverseKernel
    exit_std: float | None = None
    exit_std_large: float | None = None
    n_classes: int = 0
    is_foreign: bool = False
    image_moments: ImageMoments | None = None
    identity: str = ""

    @abstractmethod
    def denoise(
        self, z: Float[Tensor, "b c h w"], gamma: Float[Tensor, " b"], labels: Int64[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        r"""Returns :math:`\hat\epsilon(z; \gamma)`, the noise expected in each latent, in float32.

        Args:
            z: Latents.
            gamma: Negative log-SNR of each.
            labels: The class of each image, for a class-conditional model.
        """

    def predict(
        self, z: Float[Tensor, "b *chw"], gamma: Float[Tensor, " b"], labels: Int64[Tensor, " b"] | None = None
    ) -> tuple[Float[Tensor, "b *chw"], Float[Tensor, "b *chw"] | None]:
        r"""Returns :math:`\hat\epsilon(z; \gamma)` and, of a model with learned variances, :math:`\nu`.

        The second, about in [0, 1], interpolates each pixel's variance of any step s < t

        .. math:: \log \sigma_p^2 = \nu \log \sigma_{t|s}^2 + (1 - \nu) \log \sigma_Q^2,

        between :math:`\beta` and :math:`\tilde\beta` of the pair; None of a model without. Everything in this package
        calls the model here; a model without learned variances need only implement :meth:`denoise`.

        Args:
            z: Latents.
            gamma: Negative log-SNR of each.
            labels: The class of each image, for a class-conditional model.

        References:
            Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021), eq. 15.
            https://arxiv.org/abs/2102.09672
        """
        return self.denoise(z, gamma) if labels is None else self.denoise(z, gamma, labels), None

    def given(
        self, labels: Int64[Tensor, " b"] | None = None, codes: Int64[Tensor, "b k"] | None = None
    ) -> BoundedModel:
        """Returns the model conditioned on what is known of a batch of images.

        Args:
            labels: The class of each image, for a class-conditional model.
            codes: How each image was transformed, see :mod:`nelbo.models.augmentation`; None for images as they are.
        """
        known = (labels,) if codes is None else (labels, codes)
        return BoundedModel(
            noise_schedule=self.noise_schedule,
            gammas=self.gammas,
            decoder=self.decoder,
            reverse=self.reverse,
            exit_std=self.exit_std,
            exit_std_large=self.exit_std_large,
            predict=lambda z, gamma: self.predict(z, gamma, *known),
        )

    @property
    def device(self) -> torch.device:
        """Where the parameters and buffers live."""
        return next(chain(self.parameters(), self.buffers())).device

    @property
    def n_dims(self) -> int:
        """Dimensions of one image."""
        channels, height, width = self.image_shape
        return channels * height * width

    def check_images(self, images: Tensor) -> None:
        """Raises NelboError unless there are images, all 8-bit and of the model's shape."""
        if images.dtype != torch.uint8:
            raise NelboError(f"images must be uint8 with values 0..255, got {images.dtype}")
        if len(images) == 0:
            raise NelboError("there are no images")
        if tuple(images.shape[1:]) != tuple(self.image_shape):
            raise NelboError(
                f"the model takes images of shape {tuple(self.image_shape)} (channels, height, width), "
                f"got {tuple(images.shape[1:])}: resize or convert the images, or use another model"
            )

    def check_labels(self, labels: Tensor | None, n_images: int) -> None:
        """Raises NelboError unless there is one of the model's classes for each image, or the model has no classes."""
        if not self.n_classes:
            if labels is not None:
                raise NelboError("the model has no classes, so it takes no labels: leave them out")
            return
        if labels is None:
            raise NelboError(f"the model has {self.n_classes} classes: every image needs a label")
        is_integer = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
        if not is_integer or labels.shape != (n_images,):
            raise NelboError(
                f"labels must be integers of shape ({n_images},), got {labels.dtype} of shape {tuple(labels.shape)}"
            )
        if bool((labels < 0).any() | (labels >= self.n_classes).any()):
            raise NelboError(
                f"labels must be classes from 0 to {self.n_classes - 1} of the model, "
                f"got {int(labels.min())} to {int(labels.max())}"
            )

    @torch.no_grad()
    def bound(
        self,
        images: UInt8[Tensor, "b c h w"],
        n_steps: int | None = None,
        seed: int = 0,
        labels: Integer[Tensor, " b"] | None = None,
    ) -> Bound:
        """Returns an unbiased estimate of the bound of each image from one network evaluation an image.

        Args:
            images: 8-bit images, shape (b, c, h, w).
            n_steps: T of the T-step chain, or None for continuous time.
            seed: The estimate's randomness; image k of the batch uses the draws of image k.
            labels: The class of each image, for a class-conditional model.

        Raises:
            NelboError: If the images are not 8-bit, have another shape than the model's, lack labels that the model
                needs, or a setting is out of range.
        """
        self.check_images(images)
        self.check_labels(labels, len(images))
        check_n_steps(n_steps, self.gammas)
        check_seed(seed)
        self.eval()
        draws = evaluation_draws(range(len(images)), self.image_shape, seed)
        model = self.given(None if labels is None else labels.to(self.device, torch.int64))
        return bound.bound(model, images.to(self.device), to_device(draws, self.device), n_steps)


def check_seed(seed: int) -> None:
    """Raises NelboError if a seed is negative."""
    if seed < 0:
        raise NelboError(f"a seed is a number from 0 on, got {seed}")


def check_n_steps(n_steps: int | None, gammas: Float[Tensor, " n"] | None = None) -> None:
    """Raises NelboError unless the number of steps is None or from 1 to as many as a discrete-time model has levels."""
    if n_steps is not None and (isinstance(n_steps, bool) or not isinstance(n_steps, Integral)):
        raise NelboError(f"the number of steps is an integer, None for continuous time, or a schedule, got {n_steps!r}")
    if n_steps is not None and not 1 <= n_steps <= MAX_STEPS:
        raise NelboError(
            f"a chain has at least 1 step and at most {MAX_STEPS}, got {n_steps}; leave it out for continuous time"
        )
    if n_steps is not None and gammas is not None and n_steps > len(gammas):
        raise NelboError(f"the model has {len(gammas)} noise levels, so its chain has no {n_steps} steps")
