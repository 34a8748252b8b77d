"""The pictures of a source embedded into memory and nowhere else: what measuring an encoder needs and a store would only slow down."""

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from indexer.look_ahead import PixelBudget, map_ahead
from indexer.options import IndexOptions
from indexer.patching import embedded_with_patches
from indexer.progress import SkippedInput
from indexer.sources.source import BrokenInput, Source, SourceItem
from sightline.encoders.encoder import Encoder
from sightline.encoders.image_input import open_image
from sightline.errors import UnreadableImage
from sightline.storage.patches import PatchBatch, joined_batches
from sightline.types import Embeddings, Modality

if TYPE_CHECKING:
    from sightline.encoders.matcher import FusionMatcher

_DECODED_PIXELS = 128_000_000
"""At once over all threads, as when indexing: some 0.4 GB of RGB and as much again while a mode is converted."""


@dataclass(frozen=True, slots=True)
class ScannedPictures:
    """The pictures of a source, described and not yet read."""

    items: tuple[SourceItem, ...]
    skipped: tuple[SkippedInput, ...]  # pictures and captions that are broken, with the cause


@dataclass(frozen=True, slots=True)
class EmbeddedPictures:
    """Pictures in the order of their source, with a row each."""

    items: tuple[SourceItem, ...]
    embeddings: Embeddings  # (items, embedding_dim)
    skipped: tuple[SkippedInput, ...]  # those that cannot be decoded, with the cause
    patches: PatchBatch | None = None  # of the items, as a store would keep them; None where no matcher asked for them


def scan_pictures(source: Source) -> ScannedPictures:
    """All pictures, in the order of the source; texts are left aside. Raises `InvalidSource` where the whole cannot be read."""
    items: list[SourceItem] = []
    skipped: list[SkippedInput] = []
    for scanned in source.scan():
        match scanned:
            case SourceItem(modality=Modality.IMAGE):
                items.append(scanned)
            case BrokenInput():
                skipped.append(SkippedInput(scanned.key, scanned.cause, scanned.error_class))
    return ScannedPictures(tuple(items), tuple(skipped))


def embed_pictures(
    pictures: Sequence[SourceItem],
    encoder: Encoder,
    *,
    options: IndexOptions,
    advanced: Callable[[int, int], None],
    matcher: "FusionMatcher | None" = None,
) -> EmbeddedPictures:
    """Pictures decoded and embedded as when they are indexed, with patches where `matcher` will read them: 13.7 kB a picture.

    `advanced` is told how many of how many are done, after each batch.
    """
    preparer = _Preparer(encoder, max_pixels=options.max_pixels)
    batch = _Batch(encoder, batch_images=options.batch_images, matcher=matcher)
    kept: list[SourceItem] = []
    skipped: list[SkippedInput] = []
    with ThreadPoolExecutor(options.num_workers) as executor:
        prepared = map_ahead(executor, preparer.prepare, pictures, limit=options.look_ahead)
        for num_done, (item, pixels) in enumerate(zip(pictures, prepared, strict=True), start=1):
            if isinstance(pixels, SkippedInput):
                skipped.append(pixels)
            else:
                kept.append(item)
                batch.add(pixels)
            if num_done % options.batch_images == 0 or num_done == len(pictures):
                advanced(num_done, len(pictures))
    return EmbeddedPictures(tuple(kept), batch.embeddings(), tuple(skipped), batch.patches())


class _Preparer:
    """Turns a picture into what the network takes, or into the cause why not. Thread-safe."""

    def __init__(self, encoder: Encoder, *, max_pixels: int) -> None:
        self._encoder = encoder
        self._max_pixels = max_pixels
        self._budget = PixelBudget(_DECODED_PIXELS)

    def prepare(self, item: SourceItem) -> NDArray[Any] | SkippedInput:
        assert item.content is not None
        try:
            with item.content.path.open("rb") as file:
                file.seek(item.content.offset)
                content = file.read() if item.content.num_bytes is None else file.read(item.content.num_bytes)
            return self._decode(item, content)
        except OSError as error:
            return SkippedInput(item.key, os.strerror(error.errno or 0), UnreadableImage.__name__)
        except UnreadableImage as error:
            return SkippedInput(item.key, error.reason, type(error).__name__)
        except Exception as error:  # noqa: BLE001  # the outermost loop of one picture, as when indexing
            return SkippedInput(item.key, f"the encoder cannot take it ({type(error).__name__}: {error})", UnreadableImage.__name__)

    def _decode(self, item: SourceItem, content: bytes) -> NDArray[Any]:
        side = self._encoder.image_side
        with (
            open_image(io.BytesIO(content), name=item.location, max_pixels=self._max_pixels, target_side=side) as pending,
            self._budget.take(pending.num_pixels),
        ):
            return self._encoder.prepare(pending.decode().image)


class _Batch:
    """Prepared pictures that wait for the network, and the embeddings of those before them."""

    def __init__(self, encoder: Encoder, *, batch_images: int, matcher: "FusionMatcher | None") -> None:
        self._encoder = encoder
        self._batch_images = batch_images
        self._matcher = matcher
        self._waiting: list[NDArray[Any]] = []
        self._parts: list[Embeddings] = [np.empty((0, encoder.embedding_dim), dtype=np.float32)]
        self._patches: list[PatchBatch] = []

    def add(self, pixels: NDArray[Any]) -> None:
        self._waiting.append(pixels)
        if len(self._waiting) == self._batch_images:
            self._flush()

    def embeddings(self) -> Embeddings:
        """Of all that were added, in order."""
        self._flush()
        return np.concatenate(self._parts)

    def patches(self) -> PatchBatch | None:
        """The same; None where no matcher wants them, or nothing was added."""
        self._flush()
        if not self._patches:
            return None
        return joined_batches(self._patches)

    def _flush(self) -> None:
        if not self._waiting:
            return
        pixels = np.stack(self._waiting)
        if self._matcher is None:
            self._parts.append(self._encoder.embed_pixels(pixels))
        else:
            embeddings, patches = embedded_with_patches(pixels, self._encoder, self._matcher)
            self._parts.append(embeddings)
            self._patches.append(patches)
        self._waiting.clear()
