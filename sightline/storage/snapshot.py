"""A collection at one generation, searchable and never changing: what a reader holds for the time of a query."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sightline.errors import InvalidQuery, ItemNotFound
from sightline.storage.index_plan import EXACT_MAX_ROWS
from sightline.storage.records import BankRecord, CollectionRecord
from sightline.storage.segment import IndexCard, SegmentFiles
from sightline.types import Embeddings, ItemId, ItemIds, Modality

if TYPE_CHECKING:  # FAISS takes a quarter of a second to import, which only a search needs
    from sightline.storage.exact_index import ExactIndex, Found
    from sightline.storage.vector_index import VectorIndex

_SELECTED_ROWS_SHARE = 1 / 8
"""Fewer rows than this share are gathered one by one; more are cheaper to read in order, skipping."""

_SELECTED_ROWS_ANN = 20_000
"""So many allowed rows are read exactly in some 10 ms, with no loss; above, the index searches under a selector."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What the first stage found."""

    item_id: ItemId
    similarity: float  # cosine of the two embeddings, in [-1, 1]
    adjusted_similarity: float  # what it is ordered by: the same less what is taken off of the item's hubness bias


class Method(StrEnum):
    """How the rows of one segment are searched."""

    EXACT = "exact"  # all live rows
    SELECTED = "exact over the allowed rows"
    ANN = "ANN"


@dataclass(frozen=True, slots=True)
class SegmentPlan:
    """The search of one segment."""

    method: Method
    num_rows: int  # live rows, or allowed rows where a filter selects some
    reason: str  # empty where it goes without saying


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """How a search runs, segment by segment, in words for the answer."""

    generation: int
    segments: tuple[SegmentPlan, ...]
    bias_weight: float = 0.0  # how much of the hubness bias is taken off

    @property
    def is_exact(self) -> bool:
        """Whether the result is that of exact search."""
        return all(plan.method is not Method.ANN for plan in self.segments)

    def __str__(self) -> str:
        groups: dict[tuple[Method, str], list[SegmentPlan]] = {}
        for plan in self.segments:
            groups.setdefault((plan.method, plan.reason), []).append(plan)
        described = "; ".join(_describe(*how, plans) for how, plans in groups.items()) or "nothing to search"
        return described + (f", {self.bias_weight:.2g} of the hubness bias taken off" if self.bias_weight and self.segments else "")


def _describe(method: Method, reason: str, plans: Sequence[SegmentPlan]) -> str:
    """Segments that are searched alike, in one phrase."""
    where = f" in {len(plans)} segments" if len(plans) > 1 else ""
    return f"{method} over {sum(plan.num_rows for plan in plans):,} rows{where}" + (f" ({reason})" if reason else "")


class LoadedSegment:
    """A segment's files and, once a search needs them, its structures in memory; shared by all snapshots that see the segment."""

    def __init__(self, files: SegmentFiles) -> None:
        self.files = files
        self._lock = threading.Lock()
        self._exact: ExactIndex | None = None
        self._ann: VectorIndex | None = None

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

    def plan(self, allowed: ItemIds | None, *, exact: bool) -> _SegmentSearch:
        """How to search this segment."""
        card = None if exact else self.files.manifest.index
        if allowed is None:
            method = Method.EXACT if card is None else Method.ANN
            return _SegmentSearch(self, SegmentPlan(method, self.num_live, self._reason(card, exact=exact)), self.live_bitmap, None, None)
        rows = self.live_rows_of(allowed)
        share = len(rows) / max(1, self.files.num_rows)
        if card is None and (share >= _SELECTED_ROWS_SHARE and self.is_resident):
            plan = SegmentPlan(Method.EXACT, len(rows), "what the filter passes")
            return _SegmentSearch(self, plan, self._bitmap_of(rows), None, None)
        if card is None or len(rows) <= _SELECTED_ROWS_ANN:
            plan = SegmentPlan(Method.SELECTED, len(rows), "")
            return _SegmentSearch(self, plan, None, rows, None)
        # As many allowed rows are to be seen as without the filter, so the fewer pass the more cells are read.
        nprobe = int(np.ceil(card.nprobe / share))
        plan = SegmentPlan(Method.ANN, len(rows), f"the filter passes {share:.0%} of the rows: nprobe={nprobe}; {card}")
        return _SegmentSearch(self, plan, self._bitmap_of(rows), None, nprobe)

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
class _SegmentSearch:
    segment: LiveSegment
    plan: SegmentPlan
    bitmap: NDArray[np.uint8] | None  # rows to consider; None: all
    rows: NDArray[np.int64] | None  # for `SELECTED`
    nprobe: int | None  # for `ANN` under a filter

    def run(self, xq: Embeddings, k: int, *, weight: float) -> _SegmentFound:
        """The best rows of the segment as items."""
        D, rows = self._find(xq, min(k, self.plan.num_rows), weight=weight)
        files = self.segment.files
        similarities = D + files.rows.taken_off(np.maximum(rows, 0), weight=weight)
        return _SegmentFound(D, similarities, np.where(rows >= 0, files.item_ids[rows], -1))

    def _find(self, xq: Embeddings, k: int, *, weight: float) -> Found:
        from sightline.storage.exact_index import search_rows, search_selected

        rows = self.segment.files.rows
        match self.plan.method:
            case Method.ANN:
                return self.segment.loaded.ann().search(xq, k, live=self.bitmap, weight=weight, nprobe=self.nprobe)
            case Method.SELECTED:
                assert self.rows is not None
                return search_selected(self.rows, rows, xq, k, weight=weight)
            case Method.EXACT if self.segment.is_resident:
                return self.segment.loaded.exact().search(xq, k, live=self.bitmap, weight=weight)
            case Method.EXACT:
                return search_rows(rows, xq, k, live=self.bitmap, weight=weight)


@dataclass(frozen=True, slots=True, eq=False)
class _SegmentFound:
    """What one segment gave: (queries, at most k) each."""

    adjusted_similarities: NDArray[np.float32]
    similarities: NDArray[np.float32]
    item_ids: NDArray[np.int64]  # -1 where fewer were found


@dataclass(frozen=True, slots=True)
class PreparedSearch:
    """A planned search: `plan` says how it runs, `run` runs it."""

    plan: SearchPlan
    _searches: tuple[_SegmentSearch, ...]
    _weights: tuple[float, ...]  # of the hubness bias, one a segment
    _dim: int

    def run(self, xq: Embeddings, k: int) -> list[list[Candidate]]:
        """See `Snapshot.search`."""
        if xq.ndim != 2 or xq.shape[1] != self._dim:
            raise InvalidQuery(f"query embeddings of shape {xq.shape} where the collection's are (queries, {self._dim})")
        if k < 1:
            raise InvalidQuery(f"{k} results asked for; ask for at least 1")
        if not self._searches or not len(xq):
            return [[] for _ in xq]
        xq = np.ascontiguousarray(xq, dtype=np.float32)
        found = [search.run(xq, k, weight=weight) for search, weight in zip(self._searches, self._weights, strict=True)]
        adjusted = np.concatenate([each.adjusted_similarities for each in found], axis=1)
        similarities = np.concatenate([each.similarities for each in found], axis=1)
        item_ids = np.concatenate([each.item_ids for each in found], axis=1)
        return [_best(*row, k) for row in zip(adjusted, similarities, item_ids, strict=True)]


class Snapshot:
    """A collection at one generation. Thread-safe; commits by others change nothing in it."""

    def __init__(self, collection: CollectionRecord, segments: Sequence[LiveSegment], banks: Sequence[BankRecord] = ()) -> None:
        self.collection = collection
        self.segments = tuple(segments)
        self._bank_by_modality = {bank.modality: bank for bank in banks}

    @property
    def generation(self) -> int:
        """Of the collection, when the snapshot was taken."""
        return self.collection.generation

    def num_items(self, modality: Modality | None = None) -> int:
        """Items that can be found; of all modalities when none is named."""
        return sum(segment.num_live for segment in self._of(modality))

    def modalities(self) -> list[Modality]:
        """Those that have items, in the order of the enum."""
        return [modality for modality in Modality if self.num_items(modality)]

    def bank(self, modality: Modality) -> BankRecord | None:
        """The bank that the hubness biases of a modality are from.

        None where the collection has none, and where not all rows have their bias from it: a ranking by two yardsticks is none.
        """
        bank = self._bank_by_modality.get(modality)
        if bank is None or any(segment.files.manifest.bank_fingerprint != bank.fingerprint for segment in self._of(modality)):
            return None
        return bank

    def prepare(
        self, *, modality: Modality | None, allowed: ItemIds | None = None, exact: bool = False, bias_weight: float = 0.0
    ) -> PreparedSearch:
        """Plan a search; see `search`. The plan costs nothing without `allowed`, and a bisection an item with it."""
        allowed = None if allowed is None else np.unique(np.asarray(allowed, dtype=np.int64))
        planned = [segment.plan(allowed, exact=exact) for segment in self._of(modality) if segment.num_live]
        searches = tuple(search for search in planned if search.plan.num_rows)
        weight_by_modality = {each: bias_weight if self.bank(each) is not None else 0.0 for each in Modality}
        weights = tuple(weight_by_modality[search.segment.modality] for search in searches)
        plan = SearchPlan(self.generation, tuple(search.plan for search in searches), max(weights, default=0.0))
        return PreparedSearch(plan, searches, weights, self.collection.embedding_dim)

    def search(
        self,
        xq: Embeddings,
        k: int,
        *,
        modality: Modality | None,
        allowed: ItemIds | None = None,
        exact: bool = False,
        bias_weight: float = 0.0,
    ) -> list[list[Candidate]]:
        """The `k` best items for each of the queries.

        `xq` is (queries, embedding_dim). `allowed` limits the search to these items (any order, unknown ones are ignored). Without
        `exact` the segments that have an index are searched approximately. Each list is best first, equal similarities by item id, and
        shorter than `k` only when there are fewer items (or an approximate search finds fewer). `bias_weight` of the hubness bias is
        taken off the similarity of every item whose modality has a `bank`; the order is by what is left. With `modality` None similarities
        of all modalities are compared as they are. Raises `InvalidQuery` for a wrong width or `k`, `CorruptSegment` for a damaged index.
        """
        return self.prepare(modality=modality, allowed=allowed, exact=exact, bias_weight=bias_weight).run(xq, k)

    def embeddings(self, item_ids: ItemIds) -> Embeddings:
        """(len(item_ids), embedding_dim) in the order given, as stored in fp16. Raises `ItemNotFound` for the first that is not here."""
        wanted = np.asarray(item_ids, dtype=np.int64)
        ascending, positions = np.unique(wanted, return_inverse=True)
        embeddings = np.empty((len(ascending), self.collection.embedding_dim), dtype=np.float32)
        is_found = np.zeros(len(ascending), dtype=np.bool_)
        for segment in self.segments:
            rows = segment.live_rows_of(ascending)
            places = np.searchsorted(ascending, segment.files.item_ids[rows])
            embeddings[places] = segment.files.gather(rows)
            is_found[places] = True
        if not is_found.all():
            raise ItemNotFound(f"the collection {self.collection.name!r} holds no item number {ascending[~is_found][0]}")
        return embeddings[positions]

    def mean_embedding(self, modality: Modality) -> NDArray[np.float32]:
        """(embedding_dim,), not normalised: the centre of a modality, zero where it has no items. Reads only dead rows."""
        total = np.zeros(self.collection.embedding_dim, dtype=np.float64)
        for segment in self._of(modality):
            total += segment.live_sum
        return (total / max(1, self.num_items(modality))).astype(np.float32)

    def _of(self, modality: Modality | None) -> Iterable[LiveSegment]:
        return (segment for segment in self.segments if modality is None or segment.modality is modality)


def _best(adjusted: NDArray[np.float32], similarities: NDArray[np.float32], item_ids: NDArray[np.int64], k: int) -> list[Candidate]:
    """One query's candidates of all segments, merged."""
    order = np.lexsort((item_ids, -adjusted))
    found = zip(item_ids[order].tolist(), similarities[order].tolist(), adjusted[order].tolist(), strict=True)
    return [Candidate(ItemId(item_id), similarity, its_adjusted) for item_id, similarity, its_adjusted in found if item_id >= 0][:k]


def _bitmap(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.packbits(mask, bitorder="little")


def _is_among(values: NDArray[np.int64], ascending: NDArray[np.int64]) -> NDArray[np.bool_]:
    """For each of `values`, whether it is in `ascending`, which is not empty."""
    places = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    return np.equal(ascending[places], values)
