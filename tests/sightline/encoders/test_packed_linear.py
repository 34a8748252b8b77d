"""Packed layers give what layers that are not packed give."""

import pytest
import torch
from torch import nn

from sightline.encoders.packed_linear import PackedLinear, pack_linear_layers
from tests.sightline.encoders.native_dtypes import native_dtypes


@pytest.mark.parametrize("dtype", native_dtypes())
@pytest.mark.parametrize("rows", [1, 7, 224])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_packed_layer_gives_what_the_layer_gives(rows: int, has_bias: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(rows)
    linear = nn.Linear(48, 80, bias=has_bias).to(dtype)
    features = torch.randn(2, rows, 48)
    order_of_sums = 0 if dtype is torch.bfloat16 else 2e-6
    with torch.inference_mode():
        packed = PackedLinear(linear)(features)
        assert packed.dtype is dtype
        torch.testing.assert_close(packed, linear(features.to(dtype)), rtol=0, atol=order_of_sums)


@pytest.mark.parametrize("dtype", native_dtypes())
def test_only_layers_in_that_type_are_packed(dtype: torch.dtype) -> None:
    inner = nn.Sequential(nn.Linear(4, 4).to(dtype), nn.GELU())
    network = nn.Sequential(nn.Linear(4, 4).to(torch.float16), inner)
    pack_linear_layers(network, dtype)
    assert type(network[0]) is nn.Linear
    assert [type(module) for module in inner] == [PackedLinear, nn.GELU]
