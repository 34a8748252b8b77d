"""Items that somebody sends, put into a collection under the keys that they give them; no source is looked through.

An item whose key the collection has takes that one's place and its id. Embedding comes first and needs no lock: the store is written for
as long as one commit takes.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from indexer.banks import collection_banks, row_biases
from indexer.maintenance import leaving_uploads
from indexer.patching import embedded_with_patches
from indexer.sources.description import clean_text
from indexer.sources.source import SourceItem
from indexer.sync import image_content_hash, text_content_hash
from sightline.encoders.encoder import Encoder
from sightline.encoders.image_input import DecodedImage
from sightline.errors import InvalidRequest, SightlineError, UnreadableImage
from sightline.locations import upload_path, uploads_folder
from sightline.storage.patches import AddedPatches, joined_patches
from sightline.storage.records import CollectionRecord, ItemRecord, LedgerEntry, NewItem, RunCounts
from sightline.storage.sealed_files import sync_folder
from sightline.storage.store import Store
from sightline.types import Embeddings, ItemId, JsonObject, Modality, RunId

if TYPE_CHECKING:
    from sightline.encoders.matcher import FusionMatcher

Decode = Callable[[Path, str], DecodedImage]
"""A picture's file and what errors call it -> the picture; raises `UnreadableImage`."""

BATCH_IMAGES = 32


@dataclass(frozen=True, slots=True)
class SentPicture:
    """A file with a picture, inside the store and on disk, that the store takes over or that is left where it is."""

    path: Path
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class SentItem:
    """An item as its sender describes it."""

    key: str
    text: str | None = None  # the text, or the picture's caption
    metadata: JsonObject = field(default_factory=dict)
    picture: SentPicture | None = None  # None: a text

    @property
    def modality(self) -> Modality:
        """What it is."""
        return Modality.TEXT if self.picture is None else Modality.IMAGE


class Outcome(StrEnum):
    """What became of a sent item."""

    ADDED = "added"
    REPLACED = "replaced"
    UNCHANGED = "unchanged"  # the collection has the very same under this key
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """What became of one item, and why not more."""

    key: str
    outcome: Outcome
    item_id: ItemId | None = None
    error: SightlineError | None = None


@dataclass(frozen=True, slots=True)
class _Prepared:
    """An item that is new or has changed, ready to be embedded."""

    place: int  # among those that were sent together
    sent: SentItem
    new: NewItem
    pixels: NDArray[Any] | None  # None: a text


class Upserter:
    """Puts items into one collection. What was sent together is committed together."""

    def __init__(
        self, store: Store, record: CollectionRecord, encoder: Encoder, *, matcher: "FusionMatcher | None", decode: Decode
    ) -> None:
        self._store = store
        self._record = record
        self._encoder = encoder
        self._matcher = matcher
        self._decode = decode

    def upsert(self, items: Sequence[SentItem], *, wait_s: float) -> list[ItemOutcome]:
        """What became of each, in order; those that fail do not keep the others.

        Raises `StoreBusy` where another writer is at work for longer than `wait_s`, `OutOfSpace`; then none was taken.
        """
        known = self._store.listing.items_by_key(self._record.collection_id, [item.key for item in items])
        outcomes: dict[int, ItemOutcome] = {}
        prepared: list[_Prepared] = []
        last_by_key = {item.key: place for place, item in enumerate(items)}
        for place, item in enumerate(items):
            if last_by_key[item.key] != place:
                outcomes[place] = _failed(
                    item, InvalidRequest(f"the key {item.key!r} comes again later in what was sent; the last one counts")
                )
                continue
            found = self._prepare(place, item, known.get(item.key))
            if isinstance(found, _Prepared):
                prepared.append(found)
            else:
                outcomes[place] = found
        if prepared:
            item_ids = self._commit(prepared, known, wait_s=wait_s)
            for each, item_id in zip(prepared, item_ids, strict=True):
                outcome = Outcome.REPLACED if each.sent.key in known else Outcome.ADDED
                outcomes[each.place] = ItemOutcome(each.sent.key, outcome, item_id)
        return [outcomes[place] for place in range(len(items))]

    def _prepare(self, place: int, item: SentItem, before: ItemRecord | None) -> _Prepared | ItemOutcome:
        source = _source_of(self._store, self._record, item)
        size_bytes = len((item.text or "").encode()) if item.picture is None else item.picture.size_bytes
        described = SourceItem(source, item.key, item.modality, size_bytes, 0, item.text, item.metadata)
        content_hash = text_content_hash(described) if item.picture is None else image_content_hash(item.picture.sha256, described)
        if before is not None and (before.content_hash, before.modality) == (content_hash, item.modality):
            return ItemOutcome(item.key, Outcome.UNCHANGED, before.item_id)
        pixels, width, height, mtime_ns = None, None, None, 0
        if item.picture is not None:
            try:
                path = self._path_of(item.picture, source)
                decoded = self._decode(path, item.key)
                pixels, width, height = self._encoder.prepare(decoded.image), decoded.width, decoded.height
            except UnreadableImage as error:
                return _failed(item, error)
            mtime_ns = path.stat().st_mtime_ns
        new = NewItem(item.key, item.modality, source, content_hash, size_bytes, mtime_ns, item.text, width, height, metadata=item.metadata)
        return _Prepared(place, item, new, pixels)

    def _path_of(self, picture: SentPicture, source: str) -> Path:
        """Where it is: an earlier try, which ended before its commit, may have taken it over already."""
        return picture.path if picture.path.exists() else Path(source)

    def _commit(self, prepared: Sequence[_Prepared], known: dict[str, ItemRecord], *, wait_s: float) -> list[ItemId]:
        embeddings, patches = self._embed(prepared)
        new = [each.new for each in prepared]
        banks = collection_banks(self._store, self._record.collection_id)
        with self._store.writer(wait_s=wait_s) as writer:
            self._take_over(prepared)
            replaced = {known[each.sent.key].source for each in prepared if each.sent.key in known}
            with leaving_uploads(self._store, self._record, replaced):
                item_ids = writer.commit(
                    self._record.collection_id,
                    added=new,
                    embeddings=embeddings,
                    biases=row_biases(banks, new, embeddings),
                    patches=patches,
                )
        return item_ids

    def _embed(self, prepared: Sequence[_Prepared]) -> tuple[Embeddings, AddedPatches | None]:
        """Rows in the order of `prepared`."""
        embeddings = np.empty((len(prepared), self._encoder.embedding_dim), dtype=np.float32)
        patches = []
        texts = [row for row, each in enumerate(prepared) if each.pixels is None]
        for rows in _batched(texts):
            embeddings[rows] = self._encoder.embed_texts([prepared[row].new.text or "" for row in rows])
        for rows in _batched([row for row, each in enumerate(prepared) if each.pixels is not None]):
            pixels = np.stack([each for row in rows if (each := prepared[row].pixels) is not None])
            if self._matcher is None:
                embeddings[rows] = self._encoder.embed_pixels(pixels)
            else:
                embeddings[rows], batch = embedded_with_patches(pixels, self._encoder, self._matcher)
                patches.append(AddedPatches(np.array(rows, dtype=np.int64), batch))
        return embeddings, joined_patches(patches)

    def _take_over(self, prepared: Sequence[_Prepared]) -> None:
        """Files go to where the catalogue will say that they are; one that is there already has the same content."""
        for each in prepared:
            if each.sent.picture is None:
                continue
            path = Path(each.new.source)
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                each.sent.picture.path.replace(path)
                sync_folder(path.parent)


def note_outcomes(store: Store, record: CollectionRecord, outcomes: Sequence[ItemOutcome]) -> RunId | None:
    """Write what failed of all that came in one upload to the ledger; returns the run that it is listed under, None where nothing did.

    A key that failed and was taken as well, because it came twice, is settled; so is one that failed before and is unchanged now.
    """
    taken = {outcome.key for outcome in outcomes if outcome.error is None}
    source = f"{uploads_folder(store.folder, collection_id=record.collection_id)}/"
    at = datetime.now(UTC)
    skipped = [
        LedgerEntry(
            run_id=RunId(0),  # the store's to give
            key=clean_text(outcome.key),
            source=source,
            cause=error.reason if isinstance(error, UnreadableImage) else str(error),
            error_class=type(error).__name__,
            size_bytes=0,
            mtime_ns=0,
            content_hash=None,  # an indexing run of a folder leaves out what failed before by it
            at=at,
            resolved_at=at if outcome.key in taken else None,
        )
        for outcome in outcomes
        if (error := outcome.error) is not None
    ]
    num = Counter(outcome.outcome for outcome in outcomes)
    counts = RunCounts(new=num[Outcome.ADDED], changed=num[Outcome.REPLACED], unchanged=num[Outcome.UNCHANGED], skipped=num[Outcome.FAILED])
    unchanged = [outcome.key for outcome in outcomes if outcome.outcome is Outcome.UNCHANGED]
    return store.note_sent(record.collection_id, source=source, counts=counts, skipped=skipped, settled=unchanged)


def _source_of(store: Store, record: CollectionRecord, item: SentItem) -> str:
    if item.picture is None:
        return str(uploads_folder(store.folder, collection_id=record.collection_id) / "texts")
    return str(upload_path(store.folder, collection_id=record.collection_id, sha256=item.picture.sha256))


def _failed(item: SentItem, error: SightlineError) -> ItemOutcome:
    return ItemOutcome(item.key, Outcome.FAILED, error=error)


def _batched(rows: Sequence[int]) -> list[list[int]]:
    return [list(rows[start : start + BATCH_IMAGES]) for start in range(0, len(rows), BATCH_IMAGES)]
