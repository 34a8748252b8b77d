"""A second image backbone that only the second look reads: it sees what the first saw, and errs elsewhere.

Two backbones that were trained apart disagree about the pictures that either gets wrong, which is why ensembles of image-text networks
find more than any member (VSE++ and after; here, hit rate@1 of captions rose by as much as all other readings of the second look
together). A first stage cannot afford a second network at a query; the second look can, because it runs when a picture is indexed and
leaves a kilobyte (see `second_space`). It is read as a whole: the means of its later stages' maps and the maxima of the last, side by
side.
"""

import copy
import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from sightline.encoders.checkpoint import packed_rows, replacing, unpacked_rows
from sightline.encoders.device import autocast_dtype
from sightline.encoders.fused_convolution import fuse_convolutions
from sightline.encoders.image_backbone import ImageBackbone, ImageBackboneConfig, build_image_backbone
from sightline.errors import InvalidCheckpoint

NUM_STAGES_READ = 4
"""The last ones: the first know edges and colours, which the first backbone's do as well."""

_IMAGES_AT_ONCE = 32
_WORTH_A_SCALE = 32  # numbers in a row


class SecondBackbone(nn.Module):
    """A frozen image backbone and how pixels are scaled for it."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: ImageBackboneConfig, backbone: ImageBackbone) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.register_buffer("pixel_mean", torch.tensor(config.pixel_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(config.pixel_std).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 (batch, side, side, 3) of any side -> features (batch, feature_dim)."""
        scaled = pixels.permute(0, 3, 1, 2).float() / 255  # (batch, 3, side, side), channels last in memory
        if scaled.shape[-1] != self.config.image_side:
            side = (self.config.image_side, self.config.image_side)
            scaled = functional.interpolate(scaled, side, mode="bilinear", antialias=True)
        maps = list(self.backbone.maps_of_stages((scaled - self.pixel_mean) / self.pixel_std))
        means = [each.mean(dim=(2, 3), dtype=torch.float32) for each in maps[-NUM_STAGES_READ:]]
        return torch.cat([*means, maps[-1].float().amax(dim=(2, 3))], dim=1)  # (batch, feature_dim)

    def features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What `forward` gives, block by block on the module's device: (batch, side, side, 3) -> (batch, feature_dim)."""
        device = self.pixel_mean.device
        dtype = autocast_dtype(device)
        found = []
        with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype is not None):
            for start in range(0, len(pixels), _IMAGES_AT_ONCE):
                block = np.require(pixels[start : start + _IMAGES_AT_ONCE], requirements=["C", "W"])
                found.append(self(torch.from_numpy(block).to(device)).cpu().numpy())
        return np.concatenate(found)

    def digest(self) -> str:
        """Hex digest of network and weights."""
        digest = hashlib.sha256(repr(self.config).encode())
        for tensor in self.backbone.state_dict().values():
            digest.update(tensor.float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def placed(self, device: torch.device) -> "SecondBackbone":
        """Itself on that device, in evaluation mode and in the memory format that convolutions are fastest in."""
        self.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self.eval()

    def reading_on(self, device: torch.device) -> "SecondBackbone":
        """A copy on that device that reads as fast as it can there, and that cannot be trained or saved."""
        copied = copy.deepcopy(self).placed(device)
        if device.type == "cpu" and autocast_dtype(device) is None:
            fuse_convolutions(copied)
        return copied


def save_second_backbone(path: Path, second: SecondBackbone) -> None:
    """Convolutions of one pixel, which are most of the weights, in 8 bits with a scale a row; the others in fp16."""
    with replacing(path) as temporary:
        save_file(packed_rows(second.backbone.state_dict(), is_in_eight_bits=_is_pointwise), temporary)


def load_second_backbone(path: Path, config: ImageBackboneConfig) -> SecondBackbone:
    """On the CPU. Raises `InvalidCheckpoint` for a file that cannot be read or holds other weights, `EncoderUnavailable`."""
    backbone = build_image_backbone(config)
    try:
        backbone.load_state_dict(unpacked_rows(load_file(path)), strict=True)
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise InvalidCheckpoint(f"{path}: no weights of {config.name} can be read from it: {error}") from error
    return SecondBackbone(config, backbone).placed(torch.device("cpu"))


def _is_pointwise(_: str, tensor: Tensor) -> bool:
    return tensor.ndim == 4 and tensor.shape[2:] == (1, 1) and tensor.shape[1] >= _WORTH_A_SCALE


def feature_dim_of(second: SecondBackbone) -> int:
    """Found by running one black picture."""
    side = second.config.image_side
    return int(second.features(np.zeros((1, side, side, 3), dtype=np.uint8)).shape[1])
