"""Stores and collections: opening, naming, locking, and what readers see while others write."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psycopg
import pytest

from sightline.errors import (
    CollectionExists,
    CollectionNotFound,
    DatabaseUnavailable,
    InvalidInput,
    ItemNotFound,
    StorageError,
    StoreBusy,
    StoreNotFound,
)
from sightline.storage.records import CollectionRecord
from sightline.storage.store import Store
from sightline.types import CollectionId, ItemId, Modality
from tests.sightline.storage.conftest import make_collection
from tests.sightline.storage.synthetic import new_items, unit_rows

_OPEN = """
import sys
from pathlib import Path
from sightline.storage.store import Store
store = Store.open(Path(sys.argv[1]), database_url=sys.argv[2] or None)
"""
_WRITE = _OPEN + "with store.writer(): pass"


def test_a_store_that_is_not_there_is_not_found_unless_it_is_to_be_made(tmp_path: Path, database_url: str | None) -> None:
    with pytest.raises(StoreNotFound, match="sightline index"):
        Store.open(tmp_path / "store", database_url=database_url, create=False)
    Store.open(tmp_path / "store", database_url=database_url).close()
    Store.open(tmp_path / "store", database_url=database_url, create=False).close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="can't be made"):
        Store.open(tmp_path / "file" / "store")


def test_a_catalogue_of_another_folder_is_refused(tmp_path: Path, database_url: str | None) -> None:
    url = database_url or f"sqlite:///{tmp_path / 'shared.sqlite'}"
    with Store.open(tmp_path / "one", database_url=url) as store:
        make_collection(store)
    Store.open(tmp_path / "two").close()
    with pytest.raises(StorageError, match="belongs to another store"):
        Store.open(tmp_path / "two", database_url=url)


def test_a_postgresql_catalogue_with_collections_takes_no_second_folder(tmp_path: Path, postgres_url: str) -> None:
    with Store.open(tmp_path / "one", database_url=postgres_url) as store:
        make_collection(store)
    with pytest.raises(StorageError, match="in another folder"):
        Store.open(tmp_path / "two", database_url=postgres_url)


def test_a_set_up_that_was_killed_before_its_last_step_is_made_good(tmp_path: Path, database_url: str | None) -> None:
    Store.open(tmp_path / "store", database_url=database_url).close()
    (tmp_path / "store" / "store.json").unlink()
    with Store.open(tmp_path / "store", database_url=database_url) as store:
        make_collection(store)


def test_a_folder_whose_catalogue_is_elsewhere_is_not_given_another_one(tmp_path: Path, postgres_url: str) -> None:
    """Else the segments of the first catalogue would belong to nothing, and the next writer would sweep them."""
    with Store.open(tmp_path, database_url=postgres_url) as store:
        collection = make_collection(store)
        with store.writer() as writer:
            writer.commit(collection.collection_id, added=new_items(range(3)), embeddings=unit_rows(3))
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))

    for create in (True, False):
        with pytest.raises(StorageError, match=r"set SIGHTLINE_DATABASE_URL to postgresql.*which it was made with"):
            Store.open(tmp_path, create=create)

    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
    with Store.open(tmp_path, database_url=postgres_url) as store:
        assert store.snapshot(collection.collection_id).num_items() == 3


def test_a_store_whose_catalogue_was_lost_says_so_and_keeps_its_segments(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        collection = make_collection(store)
        with store.writer() as writer:
            writer.commit(collection.collection_id, added=new_items(range(3)), embeddings=unit_rows(3))
    for path in tmp_path.glob("catalogue.sqlite*"):
        path.unlink()
    segments = list((tmp_path / "segments").rglob("*"))

    with pytest.raises(StorageError, match="put the file back from a backup"):
        Store.open(tmp_path)

    assert list((tmp_path / "segments").rglob("*")) == segments


@pytest.mark.parametrize("is_being_written", [False, True])
def test_a_store_that_may_not_be_written_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_being_written: bool) -> None:
    owner = Store.open(tmp_path)
    collection = make_collection(owner)
    with owner.writer() as writer:
        writer.commit(collection.collection_id, added=new_items(range(3)), embeddings=unit_rows(3))
    if not is_being_written:  # nobody has it open: the files that a writer keeps beside the database are gone
        owner.close()
    assert (tmp_path / "catalogue.sqlite-wal").exists() == is_being_written
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)  # the superuser, who runs tests in containers, may write anything

    with Store.open(tmp_path, create=False) as store:
        assert store.snapshot(collection.collection_id).num_items() == 3
        assert store.verify() == []
        with pytest.raises(StorageError, match="can't be written"):
            make_collection(store, "another")
    owner.close()


def test_several_processes_may_open_a_new_store_at_once(tmp_path: Path, database_url: str | None) -> None:
    command = [sys.executable, "-c", _OPEN, str(tmp_path / "store"), database_url or ""]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors


def test_collections_are_made_found_renamed_and_dropped(store: Store) -> None:
    beach = make_collection(store, "beach")
    make_collection(store, "alps")
    assert [c.name for c in store.collections()] == ["alps", "beach"]
    assert store.collection("beach") == beach
    store.alter_collection(beach.collection_id, name="sea")
    assert store.collection("sea").collection_id == beach.collection_id
    with store.writer() as writer:
        writer.commit(beach.collection_id, added=new_items("ab"), embeddings=unit_rows(2))
    store.drop_collection(beach.collection_id)
    assert [c.name for c in store.collections()] == ["alps"]
    assert store.verify() == []
    assert not list((store.folder / "segments").glob("*/*"))
    with pytest.raises(CollectionNotFound):
        store.snapshot(beach.collection_id)


def test_what_a_collection_holds_is_said_and_taken_back(store: Store) -> None:
    beach = make_collection(store, "beach")
    assert beach.description == ""
    store.alter_collection(beach.collection_id, description="Holidays, \N{GREEK SMALL LETTER ALPHA} to \N{SMILING FACE WITH SUNGLASSES}")
    described = store.collection("beach")
    assert described.description == "Holidays, \N{GREEK SMALL LETTER ALPHA} to \N{SMILING FACE WITH SUNGLASSES}"
    assert described.generation == beach.generation  # nothing that a search finds has changed
    store.alter_collection(beach.collection_id, name="sea", description="Water")
    assert [(c.name, c.description) for c in store.collections()] == [("sea", "Water")]
    store.alter_collection(beach.collection_id, description="")
    assert store.collection("sea").description == ""
    with pytest.raises(CollectionNotFound):
        store.alter_collection(CollectionId(2**40), description="Nothing")


def test_a_collection_is_altered_as_a_whole_or_not_at_all(store: Store) -> None:
    make_collection(store, "taken")
    beach = make_collection(store, "beach")
    for name, description in (("taken", "Water"), ("sea", "two\nlines"), ("sea", " Water"), ("sea", "x" * 501), (" ", "Water")):
        with pytest.raises((CollectionExists, InvalidInput)):
            store.alter_collection(beach.collection_id, name=name, description=description)
        assert store.collection("beach") == beach


def test_a_collection_made_after_another_was_dropped_is_not_taken_for_it(store: Store) -> None:
    first = make_collection(store)
    with store.writer() as writer:
        writer.commit(first.collection_id, added=new_items("a"), embeddings=unit_rows(1))
    assert store.snapshot(first.collection_id).num_items() == 1
    store.drop_collection(first.collection_id)
    second = make_collection(store)
    assert second.collection_id != first.collection_id
    assert store.snapshot(second.collection_id).num_items() == 0


def test_an_unknown_collection_comes_with_the_nearest_names(store: Store) -> None:
    make_collection(store, "holidays")
    make_collection(store, "work")
    with pytest.raises(CollectionNotFound, match=r"did you mean 'holidays'"):
        store.collection("hollidays")
    with pytest.raises(CollectionNotFound, match="sightline collections"):
        store.collection("zzzzzz")


def test_a_name_that_is_taken_or_none_is_refused(store: Store, collection: CollectionRecord) -> None:
    with pytest.raises(CollectionExists, match="'photos' already"):
        make_collection(store, "photos")
    other = make_collection(store, "other")
    with pytest.raises(CollectionExists):
        store.alter_collection(other.collection_id, name="photos")
    for name in ("", " ", " a", "a\n", "x" * 201):
        with pytest.raises(InvalidInput):
            make_collection(store, name)


def test_items_come_in_one_query_and_leave_out_what_is_not_there(store: Store, collection: CollectionRecord) -> None:
    other = make_collection(store, "other")
    with store.writer() as writer:
        ids = writer.commit(collection.collection_id, added=new_items("ab"), embeddings=unit_rows(2))
        elsewhere = writer.commit(other.collection_id, added=new_items("c"), embeddings=unit_rows(1))
    assert set(store.items(collection.collection_id, [*ids, *elsewhere, ItemId(10**12)])) == set(ids)
    assert store.items(collection.collection_id, []) == {}
    assert len(store.items(collection.collection_id, [ItemId(n) for n in range(70_000)])) == 2
    with pytest.raises(ItemNotFound, match=r"'nowhere\.jpg'"):
        store.item_by_key(collection.collection_id, "nowhere.jpg")


def test_known_items_are_streamed_by_id_and_by_source(store: Store, collection: CollectionRecord) -> None:
    with store.writer() as writer:
        writer.commit(collection.collection_id, added=new_items(range(6000), source="/a"), embeddings=unit_rows(6000))
        writer.commit(collection.collection_id, added=new_items(range(6000, 6010), source="/b"), embeddings=unit_rows(10))
    everything = list(store.known_items(collection.collection_id))
    assert [known.key for known in everything] == [str(n) for n in range(6010)]
    assert len(list(store.known_items(collection.collection_id, source="/b"))) == 10


def test_a_second_writer_is_told_who_writes(store: Store, database_url: str | None) -> None:
    with store.writer():
        with pytest.raises(StoreBusy, match=f"process {os.getpid()}"), store.writer():
            pass
        done = subprocess.run(
            [sys.executable, "-c", _WRITE, str(store.folder), database_url or ""], capture_output=True, text=True, check=False
        )
        assert "StoreBusy" in done.stderr
        assert f"process {os.getpid()}" in done.stderr
    with store.writer():
        pass


def _write_once(store: Store, *, wait_s: float) -> None:
    with store.writer(wait_s=wait_s) as writer:
        writer.sweep()


def test_a_writer_may_wait_for_another(store: Store) -> None:
    is_writing, may_end = threading.Event(), threading.Event()

    def write() -> None:
        with store.writer():
            is_writing.set()
            may_end.wait()

    with ThreadPoolExecutor() as pool:
        first = pool.submit(write)
        is_writing.wait()
        second = pool.submit(lambda: _write_once(store, wait_s=30))
        may_end.set()
        first.result()
        second.result()


def test_the_catalogue_of_postgresql_is_locked_against_writers_with_another_folder(tmp_path: Path, postgres_url: str) -> None:
    store = Store.open(tmp_path / "store", database_url=postgres_url)
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "store.json").write_bytes((store.folder / "store.json").read_bytes())
    mirror = Store.open(tmp_path / "mirror", database_url=postgres_url)
    with store, mirror, store.writer(), pytest.raises(StoreBusy, match=f"process {os.getpid()}"), mirror.writer():
        pass


def test_a_writer_that_has_ended_is_in_nobodys_way(tmp_path: Path, postgres_url: str) -> None:
    with Store.open(tmp_path / "store", database_url=postgres_url) as store:
        for _ in range(60):  # a server that is told by the end of the session alone may be late
            with store.writer():
                pass
        with pytest.raises(KeyboardInterrupt), store.writer():
            raise KeyboardInterrupt
        with store.writer():
            pass


def test_a_writer_that_loses_its_connection_cannot_commit(tmp_path: Path, postgres_url: str) -> None:
    with Store.open(tmp_path / "store", database_url=postgres_url) as store:
        collection = make_collection(store)
        with store.writer() as writer:
            with psycopg.connect(postgres_url, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
            with pytest.raises(DatabaseUnavailable, match="can't be reached"):
                writer.commit(collection.collection_id, added=new_items("a"), embeddings=unit_rows(1))
        with store.writer() as writer:
            writer.commit(collection.collection_id, added=new_items("a"), embeddings=unit_rows(1))
        assert store.verify() == []


def test_a_snapshot_stays_as_it_was_while_others_write_and_compact(
    store: Store, collection: CollectionRecord, database_url: str | None
) -> None:
    rows = unit_rows(40)
    cid = collection.collection_id
    with Store.open(store.folder, database_url=database_url) as reader, store.writer() as writer:
        ids = writer.commit(cid, added=new_items(range(20)), embeddings=rows[:20])
        old = reader.snapshot(cid)
        assert reader.snapshot(cid) is old
        writer.commit(cid, added=new_items(range(10, 40)), embeddings=rows[10:])
        writer.commit(cid, deleted=ids[:5])
        writer.compact(cid)
        assert old.search(rows[:1], 20, modality=None)[0][0].item_id == ids[0]
        assert old.num_items() == 20
        assert reader.snapshot(cid).num_items() == 35


def test_readers_keep_finding_everything_while_a_writer_compacts(
    store: Store, collection: CollectionRecord, database_url: str | None
) -> None:
    rows, cid, stop = unit_rows(400), collection.collection_id, threading.Event()

    def read() -> int:
        searches = 0
        with Store.open(store.folder, database_url=database_url) as reader:
            while not stop.is_set() or not searches:
                snapshot = reader.snapshot(cid)
                assert snapshot.num_items(Modality.IMAGE) % 20 == 0
                found = snapshot.search(rows[:2], 5, modality=Modality.IMAGE)
                assert len(found[0]) == min(5, snapshot.num_items())
                searches += 1
        return searches

    with ThreadPoolExecutor() as pool:
        readers = [pool.submit(read) for _ in range(3)]
        with store.writer() as writer:
            for start in range(0, 400, 20):
                writer.commit(cid, added=new_items(range(start, start + 20)), embeddings=rows[start : start + 20])
                if start % 60 == 0:
                    writer.compact(cid)
        stop.set()
        assert all(reader.result() > 0 for reader in readers)
    assert store.snapshot(cid).num_items() == 400
    assert np.isclose(store.snapshot(cid).search(rows[:1], 1, modality=None)[0][0].similarity, 1.0, atol=2e-3)
