"""Linear layers whose weights lie in memory as the processor's kernels read them.

A query of words is one text of some ten tokens: so few rows that a product spends half of its time on bringing the weights into the order
that oneDNN wants, at every call. Packed they are in that order for good. The numbers that come out are the same: bit for bit in bfloat16,
up to the order of sums in float32.
"""

import torch
from torch import Tensor, nn

from sightline.encoders.device import has_onednn_operation


class PackedLinear(nn.Module):
    """What a linear layer computes on the CPU, from weights that were packed once; it cannot be trained or saved.

    In the type of its weights, for which the processor has to have instructions.
    """

    def __init__(self, linear: nn.Linear, *, activation: str = "none") -> None:
        """With `activation` "gelu", what GELU makes of the layer's output before that is rounded."""
        super().__init__()
        self._activation = activation
        self._dtype = linear.weight.dtype
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        bias: Tensor | None = linear.bias  # torch's own annotation knows no layer without one
        self._bias = None if bias is None else bias.detach()

    def forward(self, features: Tensor) -> Tensor:
        """(..., in) -> (..., out), in its own type whatever comes in, as a linear layer does under autocast."""
        given = features.to(self._dtype)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(given, self._packed, self._bias, self._activation, [], "none")
        return product


def can_pack() -> bool:
    """Whether this build of torch can."""
    return has_onednn_operation("_linear_pointwise")


def pack_linear_layers(network: nn.Module, dtype: torch.dtype) -> None:
    """Replaces the linear layers in that type of a network on the CPU, where this build of torch can pack them."""
    if not can_pack():
        return
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear and child.weight.dtype is dtype:
                setattr(module, name, PackedLinear(child))
