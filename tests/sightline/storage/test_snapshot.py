"""Searching a snapshot: filters, modalities, means, ties and plans."""

import numpy as np
import pytest

from sightline.errors import InvalidQuery, ItemNotFound
from sightline.storage.records import CollectionRecord
from sightline.storage.search_plan import Method
from sightline.storage.store import Store, StoreOptions
from sightline.types import Modality
from tests.sightline.storage.conftest import make_collection
from tests.sightline.storage.synthetic import SIMILARITY_TOLERANCE, best_similarities, new_items, similarities, unit_rows


def test_an_empty_collection_finds_nothing(store: Store, collection: CollectionRecord) -> None:
    snapshot = store.snapshot(collection.collection_id)
    assert snapshot.search(unit_rows(2), 5, modality=None) == [[], []]
    assert str(snapshot.prepare(modality=None).plan) == "nothing to search"
    np.testing.assert_array_equal(snapshot.mean_embedding(Modality.IMAGE), np.zeros(16))


def test_asking_for_more_than_there_is_gives_all(store: Store, collection: CollectionRecord) -> None:
    with store.writer() as writer:
        writer.commit(collection.collection_id, added=new_items(range(3)), embeddings=unit_rows(3))
        writer.commit(collection.collection_id, added=new_items(range(3, 5)), embeddings=unit_rows(2, seed=1))
    found = store.snapshot(collection.collection_id).search(unit_rows(1, seed=2), 50, modality=None)
    assert len(found[0]) == 5


@pytest.mark.parametrize("num_queries", [0, 1, 3, 50])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
def test_a_filter_limits_the_search(share: float, num_queries: int, store: Store, collection: CollectionRecord) -> None:
    rows, xq = unit_rows(600), unit_rows(num_queries, seed=1)
    with store.writer() as writer:
        ids = writer.commit(collection.collection_id, added=new_items(range(400)), embeddings=rows[:400])
        ids += writer.commit(collection.collection_id, added=new_items(range(400, 600)), embeddings=rows[400:])
        writer.commit(collection.collection_id, deleted=ids[::7])
    is_allowed = np.random.default_rng(3).random(600) < share
    is_allowed[1] = share > 0
    allowed = np.random.default_rng(4).permutation(np.array(ids)[is_allowed])
    is_alive = is_allowed & (np.arange(600) % 7 != 0)
    found = store.snapshot(collection.collection_id).search(
        xq, 5, modality=Modality.IMAGE, allowed=np.append(allowed, [allowed[:1].sum(), 10**9])
    )
    expected = best_similarities(rows[is_alive], xq, 5)
    assert [len(candidates) for candidates in found] == [min(5, is_alive.sum())] * num_queries
    np.testing.assert_allclose(np.ravel(similarities(found)), np.ravel(expected), atol=SIMILARITY_TOLERANCE)


def test_one_modality_is_searched_alone(store: Store, collection: CollectionRecord) -> None:
    rows = unit_rows(20)
    with store.writer() as writer:
        images = writer.commit(collection.collection_id, added=new_items(range(10)), embeddings=rows[:10])
        texts = writer.commit(collection.collection_id, added=new_items(range(10, 20), modality=Modality.TEXT), embeddings=rows[10:])
        writer.commit(collection.collection_id, deleted=texts[:2])
    snapshot = store.snapshot(collection.collection_id)
    assert {c.item_id for c in snapshot.search(rows[:1], 50, modality=Modality.TEXT)[0]} == set(texts[2:])
    assert {c.item_id for c in snapshot.search(rows[:1], 50, modality=None)[0]} == {*images, *texts[2:]}
    np.testing.assert_allclose(snapshot.mean_embedding(Modality.TEXT), rows[12:].mean(axis=0), atol=SIMILARITY_TOLERANCE)
    np.testing.assert_allclose(snapshot.mean_embedding(Modality.IMAGE), rows[:10].mean(axis=0), atol=SIMILARITY_TOLERANCE)


def test_equal_similarities_come_by_item_id(store: Store, collection: CollectionRecord) -> None:
    same = np.repeat(unit_rows(1), 8, axis=0)
    with store.writer() as writer:
        ids = writer.commit(collection.collection_id, added=new_items(range(4)), embeddings=same[:4])
        ids += writer.commit(collection.collection_id, added=new_items([0, 5, 6, 7]), embeddings=same[4:])
    found = store.snapshot(collection.collection_id).search(same[:1], 50, modality=None)
    assert [c.item_id for c in found[0]] == sorted(set(ids))


def test_embeddings_come_in_the_order_asked_for_also_twice(store: Store, collection: CollectionRecord) -> None:
    rows = unit_rows(6)
    with store.writer() as writer:
        ids = writer.commit(collection.collection_id, added=new_items(range(3)), embeddings=rows[:3])
        ids += writer.commit(collection.collection_id, added=new_items(range(3, 6)), embeddings=rows[3:])
    snapshot = store.snapshot(collection.collection_id)
    order = [5, 0, 3, 3]
    np.testing.assert_allclose(snapshot.embeddings(np.array(ids)[order]), rows[order], atol=SIMILARITY_TOLERANCE)
    assert snapshot.embeddings(np.array([], dtype=np.int64)).shape == (0, 16)
    with pytest.raises(ItemNotFound, match="number 12345"):
        snapshot.embeddings(np.array([ids[0], 12345]))


def test_queries_that_do_not_fit_are_refused(store: Store, collection: CollectionRecord) -> None:
    snapshot = store.snapshot(collection.collection_id)
    with pytest.raises(InvalidQuery, match=r"\(1, 8\)"):
        snapshot.search(unit_rows(1, 8), 5, modality=None)
    with pytest.raises(InvalidQuery, match="at least 1"):
        snapshot.search(unit_rows(1), 0, modality=None)


def test_more_rows_than_memory_are_searched_from_disk(store: Store, collection: CollectionRecord, database_url: str | None) -> None:
    rows, xq = unit_rows(3000), unit_rows(2, seed=1)
    with store.writer() as writer:
        writer.commit(collection.collection_id, added=new_items(range(3000)), embeddings=rows)
    with Store.open(store.folder, database_url=database_url, options=StoreOptions(index_memory_bytes=1000)) as small:
        snapshot = small.snapshot(collection.collection_id)
        assert not snapshot.segments[0].is_resident
        found = snapshot.search(xq, 5, modality=None)
    np.testing.assert_allclose(similarities(found), best_similarities(rows, xq, 5), atol=SIMILARITY_TOLERANCE)


def test_segments_that_are_searched_alike_are_one_phrase(store: Store, collection: CollectionRecord) -> None:
    with store.writer() as writer:
        ids = writer.commit(collection.collection_id, added=new_items(range(9)), embeddings=unit_rows(9))
        assert str(store.snapshot(collection.collection_id).prepare(modality=None).plan) == "exact over 9 rows"
        ids += writer.commit(collection.collection_id, added=new_items(range(9, 27)), embeddings=unit_rows(18))
    snapshot = store.snapshot(collection.collection_id)
    assert str(snapshot.prepare(modality=None).plan) == "exact over 27 rows in 2 segments"
    filtered = snapshot.prepare(modality=None, allowed=np.asarray(ids[:18])).plan
    assert str(filtered) == "exact over 18 rows in 2 segments (what the filter passes)"


def test_the_plan_says_how_each_segment_is_searched(ann_store: Store) -> None:
    rows = unit_rows(3000)
    collection = make_collection(ann_store)
    with ann_store.writer() as writer:
        ids = writer.commit(collection.collection_id, added=new_items(range(2500)), embeddings=rows[:2500])
        writer.compact(collection.collection_id, force=True, queries=unit_rows(50, seed=1))
        writer.commit(collection.collection_id, added=new_items(range(2500, 3000)), embeddings=rows[2500:])
    snapshot = ann_store.snapshot(collection.collection_id)
    plan = snapshot.prepare(modality=Modality.IMAGE).plan
    assert [segment.method for segment in plan.segments] == [Method.ANN, Method.EXACT]
    assert not plan.is_exact
    assert "IVF" in str(plan)
    assert "50 queries" in str(plan)
    assert snapshot.prepare(modality=None, exact=True).plan.is_exact
    assert str(snapshot.prepare(modality=Modality.IMAGE, exact=True).plan).endswith("rows in 2 segments (asked for)")
    filtered = snapshot.prepare(modality=None, allowed=np.array(ids[:10]))
    assert [segment.method for segment in filtered.plan.segments] == [Method.SELECTED]
    assert filtered.run(rows[:1], 1)[0][0].item_id == ids[0]
