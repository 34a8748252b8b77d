"""Commits: what they make true, what they refuse, and what they leave behind when they fail."""

import logging
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from sightline.errors import CollectionNotFound, InvalidInput, ItemNotFound, OutOfSpace, SightlineError
from sightline.storage.records import CollectionRecord, LedgerEntry, Move, RunCounts, RunState, Touch
from sightline.storage.sealed_files import require_room
from sightline.storage.store import Store, StoreOptions
from sightline.storage.writer import Writer
from sightline.types import CollectionId, ItemId, Modality, RunId
from tests.sightline.storage.conftest import make_collection
from tests.sightline.storage.synthetic import SIMILARITY_TOLERANCE, best_similarities, new_items, similarities, unit_rows


def _keys(store: Store, collection: CollectionRecord) -> dict[str, ItemId]:
    return {known.key: known.item_id for known in store.known_items(collection.collection_id)}


def _entry(run_id: RunId, key: str, cause: str = "not an image format Pillow knows") -> LedgerEntry:
    return LedgerEntry(run_id, key, "/photos", cause, "UnreadableImage", 10, 20, None, datetime.now(UTC))


def test_a_commit_is_searchable_at_once(store: Store, collection: CollectionRecord) -> None:
    rows = unit_rows(30)
    with store.writer() as writer:
        ids = writer.commit(collection.collection_id, added=new_items(range(30)), embeddings=rows)
        found = store.snapshot(collection.collection_id).search(rows[:4], 3, modality=Modality.IMAGE)
    assert [candidates[0].item_id for candidates in found] == ids[:4]
    np.testing.assert_allclose(similarities(found), best_similarities(rows, rows[:4], 3), atol=SIMILARITY_TOLERANCE)
    records = store.items(collection.collection_id, ids)
    assert [records[item_id].metadata["key"] for item_id in ids] == [str(n) for n in range(30)]


def test_one_commit_may_hold_both_modalities(store: Store, collection: CollectionRecord) -> None:
    items = new_items(["a", "b"]) + new_items(["c"], modality=Modality.TEXT) + new_items(["d"])
    with store.writer() as writer:
        ids = writer.commit(collection.collection_id, added=items, embeddings=unit_rows(4))
    snapshot = store.snapshot(collection.collection_id)
    assert (snapshot.num_items(), snapshot.num_items(Modality.TEXT), snapshot.modalities()) == (4, 1, [Modality.IMAGE, Modality.TEXT])
    np.testing.assert_allclose(snapshot.embeddings(np.array(ids[::-1])), unit_rows(4)[::-1], atol=SIMILARITY_TOLERANCE)


def test_an_added_key_that_exists_is_replaced_and_keeps_its_id(store: Store, collection: CollectionRecord) -> None:
    rows = unit_rows(6)
    with store.writer() as writer:
        before = writer.commit(collection.collection_id, added=new_items("abc"), embeddings=rows[:3])
        changed = [replace(item, content_hash="other", modality=Modality.TEXT) for item in new_items("bd")]
        after = writer.commit(collection.collection_id, added=changed, embeddings=rows[3:5])
    assert after[0] == before[1]
    assert after[1] not in before
    assert store.item_by_key(collection.collection_id, "b").content_hash == "other"
    snapshot = store.snapshot(collection.collection_id)
    assert (snapshot.num_items(Modality.IMAGE), snapshot.num_items(Modality.TEXT)) == (2, 2)
    np.testing.assert_allclose(snapshot.embeddings(np.array(after)), rows[3:5], atol=SIMILARITY_TOLERANCE)


def test_a_deleted_item_is_gone_and_its_id_is_not_used_again(store: Store, collection: CollectionRecord) -> None:
    rows = unit_rows(3)
    with store.writer() as writer:
        ids = writer.commit(collection.collection_id, added=new_items("abc"), embeddings=rows)
        writer.commit(collection.collection_id, deleted=[ids[2], ItemId(999)])
        writer.commit(collection.collection_id, deleted=[ids[2]])
        again = writer.commit(collection.collection_id, added=new_items("c"), embeddings=rows[2:])
    assert again[0] > ids[2]
    snapshot = store.snapshot(collection.collection_id)
    assert snapshot.search(rows[2:], 9, modality=None)[0][0].item_id == again[0]
    assert snapshot.num_items() == 3
    with pytest.raises(ItemNotFound, match=f"number {ids[2]}"):
        snapshot.embeddings(np.array([ids[2]]))


def test_two_items_may_swap_their_keys_and_new_ones_take_the_keys_that_others_leave(store: Store, collection: CollectionRecord) -> None:
    with store.writer() as writer:
        a, b, c, d = writer.commit(collection.collection_id, added=new_items("abcd"), embeddings=unit_rows(4))
        moved = [Move(a, "b", "/photos", 5), Move(b, "a", "/photos", 6), Move(c, "e", "/elsewhere", 7)]
        new_c, new_d = writer.commit(
            collection.collection_id, moved=moved, added=new_items("cd"), embeddings=unit_rows(2, seed=1), deleted=[d]
        )
    assert _keys(store, collection) == {"b": a, "a": b, "e": c, "c": new_c, "d": new_d}
    assert store.item_by_key(collection.collection_id, "e").source == "/elsewhere"
    assert len({a, b, c, d, new_c, new_d}) == 6


def test_a_move_onto_the_key_of_another_item_replaces_that_one(store: Store, collection: CollectionRecord) -> None:
    with store.writer() as writer:
        a, _ = writer.commit(collection.collection_id, added=new_items("ab"), embeddings=unit_rows(2))
        writer.commit(collection.collection_id, moved=[Move(a, "b", "/photos", 5)])
    assert _keys(store, collection) == {"b": a}
    assert store.snapshot(collection.collection_id).num_items() == 1
    assert store.verify() == []


def test_a_touch_changes_time_and_size_only(store: Store, collection: CollectionRecord) -> None:
    with store.writer() as writer:
        (a,) = writer.commit(collection.collection_id, added=new_items("a"), embeddings=unit_rows(1))
        before = store.snapshot(collection.collection_id)
        writer.commit(collection.collection_id, touched=[Touch(a, 77, 88)])
    item = store.item_by_key(collection.collection_id, "a")
    assert (item.mtime_ns, item.size_bytes, item.content_hash) == (77, 88, "hash-a")
    assert store.snapshot(collection.collection_id) is before


def test_an_empty_commit_changes_nothing(store: Store, collection: CollectionRecord) -> None:
    with store.writer() as writer:
        assert writer.commit(collection.collection_id) == []
    assert store.snapshot(collection.collection_id).generation == collection.generation


def test_ledger_lines_close_when_their_key_is_indexed_or_skipped_again(store: Store, collection: CollectionRecord) -> None:
    cid = collection.collection_id
    with store.writer() as writer:
        first = writer.start_run(cid, "/photos")
        writer.commit(cid, run_id=first, skipped=[_entry(first, "a"), _entry(first, "b"), _entry(first, "c")], counts=RunCounts(skipped=3))
        second = writer.start_run(cid, "/photos")
        writer.commit(cid, run_id=second, added=new_items("a"), embeddings=unit_rows(1), skipped=[_entry(second, "b", "still bad")])
    assert [(e.key, e.cause) for e in store.ledger(cid, unresolved_only=True)] == [
        ("c", "not an image format Pillow knows"),
        ("b", "still bad"),
    ]
    assert [e.key for e in store.ledger(run_id=first)] == ["a", "b", "c"]
    assert [e.resolved_at is None for e in store.ledger(cid)] == [False, False, True, True]


def test_runs_are_listed_newest_first_with_their_counts_and_cursor(store: Store, collection: CollectionRecord) -> None:
    cid = collection.collection_id
    with store.writer() as writer:
        first, second = writer.start_run(cid, "/a"), writer.start_run(cid, "/b")
        writer.commit(cid, run_id=first, counts=RunCounts(new=5), cursor="shard 3")
        writer.finish_run(first, RunState.FINISHED, RunCounts(new=7, unchanged=2, pruned=1))
    runs = store.runs(cid)
    assert [(run.run_id, run.state) for run in runs] == [(second, RunState.RUNNING), (first, RunState.FINISHED)]
    assert (runs[1].counts, runs[1].cursor) == (RunCounts(new=7, unchanged=2, pruned=1), "shard 3")
    assert runs[1].finished_at is not None


def test_a_run_that_never_ended_counts_as_interrupted_once_another_writer_comes(store: Store, collection: CollectionRecord) -> None:
    with store.writer() as writer:
        writer.start_run(collection.collection_id, "/a")
    with store.writer():
        assert [run.state for run in store.runs()] == [RunState.INTERRUPTED]


@pytest.mark.parametrize(
    ("keys", "shape"), [("aa", (2, 16)), ("ab", (3, 16)), ("ab", (2, 8)), ("ab", None)], ids=["twice", "rows", "width", "none"]
)
def test_a_commit_that_does_not_fit_is_refused(
    store: Store, collection: CollectionRecord, keys: str, shape: tuple[int, int] | None
) -> None:
    embeddings = None if shape is None else unit_rows(*shape)
    with store.writer() as writer, pytest.raises(InvalidInput):
        writer.commit(collection.collection_id, added=new_items(keys), embeddings=embeddings)
    assert store.snapshot(collection.collection_id).num_items() == 0


def test_an_embedding_that_is_no_number_is_refused(store: Store, collection: CollectionRecord) -> None:
    rows = unit_rows(2)
    rows[1, 3] = np.nan
    with store.writer() as writer, pytest.raises(InvalidInput, match="not a number"):
        writer.commit(collection.collection_id, added=new_items("ab"), embeddings=rows)


def test_an_unknown_collection_is_refused(store: Store) -> None:
    with store.writer() as writer, pytest.raises(CollectionNotFound):
        writer.commit(CollectionId(77), added=new_items("a"), embeddings=unit_rows(1))


def test_a_commit_that_would_fill_the_disk_is_refused_before_it_writes(tmp_path: Path, database_url: str | None) -> None:
    with Store.open(tmp_path / "store", database_url=database_url, options=StoreOptions(min_free_bytes=2**60)) as store:
        collection = make_collection(store)
        with pytest.raises(OutOfSpace, match=r"are to stay free \(SIGHTLINE_MIN_FREE_BYTES\): make room"):
            store.require_room()
        with store.writer() as writer, pytest.raises(OutOfSpace, match="are to stay free") as refused:
            writer.commit(collection.collection_id, added=new_items("a"), embeddings=unit_rows(1))
        assert "needed" not in str(refused.value)  # a few kilobytes are not why


def test_what_a_large_commit_needs_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutOfSpace, match=r"; 1,125,899,906\.8 MB are needed: make room"):
        require_room(tmp_path, 2**50, min_free_bytes=0)


def test_an_abandoned_run_is_told_to_the_next_over_its_source(
    store: Store, collection: CollectionRecord, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="sightline")  # whatever other tests have set
    with store.writer() as writer:
        writer.start_run(collection.collection_id, "photos")
    with store.writer() as writer:
        assert caplog.messages == []
        writer.start_run(collection.collection_id, "others")
        assert caplog.messages == []
        writer.start_run(collection.collection_id, "photos")
        assert caplog.messages == ["an earlier run was interrupted; going on where it stopped"]


@contextmanager
def _file_size_limit(limit_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond the limit: the system refuses as it does for a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_the_system_refuses_leaves_the_old_state(store: Store, collection: CollectionRecord) -> None:
    cid, rows = collection.collection_id, unit_rows(20_000)
    with store.writer() as writer:
        writer.commit(cid, added=new_items("ab"), embeddings=rows[:2])
        with _file_size_limit(500_000), pytest.raises(OutOfSpace, match="what was committed is intact"):
            writer.commit(cid, added=new_items(range(20_000)), embeddings=rows)
        assert set(_keys(store, collection)) == {"a", "b"}
        assert store.verify(cid) == []
        assert len(list((store.folder / "segments").glob("*/*"))) == 1
        writer.commit(cid, added=new_items(range(100)), embeddings=rows[:100])
    assert store.snapshot(cid).num_items() == 102


def _fill(writer: Writer, collection_id: CollectionId) -> None:
    for batch in range(100):
        keys = range(batch * 2000, batch * 2000 + 2000)
        writer.commit(collection_id, added=new_items(keys), embeddings=unit_rows(2000, 64, seed=batch))


def test_a_full_disk_stops_indexing_and_loses_nothing(small_disk: Path) -> None:
    with Store.open(small_disk / "store") as store:
        collection = make_collection(store, dim=64)
        cid = collection.collection_id
        with store.writer() as writer, pytest.raises(OutOfSpace, match="what was committed is intact"):
            _fill(writer, cid)
        committed = len(_keys(store, collection))
        assert committed >= 2000
        assert committed % 2000 == 0
        assert store.snapshot(cid).num_items() == committed
        subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
        with store.writer() as writer:
            writer.commit(cid, added=new_items(["one more"]), embeddings=unit_rows(1, 64))
        assert store.snapshot(cid).num_items() == committed + 1
        assert store.verify() == []


def test_errors_inside_a_writer_release_the_lock(store: Store) -> None:
    with pytest.raises(SightlineError), store.writer() as writer:
        writer.commit(CollectionId(1), deleted=[ItemId(1)])
    with store.writer():
        pass
