"""Deleting items by hand; what is gone from a source is deleted by indexing it with `GonePolicy.PRUNE`."""

from collections.abc import Sequence

from sightline.storage.store import Store


def delete_items(store: Store, collection: str, keys: Sequence[str]) -> int:
    """Delete the items with these keys, all in one commit, and return how many there were.

    A file that is deleted here and still in its source comes back when that is indexed again. Raises `CollectionNotFound`,
    `ItemNotFound` for the first key that does not exist (nothing is deleted then), `StoreBusy`.
    """
    record = store.collection(collection)
    with store.writer() as writer:
        item_ids = [store.item_by_key(record.collection_id, key).item_id for key in dict.fromkeys(keys)]
        writer.commit(record.collection_id, deleted=item_ids)
        writer.compact_if_worth_it(record.collection_id)
    return len(item_ids)
