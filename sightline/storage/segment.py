"""Segment files: an immutable folder with the embeddings of one modality, checked against its manifest.

    embeddings.fp16   (rows, embedding_dim) float16, little-endian, row-major
    item_ids.i64      (rows,) int64, little-endian, strictly ascending: a row is found by bisection
    sum.f64           (embedding_dim,) float64, the sum of all rows: the mean of a modality without reading them
    hubness_bias.f32  optional, (rows,) float32, from the bank of queries that the manifest names
    patches.i8, ...   optional, see `patch_files`
    index.faiss       optional, see `vector_index`
    manifest.json     shape, modality, bank, format of the patches, and size and SHA-256 of each file; its own SHA-256 is in the catalogue

Files are mapped when the segment is opened, so that they stay readable after a compaction has removed them (POSIX). Checksums of
everything but large embeddings are checked on opening; `verify` checks those, and so does a compaction before it copies them.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NewType

import numpy as np
from numpy.typing import NDArray

from sightline.errors import SchemaTooNew
from sightline.storage.patch_files import PATCH_FILES, PATCHES, DamagedPatches, PatchWriter, StoredPatches
from sightline.storage.patches import PatchBatch, PatchFormat
from sightline.storage.sealed_files import (
    DamagedFile,
    FileSeal,
    check_file,
    map_file,
    seal_existing,
    sync_and_close,
    sync_folder,
    translated_disk_errors,
    write_synced,
)
from sightline.storage.segment_rows import SegmentRows
from sightline.types import Embeddings, ItemIds, Modality

logger = logging.getLogger(__name__)

Rows = NewType("Rows", NDArray[np.int64])
"""(n,), positions in one segment, not item ids."""

FORMAT = 2
"""Manifests of format 1 know neither hubness bias nor patches; they are read as ever."""

EMBEDDINGS, ITEM_IDS, SUM, HUBNESS_BIAS = "embeddings.fp16", "item_ids.i64", "sum.f64", "hubness_bias.f32"
INDEX, MANIFEST = "index.faiss", "manifest.json"

_CHECK_ON_OPEN_BYTES = 64_000_000
"""SHA-256 runs at some 1.8 GB/s: 35 ms at most for a segment's embeddings. Larger ones are checked by `verify` and compaction."""

_BLOCK_ROWS = 16_384


@dataclass(frozen=True, slots=True)
class IndexCard:
    """How the segment's FAISS index was built and is to be searched."""

    factory: str
    nprobe: int
    refine_factor: int  # candidates a result, re-scored with the fp16 rows
    ann_recall: float  # at `recall_k`, against exact search
    recall_k: int
    tuned_with: str  # the kind of queries and their number

    def __str__(self) -> str:
        measured = f"recall@{self.recall_k}={self.ann_recall:.3f} with {self.tuned_with}"
        return f"{self.factory} nprobe={self.nprobe} refine={self.refine_factor} {measured}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a segment holds."""

    modality: Modality
    num_rows: int
    embedding_dim: int
    files: dict[str, FileSeal]
    index: IndexCard | None = None
    bank_fingerprint: str | None = None  # of the bank that the hubness biases are from; None: there are none
    patches: PatchFormat | None = None  # None: no row has any

    @property
    def num_patched_rows(self) -> int:
        """Rows that have patches, live and dead."""
        return 0 if self.patches is None else self.files[PATCHES].size_bytes // (self.patches.num_patches * self.patches.patch_dim)

    @property
    def patch_bytes(self) -> int:
        """Of the patches and their scales."""
        return 0 if self.patches is None else self.num_patched_rows * self.patches.bytes_per_image

    @property
    def size_bytes(self) -> int:
        """Of all files but the manifest."""
        return sum(seal.size_bytes for seal in self.files.values())

    def to_json(self) -> bytes:
        """The manifest file's content."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True).encode()


def read_manifest(folder: Path, *, sha256: str) -> Manifest:
    """The manifest of the segment in `folder`. Raises `CorruptSegment`, `SchemaTooNew`, and FileNotFoundError for none."""
    content = (folder / MANIFEST).read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DamagedFile(folder / MANIFEST, reason="its checksum is not the one in the catalogue")
    fields: dict[str, Any] = json.loads(content)
    if fields.pop("format") > FORMAT:
        raise SchemaTooNew(f"the segment {folder} was written by a newer Sightline: upgrade Sightline to read it")
    files = {name: FileSeal(**seal) for name, seal in fields.pop("files").items()}
    index, patches = fields.pop("index"), fields.pop("patches", None)
    return Manifest(
        modality=Modality(fields.pop("modality")),
        files=files,
        index=None if index is None else IndexCard(**index),
        patches=None if patches is None else PatchFormat(**patches),
        **fields,
    )


class SegmentFiles:
    """An open segment: memory-mapped arrays and the bytes of its index."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        rows, dim = manifest.num_rows, manifest.embedding_dim
        self.embeddings: NDArray[np.float16] = self._map(EMBEDDINGS, np.dtype("<f2"), (rows, dim))
        self.item_ids: ItemIds = np.array(self._map(ITEM_IDS, np.dtype("<i8"), (rows,)))
        self.sum: NDArray[np.float64] = np.array(self._map(SUM, np.dtype("<f8"), (dim,)))
        self.biases: NDArray[np.float32] | None = None
        if manifest.bank_fingerprint is not None:
            self.biases = self._map(HUBNESS_BIAS, np.dtype("<f4"), (rows,))
        self.index_bytes: NDArray[np.uint8] | None = None
        if manifest.index is not None:
            self.index_bytes = self._map(INDEX, np.dtype("u1"), (manifest.files[INDEX].size_bytes,))
        self.patches = self._open_patches()

    @property
    def num_rows(self) -> int:
        """Live and dead."""
        return self.manifest.num_rows

    @property
    def rows(self) -> SegmentRows:
        """What a search ranks."""
        return SegmentRows(self.embeddings, self.biases)

    def check_rows(self) -> None:
        """Compare the checksums of all that a search needs but the index. Raises `CorruptSegment` for the first that differs."""
        for name in self.manifest.files.keys() - {INDEX, *PATCH_FILES}:
            check_file(self.folder / name, self.manifest.files[name])

    def check_patches(self) -> None:
        """Compare the checksums of the patches, where there are some. Raises `CorruptSegment`."""
        if isinstance(self.patches, DamagedPatches):
            raise self.patches.damage
        for name in self.manifest.files.keys() & PATCH_FILES:
            check_file(self.folder / name, self.manifest.files[name])

    def has_damaged_patches(self) -> bool:
        """Whether there are patches that are not what was written; reads every byte of them."""
        try:
            self.check_patches()
        except DamagedFile as error:
            logger.warning("%s", error)
            return True
        return False

    def _open_patches(self) -> StoredPatches | DamagedPatches | None:
        """Damage is kept for whoever asks for patches: a search needs none."""
        patch_format, seals = self.manifest.patches, self.manifest.files
        if patch_format is None:
            return None
        try:
            return StoredPatches(self.folder, patch_format, num_rows=self.num_rows, seals=seals)
        except DamagedFile as error:
            return DamagedPatches(patch_format, error)
        except FileNotFoundError as error:
            if not (self.folder / MANIFEST).exists():  # compacted away meanwhile
                raise
            return DamagedPatches(patch_format, DamagedFile(Path(error.filename), reason="it is missing, and the manifest names it"))

    def _map(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        return map_file(self.folder / name, self.manifest.files[name], dtype=dtype, shape=shape)

    def checked_index_bytes(self) -> NDArray[np.uint8]:
        """The index's bytes, after their checksum has been compared: FAISS crashes on some that are damaged."""
        assert self.index_bytes is not None
        if hashlib.sha256(self.index_bytes.data).hexdigest() != self.manifest.files[INDEX].sha256:
            raise DamagedFile(self.folder / INDEX, reason="its checksum is not the one in its manifest: bytes have changed")
        return self.index_bytes

    def rows_of(self, item_ids: ItemIds) -> Rows:
        """The rows of those of `item_ids` that are in the segment, in the order given."""
        rows = np.searchsorted(self.item_ids, item_ids)
        rows[rows == self.num_rows] = 0
        return Rows(rows[self.item_ids[rows] == item_ids] if self.num_rows else rows[:0])

    def gather(self, rows: NDArray[np.int64]) -> Embeddings:
        """(len(rows), dim) float32, in the order of `rows`."""
        return self.embeddings[rows].astype(np.float32)


def open_segment(folder: Path, *, manifest_sha256: str) -> SegmentFiles:
    """Open and check a segment.

    Raises `CorruptSegment` for files that do not match the manifest, and FileNotFoundError for one that is missing: the caller knows
    whether the segment was compacted away meanwhile.
    """
    manifest = read_manifest(folder, sha256=manifest_sha256)
    segment = SegmentFiles(folder, manifest)
    for name in manifest.files.keys() - {INDEX, *PATCH_FILES}:
        if manifest.files[name].size_bytes <= _CHECK_ON_OPEN_BYTES:
            check_file(folder / name, manifest.files[name])
    return segment


class SegmentBuilder:
    """Writes a segment block by block; what it leaves is complete and on disk once `seal` returns, and ignored before."""

    def __init__(
        self,
        folder: Path,
        *,
        modality: Modality,
        embedding_dim: int,
        bank_fingerprint: str | None = None,
        patch_format: PatchFormat | None = None,
    ) -> None:
        self.folder = folder
        self._modality = modality
        self._dim = embedding_dim
        self._bank_fingerprint = bank_fingerprint
        self._ids: list[ItemIds] = []
        self._biases: list[NDArray[np.float32]] = []
        self._sum = np.zeros(embedding_dim, dtype=np.float64)
        self._sha256 = hashlib.sha256()
        with translated_disk_errors(folder):
            folder.mkdir(parents=True)
            self._embeddings = (folder / EMBEDDINGS).open("wb")
            self._patches = None if patch_format is None else PatchWriter(folder, patch_format)

    @property
    def takes_patches(self) -> bool:
        """Whether `append_patches` may be called."""
        return self._patches is not None

    def append(self, item_ids: ItemIds, embeddings: NDArray[np.float16], biases: NDArray[np.float32] | None = None) -> None:
        """Add rows; `item_ids` strictly ascending, also from block to block; `biases` wherever the segment has a bank."""
        assert embeddings.shape == (len(item_ids), self._dim)
        assert (biases is None) == (self._bank_fingerprint is None)
        if biases is not None:
            assert biases.shape == item_ids.shape
            self._biases.append(biases)
        content = np.ascontiguousarray(embeddings, dtype="<f2")
        with translated_disk_errors(self.folder):
            self._embeddings.write(content.data)
        self._sha256.update(content.data)
        self._sum += content.sum(axis=0, dtype=np.float64)
        self._ids.append(item_ids)

    def append_patches(self, rows: NDArray[np.int64], batch: PatchBatch) -> None:
        """Add patches of some rows, which may be appended before or after; each row once."""
        assert self._patches is not None
        with translated_disk_errors(self.folder):
            self._patches.append(rows, batch)

    def finish_rows(self) -> SegmentRows:
        """End the rows and return them mapped from disk, for an index to be built on."""
        with translated_disk_errors(self.folder):
            sync_and_close(self._embeddings)
        shape = sum(map(len, self._ids)), self._dim
        embeddings = np.asarray(np.memmap(self.folder / EMBEDDINGS, dtype="<f2", mode="r", shape=shape))
        return SegmentRows(embeddings, np.concatenate(self._biases) if self._biases else None)

    def seal(self, *, index: IndexCard | None = None) -> tuple[Manifest, str]:
        """Write what is missing, the manifest last; everything is synced. Returns the manifest and its SHA-256."""
        with translated_disk_errors(self.folder):
            if not self._embeddings.closed:
                sync_and_close(self._embeddings)
            item_ids = np.concatenate(self._ids).astype("<i8")
            assert bool(np.all(np.diff(item_ids) > 0))
            size_bytes = (self.folder / EMBEDDINGS).stat().st_size
            files = {EMBEDDINGS: FileSeal(size_bytes, self._sha256.hexdigest())}
            files[ITEM_IDS] = write_synced(self.folder / ITEM_IDS, item_ids.tobytes())
            files[SUM] = write_synced(self.folder / SUM, self._sum.astype("<f8").tobytes())
            if self._bank_fingerprint is not None:
                files[HUBNESS_BIAS] = write_synced(self.folder / HUBNESS_BIAS, np.concatenate(self._biases).astype("<f4").tobytes())
            patch_format = None
            if self._patches is not None and (patch_seals := self._patches.seal(num_rows=len(item_ids))):
                patch_format, files = self._patches.format, files | patch_seals
            if index is not None:
                files[INDEX] = seal_existing(self.folder / INDEX)
            manifest = Manifest(self._modality, len(item_ids), self._dim, files, index, self._bank_fingerprint, patch_format)
            return manifest, write_manifest(self.folder, manifest)

    def abandon(self) -> None:
        """Remove what was written, after a failure."""
        with suppress(OSError):  # a full disk refuses the buffer's rest as well
            self._embeddings.close()
        if self._patches is not None:
            self._patches.abandon()
        remove_segment(self.folder)


def write_manifest(folder: Path, manifest: Manifest) -> str:
    """Write the manifest of a segment whose other files are on disk, and make their names durable; returns its SHA-256."""
    seal = write_synced(folder / MANIFEST, manifest.to_json())
    for synced in (folder, folder.parent, folder.parent.parent):
        sync_folder(synced)
    return seal.sha256


def remove_segment(folder: Path) -> None:
    """Delete a segment's folder, if there is one; the manifest first, so that no reader opens half of it."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def ascending_blocks(num_rows: int) -> Iterator[slice]:
    """Slices of a few ten thousand rows that cover `num_rows`."""
    for start in range(0, num_rows, _BLOCK_ROWS):
        yield slice(start, min(start + _BLOCK_ROWS, num_rows))
