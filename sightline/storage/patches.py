"""Patches: what the image encoder knew of each part of a picture, as the second look reads it. 8-bit integers with a scale each.

A patch is a vector in the fusion encoder's width. Kept in int8, symmetric around 0, with one fp16 scale a patch, 49 patches of 256 take
12.6 kB a picture (EDJE, Yuan et al. 2026, needs 49 kB), so that a query reads what it reranks from disk and never a picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sightline.errors import InvalidInput
from sightline.types import ItemIds

MAX_BYTES_PER_IMAGE = 16_000
"""Of patches and scales: what is read for 64 candidates is 1 MB then, and a million pictures are 16 GB."""

_LARGEST_INT8 = 127
_LARGEST_COMPONENT = 8_000_000
"""127 times what fp16 holds, roundly; patches are unit vectors."""


@dataclass(frozen=True, slots=True)
class PatchFormat:
    """Whose patches they are and how they lie. Raises `InvalidInput` for more than `MAX_BYTES_PER_IMAGE`."""

    fusion_fingerprint: str  # of the fusion encoder that made them and can read them
    grid_height: int
    grid_width: int
    patch_dim: int

    def __post_init__(self) -> None:
        if min(self.grid_height, self.grid_width, self.patch_dim) < 1:
            raise InvalidInput(f"patches on a grid of {self.grid_height} x {self.grid_width}, {self.patch_dim} wide: there are none")
        if self.bytes_per_image > MAX_BYTES_PER_IMAGE:
            raise InvalidInput(
                f"{self.grid_height} x {self.grid_width} patches of {self.patch_dim} take {self.bytes_per_image:,} bytes a picture; "
                f"at most {MAX_BYTES_PER_IMAGE:,} are stored: a coarser grid or a narrower fusion encoder"
            )

    @property
    def num_patches(self) -> int:
        """Of a picture."""
        return self.grid_height * self.grid_width

    @property
    def bytes_per_image(self) -> int:
        """Patches and their scales."""
        return self.num_patches * (self.patch_dim + 2)


@dataclass(frozen=True, slots=True, eq=False)
class PatchBatch:
    """Patches of some pictures, row by row of the grid. Raises `InvalidInput` for arrays that are not of the format."""

    format: PatchFormat
    values: NDArray[np.int8]  # (pictures, num_patches, patch_dim)
    scales: NDArray[np.float16]  # (pictures, num_patches): value x scale is what was quantised

    def __post_init__(self) -> None:
        expected = (len(self.values), self.format.num_patches, self.format.patch_dim)
        if self.values.shape != expected or self.scales.shape != expected[:2]:
            shapes = f"patches of shape {self.values.shape} and scales of {self.scales.shape}"
            raise InvalidInput(f"{shapes}; expected {expected} and {expected[:2]}")
        if self.values.dtype != np.int8 or self.scales.dtype != np.float16:
            raise InvalidInput(f"patches of {self.values.dtype} with scales of {self.scales.dtype}; expected int8 and float16")

    def __len__(self) -> int:
        return len(self.values)

    def dequantised(self) -> NDArray[np.float32]:
        """(pictures, num_patches, patch_dim), each off by half a scale at the most."""
        return dequantise(self.values, self.scales)


@dataclass(frozen=True, slots=True, eq=False)
class AddedPatches:
    """Patches of some of the items that a commit adds."""

    positions: NDArray[np.int64]  # in `added`, each once
    batch: PatchBatch


@dataclass(frozen=True, slots=True, eq=False)
class ItemPatches:
    """Patches of items that are there already."""

    item_ids: ItemIds  # each once
    batch: PatchBatch


def joined_patches(parts: Sequence[AddedPatches]) -> AddedPatches | None:
    """All parts, which are of one format, as one; None for none."""
    if not parts:
        return None
    values = np.concatenate([part.batch.values for part in parts])
    scales = np.concatenate([part.batch.scales for part in parts])
    return AddedPatches(np.concatenate([part.positions for part in parts]), PatchBatch(parts[0].batch.format, values, scales))


def quantised_batch(patches: NDArray[np.float32], patch_format: PatchFormat) -> PatchBatch:
    """(pictures, num_patches, patch_dim) quantised, see `quantise`."""
    return PatchBatch(patch_format, *quantise(patches))


def quantise(patches: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """(..., patch_dim) -> int8 of that shape and scales of (...): symmetric, a scale a patch.

    A scale is rounded up to fp16, so that nothing is clipped and no component is off by more than half of it. Raises `InvalidInput` for
    what is no number, or too large for a scale in fp16.
    """
    largest = np.abs(patches).max(axis=-1)  # (...)
    if not np.all(largest <= _LARGEST_COMPONENT):  # a NaN fails the comparison as well
        raise InvalidInput("a patch holds a value that is not a number, or too large; the fusion encoder is damaged or overflows")
    scales = (largest / _LARGEST_INT8).astype(np.float16)
    is_short = scales.astype(np.float32) * _LARGEST_INT8 < largest
    scales = np.where(is_short, np.nextafter(scales, np.float16(np.inf)), scales)
    divisors = np.where(scales > 0, scales, 1).astype(np.float32)[..., np.newaxis]
    return np.rint(patches / divisors).astype(np.int8), scales


def dequantise(values: NDArray[np.int8], scales: NDArray[np.float16]) -> NDArray[np.float32]:
    """What `quantise` was given, up to half a scale: (..., patch_dim)."""
    return values.astype(np.float32) * scales.astype(np.float32)[..., np.newaxis]
