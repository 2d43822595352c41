r"""A model seen under another specification of its latents' scale: variance exploding, sub-VP.

The latents of two specifications with the same SNR are the same up to a factor, :math:`z' = z\, \alpha' / \alpha`. What
a denoiser says of one it says of the other, so that every estimate of the bound and every sample agree (eq. 18 and
section 5 of the paper; appendix G). The model's code stays variance preserving.

References:
    Variational Diffusion Models (Kingma et al., 2021). https://arxiv.org/abs/2107.00630
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from nelbo.diffusion.gaussian import VP, Specification, denoised, over_image, posterior, rescaled
from nelbo.models.interface import View


@dataclass(frozen=True)
class Respecified(View):
    """A model whose latents are scaled as a specification says; the bound takes it as any other model.

    Attributes:
        model: A variance-preserving model.
        specification: How the latents are scaled.
    """

    specification: Specification

    def denoise(self, z: Float[Tensor, "b *chw"], gamma: Float[Tensor, " b"]) -> Float[Tensor, "b *chw"]:
        """Returns the noise expected in each latent."""
        return self.model.denoise(rescaled(z, gamma, self.specification, VP), gamma)

    def denoise_with_range(
        self, z: Float[Tensor, "b *chw"], gamma: Float[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b *chw"], Float[Tensor, "b *chw"] | None]:
        """Returns the noise expected in each latent and, of a model with learned variances, where they lie."""
        return self.model.denoise_with_range(rescaled(z, gamma, self.specification, VP), gamma)

    def ancestral_step(
        self,
        z_t: Float[Tensor, "b *chw"],
        gamma_s: Float[Tensor, " b"],
        gamma_t: Float[Tensor, " b"],
        eps: Float[Tensor, "b *chw"],
    ) -> Float[Tensor, "b *chw"]:
        r"""Returns :math:`z_s \sim q(z_s \mid z_t, x = \hat x)` (eq. 7), with s < t.

        Args:
            z_t: The latent at the noisier end.
            gamma_s: Negative log-SNR at the cleaner end.
            gamma_t: Negative log-SNR at the noisier end.
            eps: The step's standard normal noise.
        """
        x_hat = denoised(z_t, self.denoise(z_t, gamma_t), gamma_t, self.specification)
        mean, std = posterior(z_t, x_hat, gamma_s, gamma_t, self.specification)
        return mean + over_image(std, mean) * eps
