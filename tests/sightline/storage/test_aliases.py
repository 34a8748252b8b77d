"""An alias stands for a collection wherever that is named, and never takes the place of one."""

import pytest

from sightline.errors import CollectionExists, CollectionNotFound, InvalidInput, NotFound
from sightline.storage.records import CollectionRecord
from sightline.storage.store import Store
from tests.sightline.storage.conftest import make_collection


def test_an_alias_stands_for_its_collection(store: Store, collection: CollectionRecord) -> None:
    store.aliases.put("pictures", collection="photos")

    assert store.collection("pictures") == collection
    assert [(alias.name, alias.collection) for alias in store.aliases.list()] == [("pictures", "photos")]
    assert store.aliases.collection_by_alias() == {"pictures": "photos"}


def test_an_alias_can_be_turned_to_another_collection(store: Store, collection: CollectionRecord) -> None:
    other = make_collection(store, "newer")
    store.aliases.put("current", collection="photos")
    store.aliases.put("current", collection="newer")
    assert store.collection("current") == other
    assert len(store.aliases.list()) == 1


def test_an_alias_of_an_alias_stands_for_the_collection(store: Store, collection: CollectionRecord) -> None:
    store.aliases.put("a", collection="photos")
    assert store.aliases.put("b", collection="a").collection == "photos"


def test_an_alias_follows_its_collection_and_goes_with_it(store: Store, collection: CollectionRecord) -> None:
    store.aliases.put("current", collection="photos")
    store.alter_collection(collection.collection_id, name="pictures")
    assert store.collection("current").name == "pictures"

    store.drop_collection(collection.collection_id)
    assert store.aliases.list() == []
    with pytest.raises(CollectionNotFound):
        store.collection("current")


def test_neither_takes_the_name_of_the_other(store: Store, collection: CollectionRecord) -> None:
    make_collection(store, "texts")
    store.aliases.put("current", collection="photos")

    with pytest.raises(CollectionExists, match="is a collection"):
        store.aliases.put("texts", collection="photos")
    with pytest.raises(CollectionExists, match="is an alias"):
        make_collection(store, "current")
    with pytest.raises(CollectionExists, match="is an alias"):
        store.alter_collection(collection.collection_id, name="current")
    assert store.collection("photos") == collection


def test_what_is_none_is_refused(store: Store, collection: CollectionRecord) -> None:
    with pytest.raises(CollectionNotFound):
        store.aliases.put("current", collection="nothing")
    with pytest.raises(InvalidInput):
        store.aliases.put(" ", collection="photos")
    with pytest.raises(NotFound):
        store.aliases.delete("current")


def test_a_misspelt_alias_is_offered(store: Store, collection: CollectionRecord) -> None:
    store.aliases.put("holidays", collection="photos")
    with pytest.raises(CollectionNotFound, match="holidays"):
        store.collection("holiday")


def test_a_deleted_alias_stands_for_nothing(store: Store, collection: CollectionRecord) -> None:
    store.aliases.put("current", collection="photos")
    store.aliases.delete("current")
    with pytest.raises(CollectionNotFound):
        store.collection("current")
