"""Deleting items by hand, and files that no item has any more.

What is gone from a source is deleted by indexing it with `GonePolicy.PRUNE`.
"""

import logging
import shutil
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sightline.errors import ItemNotFound
from sightline.locations import is_upload, uploads_folder
from sightline.storage.records import CollectionRecord, ItemRecord
from sightline.storage.sealed_files import sync_folder, translated_disk_errors
from sightline.storage.store import Store
from sightline.storage.writer import Writer
from sightline.types import ItemId

logger = logging.getLogger(__name__)

_PAGE_ITEMS = 10_000
_LEAVING = "leaving"
"""Folder in a collection's uploads: a file in it says that a commit was about to leave pictures without an item."""


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
    with leaving_uploads(store, record, {item.source for item in items}):
        writer.commit(record.collection_id, deleted=[item.item_id for item in items])
    writer.compact_if_worth_it(record.collection_id)


@contextmanager
def leaving_uploads(store: Store, record: CollectionRecord, sources: Collection[str]) -> Iterator[None]:
    """Around a commit that takes `sources` from items: deletes those that are pictures sent to the store and that no item has after it.

    The catalogue says what is in use, so that files go after the commit; that they are about to is on disk before it, and
    `announced_leavings` finds it where a kill came between the two. The caller holds the writer's lock, so that nobody begins to use one
    meanwhile.
    """
    uploads = [source for source in sources if is_upload(source) and Path(source).is_relative_to(store.folder)]
    if not uploads:
        yield
        return
    announcement = uploads_folder(store.folder, collection_id=record.collection_id) / _LEAVING / uuid.uuid4().hex
    with translated_disk_errors(announcement.parent):
        announcement.parent.mkdir(parents=True, exist_ok=True)
        announcement.touch()
        sync_folder(announcement.parent)
    yield  # a commit that fails may have been made all the same: then the announcement stays
    in_use = {item.source for item in store.listing.items_of_source(record.collection_id, uploads)}
    for source in uploads:
        if source not in in_use:
            Path(source).unlink(missing_ok=True)
    announcement.unlink()


def announced_leavings(store: Store) -> list[Path]:
    """Announcements of commits that were cut off; each stands in a folder of its collection's uploads."""
    return list((store.folder / "uploads").glob(f"*/{_LEAVING}/*"))


def remove_uploads_of_gone_collections(store: Store) -> None:
    """Delete what was sent to collections that there are no more: a deletion that was cut off leaves it. Their ids are never used again.

    The caller holds the writer's lock.
    """
    for folder in uploads_of_gone_collections(store):
        logger.info("removing what was sent to a collection that is gone: %s", folder)
        shutil.rmtree(folder, ignore_errors=True)


def uploads_of_gone_collections(store: Store) -> list[Path]:
    """The folders that `remove_uploads_of_gone_collections` removes."""
    found = [folder for folder in (store.folder / "uploads").glob("*") if folder.name.isdigit()]
    known = {str(record.collection_id) for record in store.collections()} if found else set()  # read after: a new one's folder is newer
    return [folder for folder in found if folder.name not in known]


def remove_orphaned_uploads(store: Store, record: CollectionRecord) -> None:
    """Delete pictures sent to the collection that no item of it has the content of; reads all its items.

    A process that died between taking a picture over and its commit leaves one, and one that died between a commit and what follows it.
    The content is asked for, and not the path, so that a store that was moved loses nothing. The caller holds the writer's lock.
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
