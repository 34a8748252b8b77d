"""What of a source is new, changed, moved, unchanged or gone, decided on values alone.

An item is recognised by where it is (`sightline.locations`), and is unchanged while the size and the time of its file and a
hash of its caption and metadata are. Where these differ it is read; where its content is the same after all it is only noted
anew. A new item whose content is that of one which is gone is a move, and keeps that one's embedding.

What the catalogue knows is held as 64-bit digests in arrays, 55 bytes an item: a million items take as much memory as a few
decoded photographs. Two of ten million items share a digest with a probability of 3 in a million, and then one of them
is read again.
"""

import hashlib
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from indexer.sources.description import description_hash
from indexer.sources.source import SourceItem
from sightline.locations import locate
from sightline.storage.records import KnownItem, LedgerEntry
from sightline.types import ItemId, Modality

_NO_ROW = -1


def digest64(*parts: object) -> int:
    """A 64-bit digest of the parts' texts, the same in every process."""
    joined = "\0".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(joined, digest_size=8).digest(), "little")


def image_content_hash(sha256_hex: str, item: SourceItem) -> str:
    """The catalogue's content hash of a picture: its bytes, and after a plus its caption and metadata if it has any."""
    described = description_hash(item.text, item.metadata)
    return f"{sha256_hex}+{described}" if described else sha256_hex


def text_content_hash(item: SourceItem) -> str:
    """The catalogue's content hash of a text: the text, and after a plus its metadata if it has any."""
    described = description_hash(None, item.metadata)
    sha256_hex = hashlib.sha256((item.text or "").encode()).hexdigest()
    return f"{sha256_hex}+{described}" if described else sha256_hex


def stamp_of_item(item: SourceItem) -> int:
    """Equal for an item and what the catalogue knows of it while it need not be read again."""
    if item.modality is Modality.TEXT:
        return digest64(text_content_hash(item))
    return digest64(item.size_bytes, item.mtime_ns, description_hash(item.text, item.metadata))


def stamp_of_known(known: KnownItem) -> int:
    """The counterpart of `stamp_of_item`."""
    if known.modality is Modality.TEXT:
        return digest64(known.content_hash)
    return digest64(known.size_bytes, known.mtime_ns, known.content_hash.partition("+")[2])


class Standing(StrEnum):
    """What is known of an item before it is read."""

    NEW = "new"
    SUSPECT = "suspect"  # known, and its file looks different
    UNCHANGED = "unchanged"
    SKIPPED_BEFORE = "skipped before"  # could not be indexed, and looks as it did then


class _Ownership(StrEnum):
    OWN = "own"  # from a root of this source
    ABOVE = "above"  # from a folder that holds a root of this source
    VANISHED = "vanished"  # from a folder that is not there any more
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class _Columns:
    """Arrays of one length, sorted by location."""

    location: NDArray[np.uint64]
    key: NDArray[np.uint64]
    stamp: NDArray[np.uint64]
    content: NDArray[np.uint64]
    item_id: NDArray[np.int64]
    source: NDArray[np.uint32]  # places in the list of sources
    is_own: NDArray[np.bool_]
    is_vanished: NDArray[np.bool_]


class KnownItems:
    """What the catalogue knows of a collection, compactly; a `row` is a place in it and never leaves the run."""

    def __init__(self, items: Iterable[KnownItem], *, roots: Iterable[str], folder_exists: Callable[[str], bool]) -> None:
        """`roots` are those of the source that is indexed; `folder_exists` tells whether the folder of another one still does."""
        self._sources: list[str] = []
        self._columns = self._collect(items, tuple(roots), folder_exists)
        self._sorted_keys = np.sort(self._columns.key)
        self._is_seen = np.zeros(len(self), dtype=np.bool_)

    def __len__(self) -> int:
        return len(self._columns.item_id)

    def _collect(self, items: Iterable[KnownItem], roots: tuple[str, ...], folder_exists: Callable[[str], bool]) -> _Columns:
        digests = [array("Q") for _ in range(4)]
        item_ids, sources, own, vanished = array("q"), array("I"), bytearray(), bytearray()
        place_by_source: dict[str, int] = {}
        ownerships: list[_Ownership] = []
        for item in items:
            place = place_by_source.get(item.source)
            if place is None:
                place = place_by_source[item.source] = len(ownerships)
                ownerships.append(_ownership(item.source, roots, folder_exists))
            location = locate(item.source, item.key)
            row = (digest64(location), digest64(item.key), stamp_of_known(item), digest64(item.content_hash))
            for column, digest in zip(digests, row, strict=True):
                column.append(digest)
            item_ids.append(item.item_id)
            sources.append(place)
            ownership = ownerships[place]
            own.append(ownership is _Ownership.OWN or (ownership is _Ownership.ABOVE and location.startswith(roots)))
            vanished.append(ownership is _Ownership.VANISHED)
        self._sources.extend(place_by_source)
        location64, key64, stamp64, content64 = (np.array(column, dtype=np.uint64) for column in digests)
        order = np.argsort(location64, kind="stable")
        return _Columns(
            location=location64[order],
            key=key64[order],
            stamp=stamp64[order],
            content=content64[order],
            item_id=np.array(item_ids, dtype=np.int64)[order],
            source=np.array(sources, dtype=np.uint32)[order],
            is_own=np.frombuffer(own, dtype=np.bool_)[order],
            is_vanished=np.frombuffer(vanished, dtype=np.bool_)[order],
        )

    def row_at(self, location: str) -> int | None:
        """The row of the item that is there."""
        digest = np.uint64(digest64(location))
        row = int(np.searchsorted(self._columns.location, digest))
        return row if row < len(self) and self._columns.location[row] == digest else None

    def holds_key(self, key: str) -> bool:
        """Whether an item of the collection, from whichever source, has this key."""
        digest = np.uint64(digest64(key))
        place = int(np.searchsorted(self._sorted_keys, digest))
        return place < len(self) and bool(self._sorted_keys[place] == digest)

    def see(self, row: int) -> None:
        """Note that the source still has it."""
        self._is_seen[row] = True

    def see_below(self, items: Iterable[KnownItem], prefixes: tuple[str, ...]) -> None:
        """Note as still there what lies where the source could not be looked into."""
        for item in items:
            location = locate(item.source, item.key)
            row = self.row_at(location) if location.startswith(prefixes) else None
            if row is not None:
                self.see(row)

    def see_source(self, source: str) -> None:
        """Note as still there all that came from `source`, of which a part could not be read."""
        if source in self._sources:
            self._is_seen |= self._columns.source == self._sources.index(source)

    def gone_rows(self) -> NDArray[np.int64]:
        """Rows of this source's items that it does not have any more, once it was looked through."""
        return np.flatnonzero(self._columns.is_own & ~self._is_seen)

    def vanished_rows(self) -> NDArray[np.int64]:
        """Rows of items from folders that do not exist any more."""
        return np.flatnonzero(self._columns.is_vanished & ~self._is_seen)

    @property
    def num_own(self) -> int:
        """Items that came from this source."""
        return int(np.count_nonzero(self._columns.is_own))

    def item_id(self, row: int) -> ItemId:
        """The catalogue's id."""
        return ItemId(int(self._columns.item_id[row]))

    def item_ids(self, rows: NDArray[np.int64]) -> list[ItemId]:
        """The catalogue's ids."""
        return [ItemId(item_id) for item_id in self._columns.item_id[rows].tolist()]

    def source(self, row: int) -> str:
        """Where the item came from."""
        return self._sources[int(self._columns.source[row])]

    def has_stamp(self, row: int, stamp: int) -> bool:
        """Whether the item looked like that when it was indexed."""
        return int(self._columns.stamp[row]) == stamp

    def has_content(self, row: int, content_hash: str) -> bool:
        """Whether that is the item's content hash."""
        return int(self._columns.content[row]) == digest64(content_hash)

    def has_key(self, row: int, key: str) -> bool:
        """Whether that is the item's key."""
        return int(self._columns.key[row]) == digest64(key)

    def contents(self, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Digests of the content hashes."""
        return self._columns.content[rows]


def _ownership(source: str, roots: tuple[str, ...], folder_exists: Callable[[str], bool]) -> _Ownership:
    if source in roots:
        return _Ownership.OWN
    if source.endswith("/"):
        if any(root.endswith("/") and root.startswith(source) for root in roots):
            return _Ownership.ABOVE
        if not folder_exists(source):
            return _Ownership.VANISHED
    return _Ownership.OTHER


class Orphans:
    """Items that a new one with the same content may turn out to be. Thread-safe.

    An item that is gone from this source may reappear under any key. One from a folder that does not exist any more is taken
    over only under its own key, which is a folder that was moved as a whole: a copy of a few files from a disk that happens
    to be unplugged should not empty that disk's part of the collection.
    """

    def __init__(self, known: KnownItems) -> None:
        gone, vanished = known.gone_rows(), known.vanished_rows()
        rows = np.concatenate([gone, vanished])
        contents = known.contents(rows)
        order = np.argsort(contents, kind="stable")
        self._known = known
        self._rows = rows[order]
        self._contents = contents[order]
        self._only_under_own_key = np.concatenate([np.zeros(len(gone), np.bool_), np.ones(len(vanished), np.bool_)])[order]
        self._is_claimed = np.zeros(len(rows), dtype=np.bool_)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def claim(self, content_hash: str, *, key: str) -> int | None:
        """The row of an orphan with that content, which is one no longer; None where there is none."""
        digest = np.uint64(digest64(content_hash))
        with self._lock:
            for place in range(int(np.searchsorted(self._contents, digest)), len(self._rows)):
                if self._contents[place] != digest:
                    return None
                row = int(self._rows[place])
                if not self._is_claimed[place] and (not self._only_under_own_key[place] or self._known.has_key(row, key)):
                    self._is_claimed[place] = True
                    self._known.see(row)
                    return row
        return None


class SkippedBefore:
    """The open lines of the ledger for inputs whose content is at fault, by location; a transient fault is always tried again."""

    def __init__(self, entries: Iterable[LedgerEntry]) -> None:
        self._stamp_by_location = {
            digest64(locate(entry.source, entry.key)): digest64(entry.size_bytes, entry.mtime_ns, entry.content_hash.partition("+")[2])
            for entry in entries
            if entry.content_hash is not None
        }

    def holds(self, item: SourceItem, stamp: int) -> bool:
        """Whether this item was skipped and looks as it did then."""
        return bool(self._stamp_by_location) and self._stamp_by_location.get(digest64(item.location)) == stamp


@dataclass(frozen=True, slots=True)
class Work:
    """An item and what is known of it."""

    item: SourceItem
    standing: Standing
    row: int | None  # in `KnownItems`


class Comparison:
    """Compares items with what is known."""

    def __init__(self, known: KnownItems, skipped_before: SkippedBefore) -> None:
        self.known = known
        self._skipped_before = skipped_before

    def compare(self, item: SourceItem) -> Work:
        """How the item stands; notes that the source has it."""
        row = self.known.row_at(item.location)
        if row is not None:
            self.known.see(row)
        stamp = stamp_of_item(item)
        if row is not None and self.known.has_stamp(row, stamp):
            return Work(item, Standing.UNCHANGED, row)
        if self._skipped_before.holds(item, stamp):
            return Work(item, Standing.SKIPPED_BEFORE, row)
        return Work(item, Standing.NEW if row is None else Standing.SUSPECT, row)

    def key_for(self, item: SourceItem) -> str:
        """The key of a new item: its own, or its location where another source's item has that key already."""
        return item.location if self.known.holds_key(item.key) else item.key

    def is_adopted(self, work: Work) -> bool:
        """Whether the item came from a folder inside the one that is indexed now, to which it belongs from here on."""
        if work.row is None or not work.item.source.endswith("/"):
            return False
        source = self.known.source(work.row)
        return source != work.item.source and source.endswith("/") and source.startswith(work.item.source)


def paths_below(locations: Iterable[str]) -> Iterator[str]:
    """For each folder or shard the beginning of the locations of everything below it."""
    for location in locations:
        yield location.removesuffix("/.").rstrip("/") + "/"
