"""A collection at one generation, searchable and never changing: what a reader holds for the time of a query."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sightline.errors import CorruptSegment, InvalidQuery, ItemNotFound, PatchesNotFound
from sightline.storage.live_segment import LiveSegment, SegmentSearch
from sightline.storage.patch_files import DamagedPatches, StoredPatches
from sightline.storage.patches import PatchBatch, PatchFormat, empty_batch
from sightline.storage.records import BankRecord, CollectionRecord
from sightline.storage.search_plan import SearchPlan
from sightline.types import Embeddings, ItemId, ItemIds, Modality


@dataclass(frozen=True, slots=True)
class Candidate:
    """What the first stage found."""

    item_id: ItemId
    similarity: float  # cosine of the two embeddings, in [-1, 1]
    adjusted_similarity: float  # what it is ordered by: the same less what is taken off of the item's hubness bias


@dataclass(frozen=True, slots=True)
class PatchDamage:
    """Patches that cannot be read."""

    num_items: int  # of those asked about, in segments whose patches are damaged
    first: CorruptSegment  # of the damage found, that of the oldest segment


@dataclass(frozen=True, slots=True)
class PreparedSearch:
    """A planned search: `plan` says how it runs, `run` runs it."""

    plan: SearchPlan
    _searches: tuple[SegmentSearch, ...]
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

    def newest_item_id(self) -> ItemId:
        """The highest id that an item here has or had; 0 where there never was one. Ids only grow."""
        return ItemId(max((int(segment.files.item_ids[-1]) for segment in self.segments if segment.files.num_rows), default=0))

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
        """Plan a search; see `search`. The plan costs nothing without `allowed`, and a bisection an item with it.

        The first one of a segment that is searched on a GPU moves its rows there, so that the plan says what will be done.
        """
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
        `exact` the segments that have an index are searched approximately, or exactly on a GPU where they fit one. Each list is best
        first, equal similarities by item id, and shorter than `k` only when there are fewer items (or an approximate search finds
        fewer). `bias_weight` of the hubness bias is taken off the similarity of every item whose modality has a `bank`; the order is by
        what is left. With `modality` None similarities of all modalities are compared as they are. Raises `InvalidQuery` for a wrong
        width or `k`, `CorruptSegment` for a damaged index.
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

    def patch_formats(self) -> list[PatchFormat]:
        """The formats of the patches that there are, each once, oldest first."""
        return list(dict.fromkeys(segment.files.patches.format for segment in self.segments if segment.files.patches is not None))

    def has_patches_of(self, fusion_fingerprint: str) -> bool:
        """Whether there are patches, of any item, that this fusion encoder can read or could before they were damaged."""
        return any(each.fusion_fingerprint == fusion_fingerprint for each in self.patch_formats())

    def has_patches(self, item_ids: ItemIds, *, fusion_fingerprint: str) -> NDArray[np.bool_]:
        """For each of the items, whether this fusion encoder can read patches of it: there are some, and no damage is known."""
        wanted = np.asarray(item_ids, dtype=np.int64)
        ascending, positions = np.unique(wanted, return_inverse=True)
        has_some = np.zeros(len(ascending), dtype=np.bool_)
        for places, rows, patches in self._patched(ascending, fusion_fingerprint):
            if isinstance(patches, StoredPatches):
                has_some[places] = patches.has(rows)
        return np.asarray(has_some[positions])

    def patch_damage(self, item_ids: ItemIds, *, fusion_fingerprint: str) -> PatchDamage | None:
        """What keeps this fusion encoder from reading patches of some of the items; None where no damage does."""
        ascending = np.unique(np.asarray(item_ids, dtype=np.int64))
        found = [
            (len(rows), patches.damage)
            for _, rows, patches in self._patched(ascending, fusion_fingerprint)
            if isinstance(patches, DamagedPatches)
        ]
        return PatchDamage(sum(num_items for num_items, _ in found), found[0][1]) if found else None

    def patches(self, item_ids: ItemIds, *, fusion_fingerprint: str) -> PatchBatch:
        """Patches for this fusion encoder, in the order given; an item may be named more than once. At least one must be.

        Reads `bytes_per_image` an item from memory maps. Raises `PatchesNotFound` for the first item that has none (`has_patches` tells
        before), and `CorruptSegment` where they are damaged.
        """
        wanted = np.asarray(item_ids, dtype=np.int64)
        ascending, positions = np.unique(wanted, return_inverse=True)
        found: list[tuple[NDArray[np.int64], PatchBatch]] = []
        is_found = np.zeros(len(ascending), dtype=np.bool_)
        for places, rows, patches in self._patched(ascending, fusion_fingerprint):
            if isinstance(patches, DamagedPatches):
                raise patches.damage
            has_some = patches.has(rows)
            found.append((places[has_some], patches.gather(rows[has_some])))
            is_found[places[has_some]] = True
        if not len(wanted) or not is_found.all():
            missing = f"item number {ascending[~is_found][0]}" if len(wanted) else "an empty list of items"
            raise PatchesNotFound(
                f"{missing} of the collection {self.collection.name!r} has no patches of the fusion encoder {fusion_fingerprint[:12]}; "
                f"`sightline patches {self.collection.name}` adds those that are missing"
            )
        joined = empty_batch(found[0][1].format, len(ascending))
        for places, batch in found:
            joined.put(places, batch)
        return joined.at(positions)

    def _patched(
        self, ascending: ItemIds, fusion_fingerprint: str
    ) -> Iterable[tuple[NDArray[np.int64], NDArray[np.int64], StoredPatches | DamagedPatches]]:
        """Segment by segment: which of the ascending items are alive there, their rows, and the patches of some of these."""
        for segment in self._of(Modality.IMAGE):
            rows = segment.live_rows_of(ascending)
            patches = segment.files.patches if len(rows) else None
            if patches is not None and patches.format.fusion_fingerprint == fusion_fingerprint:
                yield np.searchsorted(ascending, segment.files.item_ids[rows]), rows, patches

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
