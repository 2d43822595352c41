r"""Group norm with what follows it, a modulation and SiLU, in one pass where that pays.

.. math:: y = \mathrm{silu}(a \odot x + d), \qquad
          a = \frac{w (1 + s)}{\sqrt{v + \varepsilon}}, \qquad d = b (1 + s) + t - m a

with gain w, offset b and modulation s, t of each channel, and mean m and variance v of its group in the image.

On a CPU convolutions in bfloat16 are up to twice as fast channels last, but PyTorch's group norm in that order is up to
thirty times slower (docs/log.md). There compiled loops read and write bfloat16 and compute in float32 between; any
other input goes through PyTorch's own norm.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu

from nelbo.runtime.threads import share

Modulation = tuple[Float[Tensor, "b c"], Float[Tensor, "b c"]]


class GroupNorm(nn.GroupNorm):
    """A group norm that takes the modulation and the SiLU after it along."""

    def forward(
        self, input: Float[Tensor, "b c *hw"], modulation: Modulation | None = None, activate: bool = False
    ) -> Float[Tensor, "b c *hw"]:
        """Returns the norm of the features, scaled and shifted, and through SiLU if asked.

        Args:
            input: Features.
            modulation: The scale s and the shift t of each channel of each image.
            activate: Whether SiLU follows.
        """
        if _is_for_loops(input):
            return self._by_loops(input, modulation, activate)
        h = super().forward(input)
        if modulation is not None:
            scale, shift = (part[:, :, None, None] for part in modulation)
            h = h * (1 + scale) + shift
        return silu(h) if activate else h

    def _by_loops(self, x: Tensor, modulation: Modulation | None, activate: bool) -> Tensor:
        gain, offset = self.weight.expand(len(x), -1), self.bias.expand(len(x), -1)
        if modulation is not None:
            scale, shift = (part.float() for part in modulation)
            gain, offset = gain * (1 + scale), offset * (1 + scale) + shift
        return _Loops.apply(x, gain.contiguous(), offset.contiguous(), self.num_groups, self.eps, activate)


class _Loops(torch.autograd.Function):
    """The norm of each group times a gain plus an offset of each channel of each image, then SiLU."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Float[Tensor, "b c h w"],
        gain: Float[Tensor, "b c"],
        offset: Float[Tensor, "b c"],
        n_groups: int,
        eps: float,
        activate: bool,
    ) -> Float[Tensor, "b c h w"]:
        from nelbo.nets.norm_loops import norm_into

        y, (mean, rate) = torch.empty_like(x), gain.new_empty(2, len(x), n_groups)
        inputs = (_rows(x), gain.numpy(), offset.numpy(), np.float32(eps), activate)
        outputs = (_rows(y), mean.numpy(), rate.numpy())
        share(len(x), lambda start, stop: norm_into(*inputs, *outputs, start, stop))
        ctx.save_for_backward(x, gain, offset, mean, rate)
        ctx.activate = activate
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,  # noqa: ANN401
        grad: Float[Tensor, "b c h w"],
    ) -> tuple[Tensor | None, ...]:
        from nelbo.nets.norm_loops import gradient_into

        x, gain, offset, mean, rate = ctx.saved_tensors
        of_x, of_gain, of_offset = torch.empty_like(x), torch.empty_like(gain), torch.empty_like(offset)
        grad = grad.contiguous(memory_format=torch.channels_last)
        inputs = (_rows(grad), _rows(x), gain.numpy(), offset.numpy(), ctx.activate, mean.numpy(), rate.numpy())
        outputs = (_rows(of_x), of_gain.numpy(), of_offset.numpy())
        share(len(x), lambda start, stop: gradient_into(*inputs, *outputs, start, stop))
        return of_x, of_gain, of_offset, None, None, None


def _is_for_loops(x: Tensor) -> bool:
    is_last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return is_last and x.device.type == "cpu" and x.dtype == torch.bfloat16 and not torch.compiler.is_compiling()


def _rows(x: Float[Tensor, "b c h w"]) -> np.ndarray:
    """Returns the features of each position as 16-bit integers, the same memory."""
    return x.detach().permute(0, 2, 3, 1).flatten(1, 2).view(torch.uint16).numpy()
