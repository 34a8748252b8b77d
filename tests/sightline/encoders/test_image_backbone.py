"""Backbones of both libraries, cut into stages that compute what the library's own network computes."""

import pytest
import torch
from torch import nn

from sightline.encoders.image_backbone import (
    ImageBackbone,
    ImageBackboneConfig,
    build_image_backbone,
    build_image_network,
    map_widths,
    stages_of,
)
from sightline.errors import EncoderUnavailable

PIXELS = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def _config(library: str, name: str, *, side: int = 64) -> ImageBackboneConfig:
    assert library in ("timm", "torchvision")
    return ImageBackboneConfig("timm" if library == "timm" else "torchvision", name, side, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def _network(library: str, name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_image_network(_config(library, name)).eval()


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "test_vit", "tf_efficientnet_lite0"])
def test_timms_features_are_reached_through_the_stages(name: str) -> None:
    network = _network("timm", name)
    pixels = PIXELS if name != "test_vit" else torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        maps = ImageBackbone(stages_of(network)).eval()(pixels)
        expected = network.forward_features(pixels)  # type: ignore[operator]
        pooled = network.forward_head(expected, pre_logits=True)  # type: ignore[operator]

    assert maps.ndim == 4
    if expected.ndim == 4:
        torch.testing.assert_close(maps, expected)
    else:
        torch.testing.assert_close(maps.flatten(2).transpose(1, 2), expected[:, -maps.shape[2] * maps.shape[3] :])
    if name in ("test_resnet", "test_efficientnet", "tf_efficientnet_lite0"):
        torch.testing.assert_close(maps.mean(dim=(2, 3)), pooled)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_b0", "densenet121", "swin_t"])
def test_torchvisions_classifier_reads_the_pooled_map(name: str) -> None:
    """The library's own answer, computed from our map: what lies between features and classifier is not left out."""
    network = _network("torchvision", name)
    classifier = next(getattr(network, part) for part in ("fc", "classifier", "head") if hasattr(network, part))
    with torch.inference_mode():
        pooled = ImageBackbone(stages_of(network)).eval()(PIXELS).mean(dim=(2, 3))
        torch.testing.assert_close(classifier(pooled), network(PIXELS), atol=1e-4, rtol=1e-4)


def test_stages_may_be_run_apart() -> None:
    backbone = ImageBackbone(stages_of(_network("timm", "test_resnet"))).eval()
    with torch.inference_mode():
        for cut in range(len(backbone.stages) + 1):
            torch.testing.assert_close(backbone(backbone(PIXELS, 0, cut), cut), backbone(PIXELS))


def test_the_widths_are_the_maps_and_the_mode_stays() -> None:
    backbone = build_image_backbone(_config("torchvision", "resnet18")).train()

    assert map_widths(backbone, image_side=64) == [64, 64, 128, 256, 512]
    assert backbone.training


def test_maps_with_their_width_last_have_none() -> None:
    widths = map_widths(build_image_backbone(_config("torchvision", "swin_t")), image_side=64)
    assert widths[-1] == 768
    assert set(widths[:-1]) == {0}


@pytest.mark.parametrize(
    ("library", "name", "reason"),
    [
        ("timm", "no_such_network", "timm has no image backbone 'no_such_network'"),
        ("torchvision", "no_such_network", "torchvision has no image backbone 'no_such_network'"),
        ("torchvision", "vit_b_32", "no map before its pooling"),
    ],
)
def test_a_backbone_that_cannot_be_had_says_so(library: str, name: str, reason: str) -> None:
    with pytest.raises(EncoderUnavailable, match=reason):
        build_image_backbone(_config(library, name, side=224))


def test_a_backbone_that_reads_another_side_says_so() -> None:
    with pytest.raises(EncoderUnavailable, match="does not read pictures of 50 x 50"):
        map_widths(build_image_backbone(_config("timm", "test_vit")), image_side=50)
