"""Patches for the second look: made while pictures are embedded, or added to a collection that has none."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from sightline.storage.patches import ItemPatches, PatchBatch, PatchFormat, quantised_batch
from sightline.storage.records import CollectionRecord, ItemRecord
from sightline.storage.store import Store
from sightline.types import Embeddings, ItemId, Modality

if TYPE_CHECKING:
    from sightline.encoders.matcher import FusionMatcher
    from sightline.encoders.tokens import TokenEncoder

logger = logging.getLogger(__name__)

PICTURES_PER_COMMIT = 2048
"""A stop costs at most so many pictures' work; each commit links a segment's other files anew."""

Value = TypeVar("Value")

PatchProgress = Callable[[str, int, int], None]
"""Told what is being done, and how much of how much of it is done."""


def tell_nobody(what: str, num_done: int, num_all: int) -> None:
    """Nothing: for who does not want to know how far it is."""


@dataclass(frozen=True, slots=True)
class PatchReport:
    """What was done to a collection."""

    collection: str
    num_patched: int
    num_had_patches: int
    num_replaced: int  # of those that were patched, how many had patches of another fusion encoder, which are gone
    skipped: tuple[tuple[str, str], ...]  # key and cause of pictures that cannot be read now


def embedded_with_patches(pixels: NDArray[Any], encoder: Encoder, matcher: "FusionMatcher") -> tuple[Embeddings, PatchBatch]:
    """Embeddings of prepared pictures and their patches with priors, from one pass of the encoder."""
    embeddings, tokens = cast("TokenEncoder", encoder).embed_pixels_with_tokens(pixels)
    return embeddings, quantised_batch(matcher.project(tokens), format_of(matcher), priors_of=matcher.image_priors)


def format_of(matcher: "FusionMatcher") -> PatchFormat:
    """How the matcher's patches are stored."""
    return PatchFormat(matcher.fingerprint, matcher.grid[0], matcher.grid[1], matcher.patch_dim, matcher.num_whole_rows)


def add_patches(
    store: Store, record: CollectionRecord, encoder: Encoder, matcher: "FusionMatcher", *, options: IndexOptions, progress: PatchProgress
) -> PatchReport:
    """Gives every picture of the collection that lacks them patches of `matcher`; run it again after a stop and it goes on.

    Pictures that cannot be read any more keep their place in the collection and get none. Raises `StoreBusy`, `OutOfSpace`.
    """
    collection_id = record.collection_id
    skipped: dict[str, str] = {}
    num_done = 0
    with store.writer() as writer:
        segments = [each for each in store.snapshot(collection_id).segments if each.modality is Modality.IMAGE]
        missing = {segment.files.folder.name: segment.unpatched_item_ids(matcher.fingerprint) for segment in segments}
        num_missing = sum(map(len, missing.values()))
        num_of_others = _num_patches_of_others(store, record, matcher)
        num_had = sum(segment.num_live for segment in segments) - num_missing
        for ids in list(missing.values()):
            for chunk in _batched(ids.tolist(), PICTURES_PER_COMMIT):
                # A commit gives the segment a successor: the one that holds the chunk now is asked for again.
                segment = next(each for each in store.snapshot(collection_id).segments if len(each.live_rows_of(np.array(chunk))))
                items = store.items(collection_id, [ItemId(item_id) for item_id in chunk])
                blocks = [*_patched_blocks(list(items.values()), encoder, matcher, options=options, skipped=skipped)]
                if blocks:
                    writer.add_patches(collection_id, segment, format_of(matcher), blocks)
                num_done += len(chunk)
                progress("patching pictures", num_done, num_missing)
        num_replaced = num_of_others - _num_patches_of_others(store, record, matcher)
    return PatchReport(record.name, num_missing - len(skipped), num_had, num_replaced, tuple(skipped.items()))


def _num_patches_of_others(store: Store, record: CollectionRecord, matcher: "FusionMatcher") -> int:
    """Pictures with patches that another fusion encoder made."""
    return sum(each.num_images for each in store.statistics(record.collection_id).patches if each.fusion_fingerprint != matcher.fingerprint)


def _batched(values: Iterable[Value], size: int) -> Iterator[list[Value]]:
    iterator = iter(values)
    while batch := list(islice(iterator, size)):
        yield batch


def _patched_blocks(
    items: Sequence[ItemRecord], encoder: Encoder, matcher: "FusionMatcher", *, options: IndexOptions, skipped: dict[str, str]
) -> Iterator[ItemPatches]:
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
