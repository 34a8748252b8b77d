"""Convolutions with the normalisation and the activation that follow them in one, for a network on the CPU that is no longer trained.

A batch normalisation whose statistics are fixed is a scale and an offset for each channel, which go into the convolution's own weights
and bias; the activation is applied by oneDNN while a block of the output is still in the cache. So each map is written once where it was
written three times. In float32 alone: folded weights that were rounded to bfloat16 again would be other weights.
"""

import itertools
import math
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sightline.encoders.device import has_onednn_operation

_ATTRIBUTE_BY_ACTIVATION: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.Identity: ("none", []),
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.SiLU: ("swish", []),
}
"""As oneDNN calls it, with its scalars."""

_IN_ORDER = frozenset({"ConvBnAct", "DepthwiseSeparableConv", "InvertedResidual", "EdgeResidual", "BasicBlock", "Bottleneck"})
"""Blocks of timm and torchvision, besides `nn.Sequential`, that run a convolution's next neighbour right after it."""


class FusedConvolution(nn.Module):
    """What a convolution, its batch normalisation and an activation give, in float32 on the CPU; it cannot be trained or saved."""

    def __init__(self, convolution: nn.Conv2d, normalisation: nn.BatchNorm2d, activation: nn.Module) -> None:
        super().__init__()
        folded = fuse_conv_bn_eval(convolution, normalisation)
        assert folded.bias is not None
        self._weight = folded.weight.detach().contiguous(memory_format=torch.channels_last)
        self._bias = folded.bias.detach()
        self._stride, self._dilation, self._kernel = _pair(folded.stride), _pair(folded.dilation), _pair(folded.kernel_size)
        self._pads_to_same = type(convolution).__name__ == "Conv2dSame"
        self._padding = [0, 0] if self._pads_to_same else _pair(folded.padding)
        self._groups = folded.groups
        self._attribute, self._scalars = _ATTRIBUTE_BY_ACTIVATION[type(activation)]

    def forward(self, maps: Tensor) -> Tensor:
        """(batch, in, height, width) -> (batch, out, height', width')."""
        if self._pads_to_same:
            maps = functional.pad(maps, self._same_padding(*maps.shape[2:]))
        convolved: Tensor = torch.ops.mkldnn._convolution_pointwise(
            maps,
            self._weight,
            self._bias,
            *(self._padding, self._stride, self._dilation, self._groups),
            *(self._attribute, self._scalars, ""),
        )
        return convolved

    def _same_padding(self, height: int, width: int) -> list[int]:
        """Left, right, top and bottom, as TensorFlow pads: what is odd goes to the right and to the bottom."""
        padding: list[int] = []
        for axis, side in ((1, width), (0, height)):
            stride, reach = self._stride[axis], (self._kernel[axis] - 1) * self._dilation[axis] + 1
            missing = max((math.ceil(side / stride) - 1) * stride + reach - side, 0)
            padding += [missing // 2, missing - missing // 2]
        return padding


def fuse_convolutions(network: nn.Module) -> None:
    """Replaces, in place, the convolutions of a network in evaluation mode on the CPU, where a normalisation is known to follow them.

    Those in other blocks, in other types, or with padding that is not zeros, stay as they are.
    """
    if not has_onednn_operation("_convolution_pointwise"):
        return
    for block in list(network.modules()):
        if isinstance(block, nn.Sequential) or type(block).__name__ in _IN_ORDER:
            _fuse_neighbours(block)


def _fuse_neighbours(block: nn.Module) -> None:
    names = [name for name, _ in block.named_children()]
    for name, after in itertools.pairwise(names):
        convolution, normalisation = block.get_submodule(name), block.get_submodule(after)
        if not (_is_plain(convolution) and isinstance(normalisation, nn.BatchNorm2d) and normalisation.running_mean is not None):
            continue
        activation = _own_activation(normalisation)
        is_known = type(activation) in _ATTRIBUTE_BY_ACTIVATION
        setattr(block, name, FusedConvolution(convolution, normalisation, activation if is_known else nn.Identity()))
        setattr(block, after, nn.Identity() if is_known else activation)


def _is_plain(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """`Conv2dSame` is timm's, which pads as TensorFlow does."""
    return (
        isinstance(module, nn.Conv2d)
        and (type(module) is nn.Conv2d or type(module).__name__ == "Conv2dSame")
        and module.weight.dtype is torch.float32
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def _own_activation(normalisation: nn.BatchNorm2d) -> nn.Module:
    """timm's `BatchNormAct2d` ends in an activation, and may drop before it, which does nothing in evaluation mode."""
    return getattr(normalisation, "act", None) or nn.Identity()


def _pair(values: Any) -> list[int]:
    first, second = values
    return [int(first), int(second)]
