"""Deleting items by hand; what is gone from a source is deleted by indexing it with `GonePolicy.PRUNE`."""

from collections.abc import Collection, Sequence
from pathlib import Path

from sightline.errors import ItemNotFound
from sightline.locations import is_upload, uploads_folder
from sightline.storage.records import CollectionRecord, ItemRecord
from sightline.storage.store import Store
from sightline.storage.writer import Writer
from sightline.types import ItemId

_PAGE_ITEMS = 10_000


def delete_items(store: Store, collection: str, keys: Sequence[str]) -> int:
    """Delete the items with these keys, all in one commit, and return how many there were.

    A file that is deleted here and still in its source comes back when that is indexed again; a picture that was sent to the store is
    gone for good. Raises `CollectionNotFound`, `ItemNotFound` for the first key that does not exist (nothing is deleted then), `StoreBusy`.
    """
    record = store.collection(collection)
    with store.writer() as writer:
        items = [store.item_by_key(record.collection_id, key) for key in dict.fromkeys(keys)]
        _delete(store, writer, record, items)
    return len(items)


def delete_items_by_id(store: Store, collection: str, item_ids: Sequence[ItemId], *, wait_s: float = 0.0) -> int:
    """The same by id; waits for another writer so long."""
    record = store.collection(collection)
    wanted = list(dict.fromkeys(item_ids))
    with store.writer(wait_s=wait_s) as writer:
        found = store.items(record.collection_id, wanted)
        missing = [item_id for item_id in wanted if item_id not in found]
        if missing:
            raise ItemNotFound(f"the collection {record.name!r} holds no item {missing[0]}")
        _delete(store, writer, record, list(found.values()))
    return len(wanted)


def _delete(store: Store, writer: Writer, record: CollectionRecord, items: Sequence[ItemRecord]) -> None:
    writer.commit(record.collection_id, deleted=[item.item_id for item in items])
    writer.compact_if_worth_it(record.collection_id)
    remove_unused_uploads(store, record, {item.source for item in items})


def remove_unused_uploads(store: Store, record: CollectionRecord, sources: Collection[str]) -> None:
    """Delete the files of those `sources` that are pictures sent to the store and that no item of the collection has any more.

    The caller holds the writer's lock, so that nobody begins to use one meanwhile.
    """
    uploads = [source for source in sources if is_upload(source) and Path(source).is_relative_to(store.folder)]
    if not uploads:
        return
    in_use = {item.source for item in store.listing.items_of_source(record.collection_id, uploads)}
    for source in uploads:
        if source not in in_use:
            Path(source).unlink(missing_ok=True)


def remove_orphaned_uploads(store: Store, record: CollectionRecord) -> None:
    """Delete pictures sent to the collection that no item of it has the content of; reads all its items.

    A process that died between taking a picture over and its commit leaves one. The content is asked for, and not the path, so that a store
    that was moved loses nothing. The caller holds the writer's lock.
    """
    uploads = [path for path in uploads_folder(store.folder, collection_id=record.collection_id).glob("??/*") if is_upload(str(path))]
    in_use: set[str] = set()
    after: ItemId | None = None
    while uploads and (items := store.listing.items(record.collection_id, after=after, limit=_PAGE_ITEMS)):
        in_use.update(item.content_hash.partition("+")[0] for item in items)
        after = items[-1].item_id
    for path in uploads:
        if path.name not in in_use:
            path.unlink(missing_ok=True)
