"""Augmented views of a picture: cheap enough to be computed once and kept, varied enough that shapes and framing don't matter.

The first view is the whole picture, the second its mirror image, every further one a random crop of 60 to 100 % of the area whose
aspect differs from the picture's by up to a third, mirrored half of the time. Search squashes whole pictures of any shape, so training
must see shapes squashed by more than one factor.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sightline.encoders.composed import squashed_pixels

MIN_AREA = 0.6
MAX_ASPECT_CHANGE = 4 / 3


@dataclass(frozen=True, slots=True)
class Crop:
    """A box in pixels of the picture, right and lower edge exclusive, and whether it is mirrored."""

    left: int
    upper: int
    right: int
    lower: int
    is_mirrored: bool

    def of(self, image: Image.Image) -> Image.Image:
        """That part of the picture."""
        box = (self.left, self.upper, self.right, self.lower)
        cropped = image if box == (0, 0, *image.size) else image.crop(box)
        return cropped.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.is_mirrored else cropped


def draw_crop(width: int, height: int, *, view: int, generator: np.random.Generator) -> Crop:
    """The box of view number `view` (0 is the whole picture, 1 its mirror image, others are random)."""
    if view < 2:
        return Crop(0, 0, width, height, is_mirrored=view == 1)
    area = generator.uniform(MIN_AREA, 1.0)
    aspect_change = math.exp(generator.uniform(-1, 1) * math.log(MAX_ASPECT_CHANGE))
    crop_width = min(width, max(1, round(width * math.sqrt(area * aspect_change))))
    crop_height = min(height, max(1, round(height * math.sqrt(area / aspect_change))))
    left = int(generator.integers(0, width - crop_width + 1))
    upper = int(generator.integers(0, height - crop_height + 1))
    return Crop(left, upper, left + crop_width, upper + crop_height, is_mirrored=bool(generator.random() < 0.5))


def view_pixels(image: Image.Image, crop: Crop, *, side: int) -> NDArray[np.uint8]:
    """The crop of an RGB picture, squashed: uint8 (side, side, 3)."""
    box = (crop.left, crop.upper, crop.right, crop.lower)
    pixels = squashed_pixels(image if box == (0, 0, *image.size) else image.crop(box), side=side)
    return np.ascontiguousarray(pixels[:, ::-1]) if crop.is_mirrored else pixels
