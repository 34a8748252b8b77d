"""Patches of a segment on disk: written record by record, mapped when the segment is opened.

    patches.i8         (records, num_patches, patch_dim) int8
    patch_scales.f16   (records, num_patches) float16, little-endian
    patch_priors.f32   (records,) float32, little-endian, NaN where one is not known; absent in segments older than priors
    patch_rows.i64     (records,) int64, the row of each record; absent where record n is row n, for every row

Not every row need have patches: a picture may have vanished since, and a segment merged of some with and some without keeps those that
there are. No ranking of the first stage needs these files, so damage to them breaks the second look alone, and costs no embedding.
"""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from sightline.storage.patches import PatchBatch, PatchFormat
from sightline.storage.sealed_files import DamagedFile, FileSeal, check_file, map_file, sync_and_close, write_synced

PATCHES, PATCH_SCALES, PATCH_PRIORS, PATCH_ROWS = "patches.i8", "patch_scales.f16", "patch_priors.f32", "patch_rows.i64"
PATCH_FILES = frozenset({PATCHES, PATCH_SCALES, PATCH_PRIORS, PATCH_ROWS})

RECORDS_AT_ONCE = 1024
"""Copied at a time: 13 MB of patches."""

_NO_RECORD = -1


class StoredPatches:
    """The patches of an open segment; some rows may have none."""

    def __init__(self, folder: Path, patch_format: PatchFormat, *, num_rows: int, seals: Mapping[str, FileSeal]) -> None:
        """Raises `DamagedFile` for a file of another size than was written, FileNotFoundError for one that is missing."""
        self.format = patch_format
        num_records = seals[PATCHES].size_bytes // (patch_format.num_patches * patch_format.patch_dim)
        shape = num_records, patch_format.num_patches, patch_format.patch_dim
        self.values: NDArray[np.int8] = map_file(folder / PATCHES, seals[PATCHES], dtype=np.dtype("i1"), shape=shape)
        self.scales: NDArray[np.float16] = map_file(folder / PATCH_SCALES, seals[PATCH_SCALES], dtype=np.dtype("<f2"), shape=shape[:2])
        self.priors: NDArray[np.float32] = np.full(num_records, np.nan, dtype=np.float32)
        if PATCH_PRIORS in seals:
            self.priors = map_file(folder / PATCH_PRIORS, seals[PATCH_PRIORS], dtype=np.dtype("<f4"), shape=shape[:1])
        self.rows: NDArray[np.int64] = np.arange(num_records)
        if PATCH_ROWS in seals:
            self.rows = np.array(map_file(folder / PATCH_ROWS, seals[PATCH_ROWS], dtype=np.dtype("<i8"), shape=shape[:1]))
            check_file(folder / PATCH_ROWS, seals[PATCH_ROWS])  # small, and a wrong row would show patches of another picture
        self._record_by_row = np.full(num_rows, _NO_RECORD, dtype=np.int64)
        self._record_by_row[self.rows] = np.arange(num_records)

    def has(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """For each of the rows, whether it has patches."""
        return np.not_equal(self._record_by_row[rows], _NO_RECORD)

    def gather(self, rows: NDArray[np.int64]) -> PatchBatch:
        """Patches of rows that all have some, in their order."""
        records = self._record_by_row[rows]
        assert (records != _NO_RECORD).all()
        return PatchBatch(self.format, self.values[records], self.scales[records], self.priors[records])


@dataclass(frozen=True, slots=True)
class DamagedPatches:
    """In the place of `StoredPatches` that cannot be read; whoever asks for them is told."""

    format: PatchFormat
    damage: DamagedFile


class PatchWriter:
    """Writes patches of a segment, record by record."""

    def __init__(self, folder: Path, patch_format: PatchFormat) -> None:
        self.format = patch_format
        self._folder = folder
        self._values = _HashedFile(folder / PATCHES)
        self._scales = _HashedFile(folder / PATCH_SCALES)
        self._priors = _HashedFile(folder / PATCH_PRIORS)
        self._rows: list[NDArray[np.int64]] = []

    def append(self, rows: NDArray[np.int64], batch: PatchBatch) -> None:
        """Add the patches of `rows`, each of them once in all."""
        assert batch.format == self.format
        assert len(rows) == len(batch)
        self._values.write(np.ascontiguousarray(batch.values))
        self._scales.write(np.ascontiguousarray(batch.scales, dtype="<f2"))
        self._priors.write(np.ascontiguousarray(batch.priors, dtype="<f4"))
        self._rows.append(np.asarray(rows, dtype=np.int64))

    def seal(self, *, num_rows: int) -> dict[str, FileSeal]:
        """Put the files on disk, but for their names; none where no row has patches."""
        rows = np.concatenate(self._rows) if self._rows else np.empty(0, dtype=np.int64)
        assert len(np.unique(rows)) == len(rows)
        seals = {PATCHES: self._values.seal(), PATCH_SCALES: self._scales.seal(), PATCH_PRIORS: self._priors.seal()}
        if not len(rows):  # an empty file can't be mapped
            for name in seals:
                (self._folder / name).unlink()
            return {}
        if not np.array_equal(rows, np.arange(num_rows)):
            seals[PATCH_ROWS] = write_synced(self._folder / PATCH_ROWS, rows.astype("<i8").tobytes())
        return seals

    def abandon(self) -> None:
        """Close the files, after a failure."""
        for file in (self._values, self._scales, self._priors):
            file.abandon()


class _HashedFile:
    """A file that is hashed as it is written."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("wb")
        self._sha256 = hashlib.sha256()
        self._size_bytes = 0

    def write(self, content: NDArray[np.generic]) -> None:
        self._file.write(content.data)
        self._sha256.update(content.data)
        self._size_bytes += content.nbytes

    def seal(self) -> FileSeal:
        sync_and_close(self._file)
        return FileSeal(self._size_bytes, self._sha256.hexdigest())

    def abandon(self) -> None:
        with suppress(OSError):  # a full disk refuses the buffer's rest as well
            self._file.close()
