"""Fused convolutions give what the network gives that they were made of."""

import copy

import pytest
import torch
from torch import nn

from sightline.encoders.fused_convolution import FusedConvolution, fuse_convolutions
from sightline.encoders.image_backbone import ImageBackbone, ImageBackboneConfig, build_image_network, stages_of


def network_of(library: str, name: str) -> ImageBackbone:
    """Seeded, with statistics that differ from channel to channel: those of a new network change nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = ImageBackboneConfig("timm" if library == "timm" else "torchvision", name, 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        network = ImageBackbone(stages_of(build_image_network(config))).eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.1)
    return network.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("side", [64, 75])
@pytest.mark.parametrize(
    ("library", "name", "share_fused"),
    [
        ("timm", "tf_efficientnet_lite0", 1.0),
        ("timm", "efficientnet_b0", 1.0),
        ("timm", "resnet18", 1.0),
        ("timm", "test_resnet", 0.9),
        ("timm", "test_efficientnet", 1.0),
        ("torchvision", "resnet18", 1.0),
        ("torchvision", "mobilenet_v3_small", 1.0),
        ("torchvision", "efficientnet_b0", 1.0),
        ("timm", "resnetv2_50", 0.0),
        ("torchvision", "densenet121", 0.0),
        ("timm", "test_convnext", 0.0),
    ],
)
def test_the_maps_of_every_stage_are_those_of_the_network(library: str, name: str, share_fused: float, side: int) -> None:
    plain = network_of(library, name)
    fused = copy.deepcopy(plain)
    fuse_convolutions(fused)
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side))
    with torch.inference_mode():
        for found, expected in zip(fused.maps_of_stages(pixels), plain.maps_of_stages(pixels), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=3e-5 * float(expected.abs().max()))
    num_norms = sum(isinstance(module, nn.BatchNorm2d) for module in plain.modules())
    num_fused = sum(isinstance(module, FusedConvolution) for module in fused.modules())
    assert num_fused >= share_fused * num_norms
    if share_fused == 1.0:
        assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(), nn.SiLU(), nn.Identity()])
@pytest.mark.parametrize("groups", [1, 8])
def test_one_convolution(activation: nn.Module, groups: int) -> None:
    torch.manual_seed(groups)
    convolution = nn.Conv2d(8, 16, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=groups).eval()
    normalisation = nn.BatchNorm2d(16)
    normalisation(torch.randn(9, 16, 4, 4) * 20 + 3)
    block = nn.Sequential(convolution, normalisation.eval(), activation)
    maps = torch.randn(2, 8, 11, 13)
    with torch.inference_mode():
        expected = block(maps)
        torch.testing.assert_close(FusedConvolution(convolution, normalisation, activation)(maps), expected, rtol=1e-5, atol=1e-5)
        assert activation.__class__ is nn.Identity or (expected != block[:2](maps)).any()


def test_what_is_not_known_to_follow_each_other_stays() -> None:
    class Elsewhere(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.normalisation = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    unknown = Elsewhere().eval()
    reflecting = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(3)).eval()
    half = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval().half()
    without_statistics = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)).eval()
    for network in (unknown, reflecting, half, without_statistics):
        fuse_convolutions(network)
        assert sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) == 1
