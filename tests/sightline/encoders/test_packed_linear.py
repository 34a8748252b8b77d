"""Packed layers give what layers that are not packed give."""

import pytest
import torch
from torch import nn

from sightline.encoders.packed_linear import PackedLinear, pack_linear_layers


@pytest.mark.parametrize("rows", [1, 7, 224])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_packed_layer_is_equal_bit_for_bit(rows: int, has_bias: bool) -> None:
    torch.manual_seed(rows)
    linear = nn.Linear(48, 80, bias=has_bias).to(torch.bfloat16)
    features = torch.randn(2, rows, 48)
    with torch.inference_mode():
        packed = PackedLinear(linear)(features)
        assert packed.dtype is torch.bfloat16
        torch.testing.assert_close(packed, linear(features.to(torch.bfloat16)), rtol=0, atol=0)


def test_only_layers_in_bfloat16_are_packed() -> None:
    inner = nn.Sequential(nn.Linear(4, 4).to(torch.bfloat16), nn.GELU())
    network = nn.Sequential(nn.Linear(4, 4), inner)
    pack_linear_layers(network)
    assert type(network[0]) is nn.Linear
    assert [type(module) for module in inner] == [PackedLinear, nn.GELU]
