r"""Muon: momentum whose matrices are orthogonalised before they are applied, for the kernels inside a network.

A gradient's matrix is dominated by few directions; its nearest orthogonal matrix moves all directions alike. A
convolution's kernel is taken as the matrix of its output channels against everything else.

.. math:: B \leftarrow \mu B + G, \qquad
          W \leftarrow W - 0.2\, \eta \sqrt{\max(m, n)}\; \mathrm{orth}(G + \mu B)

The factor gives the update the root mean square that AdamW's usually has, so that one learning rate serves both.

References:
    Muon: An optimizer for hidden layers in neural networks (Jordan et al., 2024).
    https://kellerjordan.github.io/posts/muon/
    Muon is Scalable for LLM Training (Liu et al., 2025), eq. 4: the factor. https://arxiv.org/abs/2502.16982
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

_A, _B, _C = 3.4445, -4.7750, 2.0315  # The quintic of Jordan et al., steepest at zero.
_N_ITERATIONS = 5


def orthogonalized(matrices: Float[Tensor, "*k m n"]) -> Float[Tensor, "*k m n"]:
    r"""Returns matrices with the same singular vectors and singular values near 1, in about 0.7 to 1.2.

    Five Newton-Schulz iterations :math:`X \leftarrow (a + b X X^\top + c (X X^\top)^2) X`, carried out on the Gram
    matrix alone: it commutes with its polynomials, so their product is applied to X once, at the end. For the kernel
    of a 3x3 convolution that is less than half the work.
    """
    if matrices.shape[-2] > matrices.shape[-1]:
        return orthogonalized(matrices.mT).mT
    x = matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) + 1e-7)
    gram = x @ x.mT
    product = _factor(gram)
    factor = product
    for _ in range(_N_ITERATIONS - 1):
        gram = factor @ gram @ factor
        factor = _factor(gram)
        product = factor @ product
    return product @ x


def _factor(gram: Float[Tensor, "*k m m"]) -> Float[Tensor, "*k m m"]:
    """Returns a + b G + c G^2 of a Gram matrix G."""
    factor = torch.matmul(_C * gram, gram).add_(gram, alpha=_B)
    factor.diagonal(dim1=-2, dim2=-1).add_(_A)
    return factor


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum, for parameters of two or more dimensions.

    Args:
        parameters: What to move; dimensions past the first are flattened.
        lr: The learning rate, on AdamW's scale.
        momentum: The decay of the sum of gradients.
        weight_decay: Share of the weights taken away each step, times the learning rate.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Moves the parameters that have a gradient, those of one shape together."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    alike.setdefault(weight.flatten(1).shape, []).append(weight)
            for shape, weights in alike.items():
                updates = orthogonalized(torch.stack([self._direction(w, group["momentum"]) for w in weights]))
                rate = 0.2 * group["lr"] * max(shape) ** 0.5
                for weight, update in zip(weights, updates, strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.add_(update.view_as(weight), alpha=-rate)

    def _direction(self, weight: Tensor, momentum: float) -> Float[Tensor, "m n"]:
        """Returns a gradient plus the sum of those before it, as a matrix; adds it to the sum."""
        assert weight.grad is not None, "weights without a gradient do not move"
        total = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
        total.mul_(momentum).add_(weight.grad)
        return weight.grad.add(total, alpha=momentum).flatten(1)


class Joint:
    """Optimisers of different parameters that act as one.

    Args:
        parts: The optimisers.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = tuple(parts)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all parts; what is set in them holds."""
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for part in self.parts:
            part.zero_grad()

    def step(self) -> None:
        """Moves the parameters of all parts."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Returns the states of the parts."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up the states of the parts, the inverse of :meth:`state_dict`."""
        for part, own in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(own)


def inner_kernels(net: nn.Module) -> list[nn.Parameter]:
    """Returns the kernels of the convolutions between the first and the last, which face the image."""
    inner = [
        f"{name}.weight"
        for name, layer in net.named_modules()
        if isinstance(layer, nn.Conv2d) and name not in ("conv_in", "conv_out")
    ]
    return [weight for name, weight in net.named_parameters() if name in inner and weight.requires_grad]
