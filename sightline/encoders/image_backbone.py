"""An image backbone of timm or torchvision as a row of stages, so that the first ones can be frozen and their maps kept.

Every backbone ends in a map (batch, width, height, width of the grid): the image tokens before pooling. Families whose stages are
known (EfficientNet, ResNet, MobileNet, ConvNeXt and what is built like them) are cut between stages; any other is one stage, frozen
wholly or not at all.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from sightline.errors import EncoderUnavailable


@dataclass(frozen=True, slots=True)
class ImageBackboneConfig:
    """Which network reads the pixels, and how they are scaled for it."""

    library: Literal["timm", "torchvision"]
    name: str
    image_side: int  # pixels; pictures are squashed to image_side x image_side
    pixel_mean: tuple[float, float, float]  # of values in [0, 1]
    pixel_std: tuple[float, float, float]


class ImageBackbone(nn.Module):
    """Stages that turn pixels into a map, one after the other."""

    def __init__(self, stages: list[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, maps: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """Runs stages [first, last) on what stage `first` reads; the last one gives (batch, width, grid_height, grid_width)."""
        for stage in list(self.stages)[first:last]:
            maps = stage(maps)
        return maps

    def maps_of_stages(self, maps: Tensor, first: int = 0) -> Iterator[Tensor]:
        """The map of every stage from `first` on, which reads `maps`; each (batch, width, height, width of the grid)."""
        for stage in list(self.stages)[first:]:
            maps = stage(maps)
            yield maps


class _WholeNetwork(nn.Module):
    """A backbone whose stages are not known, as a single stage; token sequences become a square map."""

    def __init__(self, network: nn.Module, forward_features: Callable[[Tensor], Tensor], num_prefix_tokens: int) -> None:
        super().__init__()
        self.network = network
        self._forward_features = forward_features
        self.num_prefix_tokens = num_prefix_tokens

    def forward(self, pixels: Tensor) -> Tensor:
        features = self._forward_features(pixels)
        if features.ndim == 4:
            channels_last = features.shape[1] == features.shape[2] and features.shape[3] > features.shape[1]
            return features.permute(0, 3, 1, 2) if channels_last else features
        patches = features[:, self.num_prefix_tokens :]  # (batch, tokens, width)
        batch, num_tokens, width = patches.shape
        side = round(num_tokens**0.5)
        if side * side != num_tokens:
            raise EncoderUnavailable(f"{type(self.network).__name__} gives {num_tokens} image tokens, which is no square grid")
        return patches.transpose(1, 2).reshape(batch, width, side, side)  # (batch, width, side, side)


def build_image_backbone(config: ImageBackboneConfig) -> ImageBackbone:
    """The network that `config` names with random weights, without its classifier; raises as `require_known` does."""
    return ImageBackbone(stages_of(build_image_network(config)))


def build_image_network(config: ImageBackboneConfig) -> nn.Module:
    """The library's own module with random weights and the library's names of its parameters; raises as `require_known` does."""
    require_known(config)
    network: nn.Module
    match config.library:
        case "timm":
            import timm

            network = timm.create_model(config.name, num_classes=0)
        case "torchvision":
            from torchvision import models

            network = models.get_model(config.name)
    return network


def require_known(config: ImageBackboneConfig) -> None:
    """Raises `EncoderUnavailable` for a name that the library does not know."""
    match config.library:
        case "timm":
            import timm

            if not timm.is_model(config.name):
                raise EncoderUnavailable(f"timm has no image backbone {config.name!r}; `timm.list_models()` names those it has")
        case "torchvision":
            from torchvision import models

            try:
                models.get_model_builder(config.name)
            except ValueError as error:
                raise EncoderUnavailable(f"torchvision has no image backbone {config.name!r}: {error}") from error


def stages_of(network: nn.Module) -> list[nn.Module]:
    """The network cut into its stages, which share its parameters; without its pooling and classifier."""
    if hasattr(network, "conv_stem") and hasattr(network, "blocks") and hasattr(network, "conv_head"):  # timm EfficientNet
        parts = dict(network.named_children())
        if "bn2" in parts:
            return [
                nn.Sequential(parts["conv_stem"], parts["bn1"]),
                *cast(nn.Sequential, parts["blocks"]),
                nn.Sequential(parts["conv_head"], parts["bn2"]),
            ]
    if hasattr(network, "layer4") and hasattr(network, "conv1"):  # ResNet and RegNet-like, of both libraries
        activation = getattr(network, "act1", None) or network.relu
        stem = nn.Sequential(network.conv1, network.bn1, activation, network.maxpool)  # type: ignore[arg-type]
        return [stem, network.layer1, network.layer2, network.layer3, network.layer4]  # type: ignore[list-item]
    if isinstance(getattr(network, "features", None), nn.Sequential):  # torchvision EfficientNet, MobileNet, ConvNeXt
        return [*cast(nn.Sequential, network.features), *_between_features_and_pooling(network)]
    if hasattr(network, "forward_features"):
        prefix = int(getattr(network, "num_prefix_tokens", 0))
        return [_WholeNetwork(network, cast(Callable[[Tensor], Tensor], network.forward_features), prefix)]
    raise EncoderUnavailable(f"{type(network).__name__} has no map before its pooling that Sightline knows how to read")


def _between_features_and_pooling(network: nn.Module) -> list[nn.Module]:
    """What some networks of torchvision apply to their `features` in `forward`."""
    if hasattr(network, "permute") and hasattr(network, "norm"):  # Swin, whose maps are channels-last
        return [nn.Sequential(network.norm, network.permute)]  # type: ignore[arg-type]
    return [nn.ReLU()] if type(network).__name__ == "DenseNet" else []


def map_widths(backbone: ImageBackbone, *, image_side: int) -> list[int]:
    """Width of every stage's map, found by running one black picture; the last is the image tokens'.

    A stage that gives no square map of rows and columns (a Swin transformer's before its last have the width at the end) has width 0.
    Raises `EncoderUnavailable` for a backbone that reads no pictures of that side.
    """
    was_training = backbone.training
    backbone.eval()
    try:
        with torch.inference_mode():
            maps = list(backbone.maps_of_stages(torch.zeros(1, 3, image_side, image_side)))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise EncoderUnavailable(f"the image backbone does not read pictures of {image_side} x {image_side} pixels: {error}") from error
    backbone.train(was_training)
    return [stage_map.shape[1] if stage_map.ndim == 4 and stage_map.shape[2] == stage_map.shape[3] else 0 for stage_map in maps]
