"""A segment as one snapshot sees it, and the search of it."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sightline.storage.index_plan import EXACT_MAX_ROWS
from sightline.storage.patch_files import DamagedPatches, StoredPatches
from sightline.storage.search_plan import Method, SegmentPlan
from sightline.storage.segment import IndexCard, SegmentFiles
from sightline.types import Embeddings, ItemIds

if TYPE_CHECKING:  # FAISS takes a quarter of a second to import, which only a search needs, and torch more
    from sightline.storage.device_index import DeviceIndex
    from sightline.storage.device_memory import DeviceMemory
    from sightline.storage.exact_index import ExactIndex, Found
    from sightline.storage.vector_index import VectorIndex

logger = logging.getLogger(__name__)

_SELECTED_ROWS_SHARE = 1 / 8
"""Fewer rows than this share are gathered one by one; more are cheaper to read in order, skipping."""

_SELECTED_ROWS_ANN = 20_000
"""So many allowed rows are read exactly in some 10 ms, with no loss; above, the index searches under a selector."""

_SELECTED_ROWS_DEVICE = 2_000
"""So many allowed rows are read in about 1 ms, in which a GPU would hardly have been told which rows of a million they are."""


def load_faiss() -> None:
    """Imports it now, for who measures what a search takes; else the first one does."""
    import sightline.storage.exact_index  # noqa: F401


class LoadedSegment:
    """A segment's files and, once a search needs them, its structures in memory; shared by all snapshots that see the segment."""

    def __init__(self, files: SegmentFiles, device_memory: DeviceMemory | None = None) -> None:
        self.files = files
        self._lock = threading.Lock()
        self._exact: ExactIndex | None = None
        self._ann: VectorIndex | None = None
        self._device_memory = device_memory  # None: no GPU is to be used
        self._on_device: DeviceIndex | None = None

    @property
    def memory_bytes(self) -> int:
        """What searches so far had to be loaded, in this machine's memory: rows, in fp16, and the index."""
        rows = self.files.embeddings.nbytes if self._exact is not None else 0
        index_bytes = self.files.index_bytes
        return rows + (index_bytes.nbytes if self._ann is not None and index_bytes is not None else 0)

    @property
    def device_memory_bytes(self) -> int:
        """What searches so far had to be loaded on the GPU."""
        return 0 if self._on_device is None else self._on_device.memory_bytes

    def exact(self) -> ExactIndex:
        """All rows in memory."""
        if self._exact is None:
            from sightline.storage.exact_index import ExactIndex

            with self._lock:
                if self._exact is None:
                    self._exact = ExactIndex(self.files.rows)
        return self._exact

    def ann(self) -> VectorIndex:
        """The FAISS index. Raises `CorruptSegment`."""
        if self._ann is None:
            from sightline.storage.vector_index import load_index

            card = self.files.manifest.index
            assert card is not None
            with self._lock:
                if self._ann is None:
                    self._ann = load_index(self.files.checked_index_bytes(), self.files.rows, card)
        return self._ann

    def on_device(self) -> DeviceIndex | None:
        """All rows on the GPU; None where there is none, where they are too few to be worth it, and where it has no room for them."""
        if self._on_device is None and self._device_memory is not None:
            with self._lock:
                if self._on_device is None:
                    self._on_device = self._load_on_device()
        return self._on_device

    def _load_on_device(self) -> DeviceIndex | None:
        try:
            return None if self._device_memory is None else self._device_memory.load(self.files.rows)
        except MemoryError as error:
            logger.warning("segment %s is not searched on the GPU: %s", self.files.folder.name, error)
            self._device_memory = None  # not asked again at every search
            return None


class LiveSegment:
    """A segment as one snapshot sees it: its dead rows are those of the snapshot's generation."""

    def __init__(self, loaded: LoadedSegment, dead_item_ids: ItemIds, *, is_resident: bool) -> None:
        self.loaded = loaded
        self.files = loaded.files
        self.modality = loaded.files.manifest.modality
        self.is_resident = is_resident  # whether exact search may keep the rows in memory
        self.dead_rows = self.files.rows_of(dead_item_ids)
        self.num_live = self.files.num_rows - len(self.dead_rows)

    @cached_property
    def live_mask(self) -> NDArray[np.bool_] | None:
        """(rows,), or None where all are alive."""
        if not len(self.dead_rows):
            return None
        mask = np.ones(self.files.num_rows, dtype=np.bool_)
        mask[self.dead_rows] = False
        return mask

    @cached_property
    def live_bitmap(self) -> NDArray[np.uint8] | None:
        """`live_mask` as little-endian bits."""
        return None if self.live_mask is None else _bitmap(self.live_mask)

    @cached_property
    def live_sum(self) -> NDArray[np.float64]:
        """(embedding_dim,), of the embeddings that are alive; reads the dead rows, once."""
        total: NDArray[np.float64] = self.files.sum - self.files.gather(self.dead_rows).sum(axis=0, dtype=np.float64)
        return total

    def live_rows_of(self, item_ids: ItemIds) -> NDArray[np.int64]:
        """The live rows of those of `item_ids` (ascending) that are here, ascending."""
        if len(item_ids) > self.files.num_rows:
            rows: NDArray[np.int64] = np.flatnonzero(_is_among(self.files.item_ids, item_ids))
        else:
            rows = self.files.rows_of(item_ids)
        return rows if self.live_mask is None else rows[self.live_mask[rows]]

    def patches_of(self, fusion_fingerprint: str) -> StoredPatches | None:
        """The patches here that this fusion encoder can read. Raises `CorruptSegment` where they are damaged."""
        patches = self.files.patches
        if patches is None or patches.format.fusion_fingerprint != fusion_fingerprint:
            return None
        if isinstance(patches, DamagedPatches):
            raise patches.damage
        return patches

    def live_item_ids(self) -> ItemIds:
        """All live items, ascending."""
        return self.files.item_ids if self.live_mask is None else np.asarray(self.files.item_ids[self.live_mask])

    def unpatched_item_ids(self, fusion_fingerprint: str) -> ItemIds:
        """Live items without patches that this fusion encoder can read, ascending; all of them where a patch file is gone or cut short.

        Bytes that have changed are not looked for, as `SegmentFiles.has_damaged_patches` does.
        """
        is_wanted = np.ones(self.files.num_rows, dtype=np.bool_) if self.live_mask is None else self.live_mask.copy()
        patches = self.files.patches
        if isinstance(patches, StoredPatches) and patches.format.fusion_fingerprint == fusion_fingerprint:
            is_wanted[patches.rows] = False
        return np.asarray(self.files.item_ids[is_wanted])

    def plan(self, allowed: ItemIds | None, *, exact: bool) -> SegmentSearch:
        """How to search this segment; the first plan for a GPU moves the rows there. With `exact` the processor searches, as the oracle."""
        card = None if exact else self.files.manifest.index
        rows = None if allowed is None else self.live_rows_of(allowed)
        if not exact and (rows is None or len(rows) > _SELECTED_ROWS_DEVICE) and (index := self.loaded.on_device()) is not None:
            return self._planned_on(index, rows)
        if rows is None:
            method = Method.EXACT if card is None else Method.ANN
            return SegmentSearch(self, SegmentPlan(method, self.num_live, self._reason(card, exact=exact)), self.live_bitmap, None, None)
        share = len(rows) / max(1, self.files.num_rows)
        if card is None and (share >= _SELECTED_ROWS_SHARE and self.is_resident):
            plan = SegmentPlan(Method.EXACT, len(rows), "what the filter passes")
            return SegmentSearch(self, plan, self._bitmap_of(rows), None, None)
        if card is None or len(rows) <= _SELECTED_ROWS_ANN:
            plan = SegmentPlan(Method.SELECTED, len(rows), "")
            return SegmentSearch(self, plan, None, rows, None)
        # As many allowed rows are to be seen as without the filter, so the fewer pass the more cells are read.
        nprobe = int(np.ceil(card.nprobe / share))
        plan = SegmentPlan(Method.ANN, len(rows), f"the filter passes {share:.0%} of the rows: nprobe={nprobe}; {card}")
        return SegmentSearch(self, plan, self._bitmap_of(rows), None, nprobe)

    def _planned_on(self, index: DeviceIndex, rows: NDArray[np.int64] | None) -> SegmentSearch:
        """On a GPU: over all live rows, or those of them that a filter passes."""
        if rows is None:
            return SegmentSearch(self, SegmentPlan(Method.DEVICE, self.num_live, ""), self.live_bitmap, None, None, index)
        plan = SegmentPlan(Method.DEVICE, len(rows), "what the filter passes")
        return SegmentSearch(self, plan, self._bitmap_of(rows), None, None, index)

    def _reason(self, card: IndexCard | None, *, exact: bool) -> str:
        """Why all rows are searched as they are; few rows need no index, and no word about it."""
        if card is not None:
            return str(card)
        if exact:
            return "asked for"
        return "no index yet" if self.num_live > EXACT_MAX_ROWS else ""

    def _bitmap_of(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        mask = np.zeros(self.files.num_rows, dtype=np.bool_)
        mask[rows] = True
        return _bitmap(mask)


@dataclass(frozen=True, slots=True)
class SegmentSearch:
    """The search of one segment, planned."""

    segment: LiveSegment
    plan: SegmentPlan
    bitmap: NDArray[np.uint8] | None  # rows to consider; None: all
    rows: NDArray[np.int64] | None  # for `SELECTED`
    nprobe: int | None  # for `ANN` under a filter
    on_device: DeviceIndex | None = None  # for `DEVICE`

    def run(self, xq: Embeddings, k: int, *, weight: float) -> SegmentFound:
        """The best rows of the segment as items."""
        D, rows = self._find(xq, min(k, self.plan.num_rows), weight=weight)
        files = self.segment.files
        similarities = D + files.rows.taken_off(np.maximum(rows, 0), weight=weight)
        return SegmentFound(D, similarities, np.where(rows >= 0, files.item_ids[rows], -1))

    def _find(self, xq: Embeddings, k: int, *, weight: float) -> Found:
        from sightline.storage.exact_index import search_rows, search_selected

        rows = self.segment.files.rows
        match self.plan.method:
            case Method.ANN:
                return self.segment.loaded.ann().search(xq, k, live=self.bitmap, weight=weight, nprobe=self.nprobe)
            case Method.DEVICE:
                assert self.on_device is not None
                return self.on_device.search(xq, k, live=self.bitmap, weight=weight)
            case Method.SELECTED:
                assert self.rows is not None
                return search_selected(self.rows, rows, xq, k, weight=weight)
            case Method.EXACT if self.segment.is_resident:
                return self.segment.loaded.exact().search(xq, k, live=self.bitmap, weight=weight)
            case Method.EXACT:
                return search_rows(rows, xq, k, live=self.bitmap, weight=weight)


@dataclass(frozen=True, slots=True, eq=False)
class SegmentFound:
    """What one segment gave: (queries, at most k) each."""

    adjusted_similarities: NDArray[np.float32]
    similarities: NDArray[np.float32]
    item_ids: NDArray[np.int64]  # -1 where fewer were found


def _bitmap(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.packbits(mask, bitorder="little")


def _is_among(values: NDArray[np.int64], ascending: NDArray[np.int64]) -> NDArray[np.bool_]:
    """For each of `values`, whether it is in `ascending`, which is not empty."""
    places = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    return np.equal(ascending[places], values)
