"""Patches for the second look: made while pictures are embedded, or added to a collection that has none."""

import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from indexer.look_ahead import PixelBudget, map_ahead
from indexer.options import IndexOptions
from sightline.encoders.encoder import Encoder
from sightline.encoders.image_input import open_image
from sightline.errors import UnreadableImage
from sightline.locations import locate, picture_at
from sightline.storage.live_segment import LiveSegment
from sightline.storage.patches import ItemPatches, PatchBatch, PatchFormat, quantised_batch
from sightline.storage.records import CollectionRecord, ItemRecord
from sightline.storage.store import Store
from sightline.types import Embeddings, ItemId, Modality

if TYPE_CHECKING:
    from sightline.encoders.matcher import FusionMatcher
    from sightline.encoders.tokens import TokenEncoder

logger = logging.getLogger(__name__)

PICTURES_PER_COMMIT = 2048
"""At most; a commit comes sooner where these take longer than `IndexOptions.commit_seconds`."""

WORK_BETWEEN_COMMITS = 10
"""At least so many times what the last commit took: each copies the patches that the segment has, of a million pictures 14 GB."""

Value = TypeVar("Value")

PatchProgress = Callable[[str, int, int], None]
"""Told what is being done, and how much of how much of it is done."""


CommitListener = Callable[[int], None]
"""Told of how many pictures more the patches are kept, whatever happens."""


def tell_nobody(*_: object) -> None:
    """Nothing: for who does not want to know how far it is."""


@dataclass(frozen=True, slots=True)
class PatchReport:
    """What was done to a collection."""

    collection: str
    num_patched: int
    num_had_patches: int
    num_replaced: int  # of those that were patched, how many had patches of another fusion encoder, which are gone
    num_damaged: int  # pictures whose patches of this fusion encoder were damaged; they are made anew, and count as lacking until then
    skipped: tuple[tuple[str, str], ...]  # key and cause of pictures that cannot be read now


def embedded_with_patches(pixels: NDArray[Any], encoder: Encoder, matcher: "FusionMatcher") -> tuple[Embeddings, PatchBatch]:
    """Embeddings of prepared pictures and their patches with priors, from one pass of the encoder."""
    embeddings, tokens = cast("TokenEncoder", encoder).embed_pixels_with_tokens(pixels)
    return embeddings, quantised_batch(matcher.project(tokens), format_of(matcher), priors_of=matcher.image_priors)


def format_of(matcher: "FusionMatcher") -> PatchFormat:
    """How the matcher's patches are stored."""
    return PatchFormat(matcher.fingerprint, matcher.grid[0], matcher.grid[1], matcher.patch_dim, matcher.num_whole_rows)


def add_patches(
    store: Store,
    record: CollectionRecord,
    encoder: Encoder,
    matcher: "FusionMatcher",
    *,
    options: IndexOptions,
    progress: PatchProgress = tell_nobody,
    committed: CommitListener = tell_nobody,
) -> PatchReport:
    """Gives every picture of the collection that lacks them patches of `matcher`; run it again after a stop and it goes on.

    Patches that are damaged are made anew; every byte of those that there are is read to find them. Pictures that cannot be read any more
    keep their place in the collection and get none. On `KeyboardInterrupt` what was made is committed first. Raises `StoreBusy`,
    `OutOfSpace`.
    """
    collection_id = record.collection_id
    skipped: dict[str, str] = {}
    pace = _Pace(options.commit_seconds)
    with store.writer() as writer:
        segments = [each for each in store.snapshot(collection_id).segments if each.modality is Modality.IMAGE]
        num_damaged_by_segment = [_num_damaged(segment, matcher) for segment in segments]
        missing = [
            segment.live_item_ids() if num_damaged else segment.unpatched_item_ids(matcher.fingerprint)
            for segment, num_damaged in zip(segments, num_damaged_by_segment, strict=True)
        ]
        num_missing = sum(map(len, missing))
        num_of_others = _num_patches_of_others(store, record, matcher)
        num_had = sum(segment.num_live for segment in segments) - num_missing
        for chunk in (chunk for ids in missing for chunk in _batched(ids.tolist(), PICTURES_PER_COMMIT)):
            items = store.items(collection_id, [ItemId(item_id) for item_id in chunk])
            with closing(_patched_blocks(list(items.values()), encoder, matcher, options=options, skipped=skipped)) as blocks:
                for part in pace.parts(blocks):
                    # A commit gives the segment a successor: the one that holds the chunk now is asked for again.
                    segment = next(each for each in store.snapshot(collection_id).segments if len(each.live_rows_of(np.array(chunk))))
                    told = _told(part, lambda: progress("patching pictures", pace.num_made + len(skipped), num_missing))
                    writer.add_patches(collection_id, segment, format_of(matcher), told)
                    committed(pace.num_in_part)
        num_replaced = num_of_others - _num_patches_of_others(store, record, matcher)
    num_damaged = sum(num_damaged_by_segment)
    return PatchReport(record.name, num_missing - len(skipped), num_had, num_replaced, num_damaged, tuple(skipped.items()))


class _Pace:
    """Parts what is made into commits."""

    def __init__(self, seconds: float) -> None:
        self.num_made = 0  # pictures, of all parts
        self.num_in_part = 0  # of the last one
        self._seconds = seconds
        self._due_s = seconds
        self._ended_s = 0.0
        self._interrupt: KeyboardInterrupt | None = None

    def parts(self, blocks: Iterator[ItemPatches]) -> Iterator[Iterator[ItemPatches]]:
        """The blocks in parts; each is to be committed before the next is asked for.

        A `KeyboardInterrupt` that comes while a block is made ends its part, and is raised when that has been committed.
        """
        for first in blocks:
            yield self._part(first, blocks)
            self._due_s = max(self._seconds, WORK_BETWEEN_COMMITS * (time.monotonic() - self._ended_s))
            if self._interrupt is not None:
                raise self._interrupt

    def _part(self, first: ItemPatches, blocks: Iterator[ItemPatches]) -> Iterator[ItemPatches]:
        started_s = time.monotonic()
        self.num_in_part = 0
        block: ItemPatches | None = first
        while block is not None:
            self.num_made += len(block.item_ids)
            self.num_in_part += len(block.item_ids)
            yield block
            try:
                block = next(blocks, None) if time.monotonic() - started_s < self._due_s else None
            except KeyboardInterrupt as interrupt:
                self._interrupt, block = interrupt, None
        self._ended_s = time.monotonic()


def _told(blocks: Iterator[ItemPatches], tell: Callable[[], None]) -> Iterator[ItemPatches]:
    """The blocks, with a word for each."""
    for block in blocks:
        tell()
        yield block


def _num_damaged(segment: LiveSegment, matcher: "FusionMatcher") -> int:
    """Pictures of the segment that the matcher could read patches of, were those whole; 0 where they are. Reads every byte of them."""
    patch_format = segment.files.manifest.patches
    if patch_format is None or patch_format.fusion_fingerprint != matcher.fingerprint or not segment.files.has_damaged_patches():
        return 0
    return min(segment.num_live, segment.files.manifest.num_patched_rows)


def _num_patches_of_others(store: Store, record: CollectionRecord, matcher: "FusionMatcher") -> int:
    """Pictures with patches that another fusion encoder made."""
    return sum(each.num_images for each in store.statistics(record.collection_id).patches if each.fusion_fingerprint != matcher.fingerprint)


def _batched(values: Iterable[Value], size: int) -> Iterator[list[Value]]:
    iterator = iter(values)
    while batch := list(islice(iterator, size)):
        yield batch


def _patched_blocks(
    items: Sequence[ItemRecord], encoder: Encoder, matcher: "FusionMatcher", *, options: IndexOptions, skipped: dict[str, str]
) -> Generator[ItemPatches]:
    budget = PixelBudget(options.max_pixels)

    def prepared(item: ItemRecord) -> NDArray[Any] | None:
        location = locate(item.source, item.key)
        try:
            with (
                open_image(
                    picture_at(Path(location)), name=location, max_pixels=options.max_pixels, target_side=encoder.image_side
                ) as pending,
                budget.take(pending.num_pixels),
            ):
                return encoder.prepare(pending.decode().image)
        except UnreadableImage as error:
            skipped[item.key] = error.reason
            return None

    executor = ThreadPoolExecutor(options.num_workers, thread_name_prefix="decode")
    limit = options.batch_images * options.look_ahead_batches
    try:
        with closing(map_ahead(executor, lambda item: (item, prepared(item)), items, limit=limit)) as found:
            readable = ((item.item_id, pixels) for item, pixels in found if pixels is not None)
            for batch in _batched(readable, options.batch_images):
                _, patches = embedded_with_patches(np.stack([pixels for _, pixels in batch]), encoder, matcher)
                yield ItemPatches(np.array([item_id for item_id, _ in batch], dtype=np.int64), patches)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
