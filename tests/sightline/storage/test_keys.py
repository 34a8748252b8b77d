"""Keys open what they should for as long as they should, and what is stored of them opens nothing."""

import hashlib
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sightline.errors import InvalidInput, KeyNotFound
from sightline.storage.keys import TOUCH_EVERY, KeyRecord, NewKey
from sightline.storage.records import CollectionRecord
from sightline.storage.store import Store
from sightline.types import KeyId, Scope

SEARCH = frozenset({Scope.SEARCH})


def test_a_key_is_shown_once_and_stored_as_a_digest(store: Store, tmp_path: Path) -> None:
    secret, record = store.keys.create(NewKey("ci", SEARCH))

    assert re.fullmatch(r"sl_[A-Za-z0-9_-]{43}", secret)
    assert record.digest == hashlib.sha256(secret.encode()).hexdigest()
    assert record.digest not in repr(record)
    for file in (tmp_path / "store").rglob("*"):
        assert not file.is_file() or secret.encode() not in file.read_bytes()


def test_a_key_is_found_by_its_secret_alone(store: Store) -> None:
    secret, record = store.keys.create(NewKey("ci", SEARCH))
    other, _ = store.keys.create(NewKey("ci", SEARCH))
    keys = store.keys.keys()

    assert len(keys) == 2
    assert secret != other
    assert keys.find(secret) == record
    for wrong in ("", secret[:-1], secret + "A", secret.upper(), record.digest, "é\udc80\x00"):
        assert keys.find(wrong) is None


def test_a_key_comes_back_as_it_was_made(store: Store) -> None:
    expires_at = datetime.now(UTC) + timedelta(days=3)
    _, record = store.keys.create(NewKey("Größe", frozenset({Scope.WRITE, Scope.SEARCH}), frozenset({"b", "a"}), expires_at))

    assert store.keys.list() == [record]
    assert record.name == "Größe"
    assert record.scopes == {Scope.WRITE, Scope.SEARCH}
    assert record.collections == frozenset({"a", "b"})
    assert record.expires_at == expires_at
    assert record.last_used_at is None
    assert record.counts()
    assert record.counts(at=expires_at - timedelta(microseconds=1))
    assert not record.counts(at=expires_at)


def test_a_revoked_key_counts_no_more_and_keeps_its_date(store: Store) -> None:
    _, record = store.keys.create(NewKey("ci", SEARCH))
    assert store.keys.keys().has_valid()

    revoked = store.keys.revoke(record.key_id)

    assert not revoked.counts()
    assert store.keys.revoke(record.key_id) == revoked
    assert len(store.keys.keys()) == 1
    assert not store.keys.keys().has_valid()


def test_a_key_that_does_not_exist_cannot_be_revoked(store: Store) -> None:
    with pytest.raises(KeyNotFound, match="no key 7"):
        store.keys.revoke(KeyId(7))


@pytest.mark.parametrize(
    "key",
    [
        NewKey("", SEARCH),
        NewKey("a\nb", SEARCH),
        NewKey("x" * 101, SEARCH),
        NewKey("ci", frozenset()),
        NewKey("ci", SEARCH, frozenset()),
        NewKey("ci", SEARCH, None, datetime.now(UTC) - timedelta(seconds=1)),
    ],
)
def test_a_key_that_could_open_nothing_is_not_made(store: Store, key: NewKey) -> None:
    with pytest.raises(InvalidInput):
        store.keys.create(key)
    assert store.keys.list() == []


def test_use_is_noted_once_a_minute(store: Store) -> None:
    _, record = store.keys.create(NewKey("ci", SEARCH))

    store.keys.touch(record.key_id)
    first = _only(store).last_used_at
    store.keys.touch(record.key_id)

    assert first is not None
    assert datetime.now(UTC) - first < TOUCH_EVERY
    assert _only(store).last_used_at == first


def test_keys_follow_a_collection_that_is_renamed(store: Store, collection: CollectionRecord) -> None:
    store.keys.create(NewKey("ours", SEARCH, frozenset({"photos", "texts"})))
    store.keys.create(NewKey("theirs", SEARCH, frozenset({"texts"})))
    store.keys.create(NewKey("all", SEARCH))

    store.alter_collection(collection.collection_id, name="pictures")

    assert [key.collections for key in store.keys.list()] == [{"pictures", "texts"}, {"texts"}, None]


def _only(store: Store) -> KeyRecord:
    (record,) = store.keys.list()
    return record
