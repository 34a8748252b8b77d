"""From a batch on disk into a collection, some items at a time, in the service or in the process of a job."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING

from api.http.decoding import DEFAULT_SIDE, PictureDecoder
from api.http.uploads.batches import Batch, Refused
from api.http.uploads.entries import Entry
from api.library import Sightline
from indexer.upserting import Decode, ItemOutcome, Outcome, SentItem, Upserter
from search.readers import reader_of_patches
from sightline.errors import OutOfSpace, SightlineError, UnfetchableUrl

if TYPE_CHECKING:
    from sightline.storage.records import CollectionRecord

Fetch = Callable[[str], bytes]
"""An address -> what is there; raises `UnfetchableUrl`, `RequestTooLarge`."""

_TOGETHER = 64
"""Items that are embedded and committed together: pictures of 64 are in memory as small as the network reads them."""

_FETCHED_AT_ONCE = 8


def refuse_to_fetch(url: str) -> bytes:
    """For where nothing is fetched."""
    raise UnfetchableUrl(f"{url[:200]!r} is not fetched: the setting SIGHTLINE_SERVICE_FETCH_URLS is off; send the picture itself")


def decode_in(decoder: PictureDecoder, *, image_side: int) -> Decode:
    """Decode pictures in the decoder's processes, whoever indexes them, so that the same one has the same fate and the same embedding."""
    side = max(DEFAULT_SIDE, 2 * image_side)
    return lambda path, name: decoder.decode(path.read_bytes(), name=name, side=side)


class BatchIndexer:
    """Indexes batches into one collection."""

    def __init__(self, sightline: Sightline, record: "CollectionRecord", *, decode: Decode, fetch: Fetch, max_picture_bytes: int) -> None:
        encoder = sightline.encoders.for_collection(record)
        matcher = reader_of_patches(sightline.encoders.matcher_for(record))
        self._upserter = Upserter(sightline.store, record, encoder, matcher=matcher, decode=decode)
        self._fetch = fetch
        self._max_picture_bytes = max_picture_bytes

    def index(self, batch: Batch, *, wait_s: float) -> Iterator[list[ItemOutcome]]:
        """What became of the entries, those that were committed together together.

        Raises `StoreBusy` where another writer is at work for longer than `wait_s`; what was yielded before is committed.
        """
        entries = batch.entries(max_picture_bytes=self._max_picture_bytes)
        with ThreadPoolExecutor(_FETCHED_AT_ONCE, thread_name_prefix="fetch") as executor:
            while together := list(islice(entries, _TOGETHER)):
                ready = list(executor.map(lambda entry: self._ready(batch, entry), together))
                yield self._upserted(ready, wait_s=wait_s)

    def _ready(self, batch: Batch, entry: Entry | SentItem | Refused) -> SentItem | Refused:
        if not isinstance(entry, Entry):
            return entry
        try:
            if entry.picture_url is not None:
                return batch.with_picture(entry, self._fetch(entry.picture_url))
            if entry.picture_bytes is not None:
                return batch.with_picture(entry, entry.picture_bytes)
        except OutOfSpace:
            raise  # is nothing that is wrong with this entry
        except SightlineError as error:
            return Refused(entry.key, error)
        return SentItem(entry.key, entry.text, entry.metadata)

    def _upserted(self, ready: Sequence[SentItem | Refused], *, wait_s: float) -> list[ItemOutcome]:
        sent = iter(self._upserter.upsert([item for item in ready if isinstance(item, SentItem)], wait_s=wait_s))
        return [ItemOutcome(each.key, Outcome.FAILED, error=each.error) if isinstance(each, Refused) else next(sent) for each in ready]
