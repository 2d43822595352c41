"""The variational diffusion model: a network, a noise schedule and a decoder, built from a configuration."""

from jaxtyping import Float, Int64
from torch import Tensor

from nelbo.diffusion.decoder import DECODERS
from nelbo.diffusion.prediction import to_noise
from nelbo.diffusion.reverse import FIXED_KERNELS
from nelbo.errors import NelboError
from nelbo.models.config import ModelConfig
from nelbo.models.interface import DiffusionModel


class VDM(DiffusionModel):
    """A variational diffusion model built from its configuration.

    Args:
        config: What it is made of.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.image_shape = config.image_shape
        self.noise_schedule = config.noise_schedule.build()
        self.n_classes = config.n_classes
        self.net = config.build_net()
        self.decoder = DECODERS[config.decoder]
        self.reverse = FIXED_KERNELS[config.reverse]

    def denoise(
        self,
        z: Float[Tensor, "b c h w"],
        gamma: Float[Tensor, " b"],
        labels: Int64[Tensor, " b"] | None = None,
        codes: Int64[Tensor, "b k"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        r"""Returns :math:`\hat\epsilon(z; \gamma)`, the noise expected in each latent, in float32.

        What the network's output stands for says :mod:`nelbo.diffusion.prediction`.

        Args:
            z: Latents.
            gamma: Negative log-SNR of each.
            labels: The class of each image, for a class-conditional model.
            codes: How each image was transformed; None for images as they are.

        Raises:
            NelboError: If the model has classes and there are no labels.
        """
        if self.n_classes and labels is None:
            raise NelboError(f"the model has {self.n_classes} classes: every image needs a label")
        output = self.net(z, gamma.float(), labels, codes)
        return to_noise(self.config.prediction, output, z, gamma)

    def predict(
        self,
        z: Float[Tensor, "b c h w"],
        gamma: Float[Tensor, " b"],
        labels: Int64[Tensor, " b"] | None = None,
        codes: Int64[Tensor, "b k"] | None = None,
    ) -> tuple[Float[Tensor, "b c h w"], None]:
        r"""Returns :math:`\hat\epsilon(z; \gamma)`, see :meth:`denoise`; its variances are not learned."""
        return self.denoise(z, gamma, labels, codes), None
