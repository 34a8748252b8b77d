"""Pictures as a Hugging Face model reads them: transformers' own image processor, cut in two.

Resizing and cropping run on the decoding threads and leave bytes, a quarter of what float32 pixels take between the threads and on the way
to a GPU; scaling and normalising run on the device, by the processor's own function, so that the pixels are the processor's to the bit.
"""

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sightline.encoders.tokens import SeenBox
from sightline.errors import InvalidCheckpoint

MAX_ASPECT_RATIO = 32
"""A centre crop of a longer picture is cut out before it is resized: resized whole, 20 x 30,000 pixels would take 200 MB."""


TorchvisionProcessor = Any
"""A `transformers.image_processing_backends.TorchvisionBackend`; its attributes come from a JSON file, so that mypy sees none of them."""


class ImageInput(Protocol):
    """What one family of image encoders reads."""

    @property
    def image_side(self) -> int:
        """Side in pixels that the network reads, or that of a square of as many pixels."""

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """An RGB picture as an array of one shape and dtype. Thread-safe."""

    def model_inputs(self, pixels: NDArray[Any], *, device: torch.device) -> dict[str, Tensor]:
        """(batch, *prepared shape) as the arguments of `get_image_features`."""

    def squares(self, pixels: NDArray[Any]) -> NDArray[np.uint8] | None:
        """Pixels (batch, side, side, 3) of what was prepared; None where pictures keep their shapes."""

    def grid(self, pixels: NDArray[Any]) -> NDArray[np.int64]:
        """(batch, 2): rows and columns of patches of each picture."""

    def seen_box(self, width: int, height: int) -> SeenBox:
        """The part of a picture of so many pixels that is not cropped away."""


class SquareImages:
    """Pictures of one square size: CLIP, SigLIP, SigLIP 2 of a fixed resolution and BLIP. Prepared: uint8 (3, side, side)."""

    def __init__(self, processor: TorchvisionProcessor, *, image_side: int, patch_side: int) -> None:
        self.image_side = image_side
        self._patch_side = patch_side
        self._processor = processor
        self._refuse_other_shapes()

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """Resized and cropped as the processor does, not yet scaled: uint8 (3, side, side)."""
        if self._processor.do_center_crop:
            image = without_far_ends(image)
        prepared = self._processor(image, do_rescale=False, do_normalize=False)["pixel_values"][0]
        return np.ascontiguousarray(prepared.numpy())

    def model_inputs(self, pixels: NDArray[Any], *, device: torch.device) -> dict[str, Tensor]:
        """uint8 (batch, 3, side, side) -> `pixel_values`, float32 of the same shape."""
        return {"pixel_values": normalised(torch.from_numpy(pixels).to(device), self._processor)}

    def grid(self, pixels: NDArray[Any]) -> NDArray[np.int64]:
        """(batch, 2), the same for every picture."""
        side = self.image_side // self._patch_side
        return np.full((len(pixels), 2), side, dtype=np.int64)

    def squares(self, pixels: NDArray[Any]) -> NDArray[np.uint8] | None:
        """The same pixels with the colours last: (batch, side, side, 3)."""
        return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))

    def seen_box(self, width: int, height: int) -> SeenBox:
        """A square in the middle where the processor crops one; it may be smaller than the picture's shorter side."""
        if not self._processor.do_center_crop:
            return SeenBox(0, 0, width, height)
        shorter = min(width, height)
        resized = self._processor.size.get("shortest_edge") or self.image_side
        side = shorter * min(1.0, self.image_side / resized)
        return SeenBox((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)

    def _refuse_other_shapes(self) -> None:
        """A processor without a crop, or for another size than the network's, is found before a run of hours begins."""
        expected = (3, self.image_side, self.image_side)
        prepared = self.prepare(Image.new("RGB", (2 * self.image_side, self.image_side)))
        if prepared.shape != expected or prepared.dtype != np.uint8:
            raise InvalidCheckpoint(f"the image processor gives {prepared.dtype} {prepared.shape} where the network reads uint8 {expected}")


class PatchedImages:
    """Pictures of any shape as a row of patches: SigLIP 2 NaFlex (Tschannen et al. 2025).

    Prepared: one record of `patches`, uint8 (max_num_patches, 3 * patch_side ** 2), zeros after the last one, and `grid`, uint16 (2,): rows
    and columns of patches. Records stack to an array of records, shape (batch,).
    """

    def __init__(self, processor: TorchvisionProcessor) -> None:
        self._processor = processor
        self._patch_side = int(processor.patch_size)
        self._max_num_patches = int(processor.max_num_patches)
        patch_dim = 3 * self._patch_side**2
        self.image_side = round(self._max_num_patches**0.5) * self._patch_side
        self._record = np.dtype([("patches", np.uint8, (self._max_num_patches, patch_dim)), ("grid", np.uint16, (2,))])

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """Resized to at most `max_num_patches` patches without changing its shape much, as the processor does: one record."""
        prepared = self._processor(image, do_rescale=False, do_normalize=False)
        record = np.empty((), dtype=self._record)
        record["patches"] = prepared["pixel_values"][0].numpy()
        record["grid"] = prepared["spatial_shapes"][0]
        return record

    def model_inputs(self, pixels: NDArray[Any], *, device: torch.device) -> dict[str, Tensor]:
        """Records (batch,) -> `pixel_values` float32 (batch, patches, patch_dim), their mask, and the grids."""
        grid = self.grid(pixels)
        is_patch = np.arange(self._max_num_patches) < grid.prod(axis=1, keepdims=True)  # (batch, patches)
        mask = torch.from_numpy(is_patch).to(device)
        patches = torch.from_numpy(np.ascontiguousarray(pixels["patches"])).to(device)
        batch, num_patches, patch_dim = patches.shape
        channels_first = patches.view(batch, num_patches, patch_dim // 3, 3).permute(0, 3, 1, 2)  # (batch, 3, patches, pixels)
        scaled = normalised(channels_first, self._processor)
        values = scaled.permute(0, 2, 3, 1).reshape(batch, num_patches, patch_dim)  # (batch, patches, patch_dim)
        return {
            "pixel_values": values * mask.unsqueeze(-1),  # the processor pads after it has normalised
            "pixel_attention_mask": mask.to(torch.int32),
            "spatial_shapes": torch.from_numpy(grid),  # stays on the CPU: the network reads it number by number
        }

    def grid(self, pixels: NDArray[Any]) -> NDArray[np.int64]:
        """(batch, 2), as each picture's shape asks."""
        return pixels["grid"].astype(np.int64)

    def squares(self, pixels: NDArray[Any]) -> NDArray[np.uint8] | None:  # noqa: ARG002  as the other kind has it
        """None: pictures keep their shapes."""
        return None

    def seen_box(self, width: int, height: int) -> SeenBox:
        """All of it."""
        return SeenBox(0, 0, width, height)


def normalised(pixels: Tensor, processor: TorchvisionProcessor) -> Tensor:
    """(batch, 3, height, width) bytes -> float32 of the same shape, scaled and normalised by the processor's own function."""
    scaled: Tensor = processor.rescale_and_normalize(
        pixels,
        do_rescale=processor.do_rescale,
        rescale_factor=processor.rescale_factor,
        do_normalize=processor.do_normalize,
        image_mean=processor.image_mean,
        image_std=processor.image_std,
    )
    return scaled.float()


def without_far_ends(image: Image.Image) -> Image.Image:
    """The middle of a picture longer than `MAX_ASPECT_RATIO` times its width, else the picture itself.

    What is cut away lies `MAX_ASPECT_RATIO / 2` widths from the crop, beyond the reach of any resampling filter; a centre crop of what is
    left is that of the whole picture to within a pixel.
    """
    width, height = image.size
    longest = MAX_ASPECT_RATIO * min(width, height)
    left, top = max(0, width - longest) // 2, max(0, height - longest) // 2
    if not left and not top:
        return image
    return image.crop((left, top, width - left, height - top))
