"""Compaction: when it is worth it, and that it changes nothing but the files."""

from dataclasses import replace

import numpy as np
import pytest

from sightline.errors import CorruptSegment
from sightline.storage.compaction import worth_merging
from sightline.storage.records import CollectionRecord, SegmentRecord, SegmentState
from sightline.storage.snapshot import Candidate
from sightline.storage.store import Store
from sightline.types import CollectionId, Modality, SegmentId
from tests.sightline.storage.conftest import make_collection
from tests.sightline.storage.synthetic import SIMILARITY_TOLERANCE, best_similarities, new_items, similarities, unit_rows


def _record(num_rows: int, *, num_tombstones: int = 0, index: str | None = None) -> SegmentRecord:
    return SegmentRecord(SegmentId(1), CollectionId(1), "", Modality.IMAGE, SegmentState.LIVE, num_rows, num_tombstones, 0, "", index, None)


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        ([], []),
        ([_record(100)], []),
        ([_record(100)] * 7, []),
        ([_record(100)] * 8, range(8)),
        ([_record(100), _record(100, num_tombstones=26)], [1]),
        ([_record(100), _record(100, num_tombstones=25)], []),
        ([_record(100)] * 7 + [_record(9000, index="IVF")], []),
        ([_record(100)] * 8 + [_record(9000, index="IVF")], range(8)),  # the small ones only
        ([_record(2300), _record(9000, index="IVF")], range(2)),  # a quarter waits beside the index
        ([_record(1001)], range(1)),  # large enough for an index
        ([_record(2000, num_tombstones=1000)], range(1)),
        ([_record(100), _record(9000, num_tombstones=3000, index="IVF")], range(2)),
    ],
)
def test_what_is_worth_merging(segments: list[SegmentRecord], expected: range | list[int]) -> None:
    numbered = [replace(segment, segment_id=SegmentId(number)) for number, segment in enumerate(segments)]
    assert [s.segment_id for s in worth_merging(numbered, exact_max_rows=1000)] == list(expected)


def _all(store: Store, collection: CollectionRecord, *, exact: bool = False) -> list[list[Candidate]]:
    return store.snapshot(collection.collection_id).search(unit_rows(5, seed=9), 20, modality=Modality.IMAGE, exact=exact)


def test_compaction_changes_no_result(store: Store, collection: CollectionRecord) -> None:
    cid = collection.collection_id
    with store.writer() as writer:
        ids = writer.commit(cid, added=new_items(range(100)), embeddings=unit_rows(100))
        writer.commit(cid, added=new_items(range(50, 150)), embeddings=unit_rows(100, seed=1))
        writer.commit(cid, deleted=ids[:30])
        before = _all(store, collection)
        report = writer.compact(cid)
        again = writer.compact(cid)
    assert _all(store, collection) == before
    assert (report.merged_segments, report.dropped_rows, report.live_rows) == (2, 80, 120)
    assert again.merged_segments == 0
    statistics = store.statistics(cid)
    assert (statistics.num_segments, statistics.num_tombstones) == (1, 0)
    assert len(list((store.folder / "segments").glob("*/*"))) == 1
    assert store.verify() == []


def test_a_collection_of_tombstones_compacts_to_nothing(store: Store, collection: CollectionRecord) -> None:
    cid = collection.collection_id
    with store.writer() as writer:
        ids = writer.commit(cid, added=new_items("ab"), embeddings=unit_rows(2))
        writer.commit(cid, deleted=ids)
        writer.compact(cid)
    assert store.statistics(cid).num_segments == 0
    assert store.snapshot(cid).num_items() == 0
    assert store.verify() == []


def test_many_small_segments_are_merged_when_it_is_worth_it(store: Store, collection: CollectionRecord) -> None:
    cid = collection.collection_id
    with store.writer() as writer:
        for number in range(8):
            assert writer.compact_if_worth_it(cid).merged_segments == 0
            writer.commit(cid, added=new_items([number]), embeddings=unit_rows(1, seed=number))
        assert writer.compact_if_worth_it(cid).merged_segments == 8
    assert store.statistics(cid).num_segments == 1


def test_a_large_collection_gets_an_index_whose_measured_recall_is_kept(ann_store: Store) -> None:
    collection = make_collection(ann_store)
    cid, rows = collection.collection_id, unit_rows(4000)
    with ann_store.writer() as writer:
        ids = writer.commit(cid, added=new_items(range(4000)), embeddings=rows)
        report = writer.compact_if_worth_it(cid, queries=unit_rows(100, seed=9))
        writer.commit(cid, deleted=ids[1::2])
    statistics = ann_store.statistics(cid)
    assert "IVF" in report.index_descriptions[0]
    assert statistics.index_descriptions == report.index_descriptions
    assert statistics.ann_recall is not None
    assert statistics.ann_recall >= 0.95
    exact, approximate = _all(ann_store, collection, exact=True), _all(ann_store, collection)
    np.testing.assert_allclose(similarities(exact), best_similarities(rows[::2], unit_rows(5, seed=9), 20), atol=SIMILARITY_TOLERANCE)
    shared = [len({c.item_id for c in one} & {c.item_id for c in other}) / 20 for one, other in zip(exact, approximate, strict=True)]
    assert np.mean(shared) >= 0.85  # the index promises 0.95 at 10 for its queries
    assert all(c.item_id in ids[::2] for found in approximate for c in found)


def test_without_queries_an_index_is_tuned_with_rows_of_the_other_modality(ann_store: Store) -> None:
    collection = make_collection(ann_store)
    cid = collection.collection_id
    with ann_store.writer() as writer:
        writer.commit(cid, added=new_items(range(1000)), embeddings=unit_rows(1000))
        alone = writer.compact(cid, force=True)
        texts = new_items(range(1000, 1100), modality=Modality.TEXT)
        writer.commit(cid, added=texts, embeddings=unit_rows(100, seed=1))
        beside = writer.compact(cid, force=True)
    assert "mixtures of stored rows" in alone.index_descriptions[0]
    assert "100 stored rows of the other modality" in beside.index_descriptions[0]


def test_a_damaged_segment_is_not_compacted_into_a_sound_one(store: Store, collection: CollectionRecord) -> None:
    cid = collection.collection_id
    with store.writer() as writer:
        writer.commit(cid, added=new_items("ab"), embeddings=unit_rows(2))
        writer.commit(cid, added=new_items("cd"), embeddings=unit_rows(2, seed=1))
        store.snapshot(cid)
        path = next((store.folder / "segments").glob("*/*/embeddings.fp16"))
        content = bytearray(path.read_bytes())
        content[0] ^= 1
        path.write_bytes(content)
        with pytest.raises(CorruptSegment, match="bytes have changed"):
            writer.compact(cid)
    assert store.statistics(cid).num_segments == 2
    assert len(list((store.folder / "segments").glob("*/*"))) == 2
