"""Statements that are left to the driver: their values and errors are those that SQLAlchemy gives."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import literal_column, select

from sightline.errors import CollectionNotFound, StorageError
from sightline.storage.quick_reads import QuickReads, QuickSelect
from sightline.storage.records import CollectionRecord, FoundItem, NewItem
from sightline.storage.store import Store
from sightline.types import ItemId, Modality
from tests.sightline.storage.conftest import make_collection
from tests.sightline.storage.synthetic import new_items, unit_rows

ODD_ITEMS = [
    NewItem(
        "caf\udce9/\u2603.png", Modality.IMAGE, "/ph\udcffotos", "h", 1, 2, "a snow\u2603man", 30, 40, {"taken": "2026", "of": [1, None]}
    ),
    NewItem("a", Modality.TEXT, "/texts", "h", 1, 2, "a 'text' with ? and %s and :name", metadata={}),
]


def quick_reads(store: Store) -> QuickReads:
    """Of that store's catalogue."""
    return store._database._quick


def test_what_is_found_is_what_the_whole_record_says(store: Store, collection: CollectionRecord) -> None:
    other = make_collection(store, "other")
    with store.writer() as writer:
        ids = writer.commit(collection.collection_id, added=ODD_ITEMS, embeddings=unit_rows(2))
        elsewhere = writer.commit(other.collection_id, added=new_items("c"), embeddings=unit_rows(1))

    found = store.found_items(collection.collection_id, [*ids, *elsewhere, ItemId(10**12)])

    assert set(found) == set(ids)
    for item_id, record in store.items(collection.collection_id, ids).items():
        assert found[item_id] == FoundItem(*(getattr(record, name) for name in FoundItem._fields))
        assert type(found[item_id].modality) is Modality


@pytest.mark.parametrize("num_asked", [0, 1, 2, 3, 127, 128, 129, 20_000, 70_000])
def test_any_number_of_items_is_asked_for(store: Store, collection: CollectionRecord, num_asked: int) -> None:
    with store.writer() as writer:
        ids = writer.commit(collection.collection_id, added=new_items(range(5)), embeddings=unit_rows(5))
    asked = [ItemId(ids[0] + number) for number in range(num_asked)]
    assert list(store.found_items(collection.collection_id, asked)) == [item_id for item_id in ids if item_id in asked]


def test_a_collection_is_found_by_its_name_and_by_an_alias(store: Store, collection: CollectionRecord) -> None:
    store.aliases.put("holidays", collection="photos")
    assert astuple(store.collection("photos")) == astuple(store.collection("holidays")) == astuple(store.collections()[0])
    for name in ("photo", "", "a\udcff", "x' OR '1'='1"):
        with pytest.raises(CollectionNotFound):
            store.collection(name)


def test_what_the_database_refuses_is_an_error_of_ours_and_costs_one_connection(store: Store, collection: CollectionRecord) -> None:
    wrong = QuickSelect(select(literal_column("nothing_like_that")))
    for _ in range(3):
        with pytest.raises(StorageError, match="nothing_like_that"):
            store._database.quick_rows(wrong, {})
    assert store.collection("photos") == collection


def test_connections_that_were_cut_off_are_replaced_unnoticed(tmp_path: Path, postgres_url: str) -> None:
    with Store.open(tmp_path / "store", database_url=postgres_url) as store:
        collection = make_collection(store)
        kept: Any = quick_reads(store)._idle
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(lambda _: store.collection("photos").name, range(40))) == {"photos"}
        assert kept
        others = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
        with store._database.reading() as connection:
            assert connection.exec_driver_sql(f"SELECT count(pg_terminate_backend(pid)) {others}").scalar()
        assert store.collection("photos") == collection
        assert len(kept) == 1


def test_no_statement_leaves_a_transaction_open(store: Store, collection: CollectionRecord) -> None:
    store.collection("photos")
    store.alter_collection(collection.collection_id, description="changed since")
    assert store.collection("photos").description == "changed since"


def test_a_closed_store_keeps_no_connection(store: Store, collection: CollectionRecord) -> None:
    store.found_items(collection.collection_id, [ItemId(1)])
    assert len(quick_reads(store)._idle) == 1
    store.close()
    assert not quick_reads(store)._idle
