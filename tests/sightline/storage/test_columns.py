"""What goes into the catalogue comes out of it, on both databases."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import make_url
from sqlalchemy.dialects import sqlite

from sightline.storage.columns import UtcDateTime, storable_json, storable_text
from sightline.storage.database import Database
from sightline.storage.records import CollectionRecord, NewItem
from sightline.storage.store import Store
from sightline.types import Modality
from tests.sightline.storage.synthetic import unit_rows


@pytest.mark.parametrize(
    "key",
    [
        "plain.jpg",
        "Größe/猫.jpg",
        b"caf\xe9.jpg".decode("utf-8", "surrogateescape"),
        b"\xff\x80".decode("utf-8", "surrogateescape"),
        "a'b\"c%d\\e",
    ],
)
def test_a_file_name_comes_back_as_it_was(store: Store, collection: CollectionRecord, key: str) -> None:
    item = NewItem(key, Modality.IMAGE, key, "hash", 1, 2)
    with store.writer() as writer:
        writer.commit(collection.collection_id, added=[item], embeddings=unit_rows(1))
    assert store.item_by_key(collection.collection_id, key).key == key
    assert [known.source for known in store.known_items(collection.collection_id, source=key)] == [key]


def test_captions_and_metadata_with_what_no_database_takes_are_cleaned(store: Store, collection: CollectionRecord) -> None:
    item = NewItem(
        "a",
        Modality.TEXT,
        "/x",
        "h",
        1,
        2,
        text="nul\0 and \udce9",
        metadata={"n\0": [float("nan"), float("inf"), "\ud800"], "ok": "\\u0000"},
    )
    with store.writer() as writer:
        writer.commit(collection.collection_id, added=[item], embeddings=unit_rows(1))
    found = store.item_by_key(collection.collection_id, "a")
    assert found.text == "nul\ufffd and \ufffd"
    assert found.metadata == {"n\ufffd": [None, None, "\ufffd"], "ok": "\\u0000"}


def test_large_numbers_keep_their_64_bits(store: Store, collection: CollectionRecord) -> None:
    item = NewItem("a", Modality.IMAGE, "/x", "h", 2**62, 2**62 + 1, metadata={"large": 2**53 + 1})
    with store.writer() as writer:
        writer.commit(collection.collection_id, added=[item], embeddings=unit_rows(1))
    found = store.item_by_key(collection.collection_id, "a")
    assert (found.size_bytes, found.mtime_ns, found.metadata["large"]) == (2**62, 2**62 + 1, 2**53 + 1)


def test_instants_are_aware_and_in_utc(store: Store, collection: CollectionRecord) -> None:
    assert collection.created_at.tzinfo is UTC
    assert abs(datetime.now(UTC) - collection.created_at) < timedelta(minutes=1)
    assert store.collections()[0].created_at == collection.created_at


def test_the_plain_functions() -> None:
    assert storable_text("a\0b\ud800") == "a\ufffdb\ufffd"
    assert storable_json({"a": 1.5}) == '{"a":1.5}'
    assert storable_json({"a": float("-inf")}) == '{"a":null}'
    zone = timezone(timedelta(hours=2))
    assert UtcDateTime().process_bind_param(datetime(2026, 1, 1, 2, tzinfo=zone), sqlite.dialect()) == datetime(2026, 1, 1, tzinfo=UTC)


def test_a_catalogue_is_named_without_its_passwords() -> None:
    database = Database(make_url("postgresql+psycopg://me:se%40cret@db/photos?sslpassword=secret2&sslmode=require"))
    assert str(database) == "postgresql+psycopg://me:***@db/photos?sslmode=require&sslpassword=%2A%2A%2A"
