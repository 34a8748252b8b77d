"""Patches: what the image encoder knew of each part of a picture, as the second look reads it. 8-bit integers with a scale each.

A patch is a vector in the fusion encoder's width. Kept in int8, symmetric around 0, with one fp16 scale a patch, 49 patches of 256 take
12.6 kB a picture (EDJE, Yuan et al. 2026, needs 49 kB), so that a query reads what it reranks from disk and never a picture. Rows of the
same width that tell of the picture as a whole may follow them, four of which take 1 kB more.

Beside them lies the picture's *prior*, what the fusion encoder takes off of its match with every text. It depends on the patches and the
fusion encoder alone, and computing it is nearly all of what reading a picture would cost a query.
"""

from collections.abc import Callable, Sequence
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

PriorsOf = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""(pictures, num_patches, patch_dim), dequantised -> (pictures,)."""


@dataclass(frozen=True, slots=True)
class PatchFormat:
    """Whose patches they are and how they lie. Raises `InvalidInput` for more than `MAX_BYTES_PER_IMAGE`."""

    fusion_fingerprint: str  # of the fusion encoder that made them and can read them
    grid_height: int
    grid_width: int
    patch_dim: int
    num_whole_rows: int = 0  # that follow the patches and tell of the picture as a whole

    def __post_init__(self) -> None:
        if min(self.grid_height, self.grid_width, self.patch_dim) < 1 or self.num_whole_rows < 0:
            raise InvalidInput(f"patches on a grid of {self.grid_height} x {self.grid_width}, {self.patch_dim} wide: there are none")
        if self.bytes_per_image > MAX_BYTES_PER_IMAGE:
            raise InvalidInput(
                f"{self.grid_height} x {self.grid_width} patches of {self.patch_dim} take {self.bytes_per_image:,} bytes a picture; "
                f"at most {MAX_BYTES_PER_IMAGE:,} are stored: a coarser grid or a narrower fusion encoder"
            )

    @property
    def num_patches(self) -> int:
        """Rows of a picture, those of the grid first."""
        return self.grid_height * self.grid_width + self.num_whole_rows

    @property
    def bytes_per_image(self) -> int:
        """Patches, their scales and the prior."""
        return self.num_patches * (self.patch_dim + 2) + 4


@dataclass(frozen=True, slots=True, eq=False)
class PatchBatch:
    """Patches of some pictures, row by row of the grid. Raises `InvalidInput` for arrays that are not of the format."""

    format: PatchFormat
    values: NDArray[np.int8]  # (pictures, num_patches, patch_dim)
    scales: NDArray[np.float16]  # (pictures, num_patches): value x scale is what was quantised
    priors: NDArray[np.float32]  # (pictures,), of the dequantised patches; NaN where they are not known

    def __post_init__(self) -> None:
        expected = (len(self.values), self.format.num_patches, self.format.patch_dim)
        if self.values.shape != expected or self.scales.shape != expected[:2]:
            shapes = f"patches of shape {self.values.shape} and scales of {self.scales.shape}"
            raise InvalidInput(f"{shapes}; expected {expected} and {expected[:2]}")
        if self.values.dtype != np.int8 or self.scales.dtype != np.float16:
            raise InvalidInput(f"patches of {self.values.dtype} with scales of {self.scales.dtype}; expected int8 and float16")
        if self.priors.shape != expected[:1] or self.priors.dtype != np.float32:
            found = f"priors of shape {self.priors.shape} and {self.priors.dtype}"
            raise InvalidInput(f"{found}; expected {expected[:1]} and float32")

    def __len__(self) -> int:
        return len(self.values)

    def dequantised(self) -> NDArray[np.float32]:
        """(pictures, num_patches, patch_dim), each off by half a scale at the most."""
        return dequantise(self.values, self.scales)

    def at(self, places: NDArray[np.int64] | NDArray[np.bool_]) -> "PatchBatch":
        """Those of the pictures at these places, in their order."""
        return PatchBatch(self.format, self.values[places], self.scales[places], self.priors[places])

    def put(self, places: NDArray[np.int64], batch: "PatchBatch") -> None:
        """Overwrite the pictures at these places; for who fills an `empty_batch`."""
        self.values[places], self.scales[places], self.priors[places] = batch.values, batch.scales, batch.priors


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
    return AddedPatches(np.concatenate([part.positions for part in parts]), joined_batches([part.batch for part in parts]))


def joined_batches(batches: Sequence[PatchBatch]) -> PatchBatch:
    """All of them, at least one and of one format, as one."""
    values, scales, priors = (
        np.concatenate(parts) for parts in zip(*((each.values, each.scales, each.priors) for each in batches), strict=True)
    )
    return PatchBatch(batches[0].format, values, scales, priors)


def empty_batch(patch_format: PatchFormat, num_pictures: int) -> PatchBatch:
    """To be filled: patches of zeros, and priors that are not known."""
    values = np.zeros((num_pictures, patch_format.num_patches, patch_format.patch_dim), dtype=np.int8)
    scales = np.zeros((num_pictures, patch_format.num_patches), dtype=np.float16)
    return PatchBatch(patch_format, values, scales, np.full(num_pictures, np.nan, dtype=np.float32))


def quantised_batch(patches: NDArray[np.float32], patch_format: PatchFormat, *, priors_of: PriorsOf | None = None) -> PatchBatch:
    """(pictures, num_patches, patch_dim) quantised, see `quantise`, and the priors of what that becomes, unknown without `priors_of`."""
    values, scales = quantise(patches)
    priors = np.full(len(values), np.nan, dtype=np.float32) if priors_of is None else priors_of(dequantise(values, scales))
    return PatchBatch(patch_format, values, scales, priors)


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
