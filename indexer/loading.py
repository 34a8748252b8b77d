"""What happens to one input on a decoding thread: read, hash, compare, decode, prepare."""

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from numpy.typing import NDArray

from indexer.look_ahead import PixelBudget
from indexer.sources.source import ByteRange
from indexer.sync import Comparison, Orphans, Standing, Work, image_content_hash, text_content_hash
from sightline.encoders.encoder import Encoder
from sightline.encoders.image_input import open_image
from sightline.errors import UnreadableImage
from sightline.types import Modality

_READ_AT_ONCE_BYTES = 32_000_000
"""Files up to this are read into memory once, for the hash and the decoder; larger ones are hashed in pieces and then opened."""

_DECODED_PIXELS = 128_000_000
"""At once over all threads: some 0.4 GB of RGB and as much again while a mode is converted."""


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """A picture that waits for the network."""

    work: Work
    content_hash: str
    pixels: NDArray[Any]  # as `Encoder.prepare` gives them
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class PreparedText:
    """A text that waits for the network."""

    work: Work
    content_hash: str
    text: str


@dataclass(frozen=True, slots=True)
class SameContent:
    """A file that only looked different."""

    work: Work


@dataclass(frozen=True, slots=True)
class MovedHere:
    """A new input that is an item which was elsewhere."""

    work: Work
    row: int  # of that item


@dataclass(frozen=True, slots=True)
class Unusable:
    """An input that cannot be indexed."""

    work: Work
    cause: str
    error_class: str
    content_hash: str | None  # None where the content could not be read, so that the next run tries again


Loaded = PreparedImage | PreparedText | SameContent | MovedHere | Unusable


class Loader:
    """Turns inputs into what the network takes. Thread-safe."""

    def __init__(self, encoder: Encoder, comparison: Comparison, orphans: Orphans, *, max_pixels: int) -> None:
        self._encoder = encoder
        self._comparison = comparison
        self._orphans = orphans
        self._max_pixels = max_pixels
        self._budget = PixelBudget(_DECODED_PIXELS)

    def load(self, work: Work) -> Loaded:
        """Never raises for what one input can be blamed for."""
        if work.item.modality is Modality.TEXT:
            return self._load_text(work)
        assert work.item.content is not None
        try:
            with _opened(work.item.content) as (file, sha256_hex):
                return self._load_image(work, file, image_content_hash(sha256_hex, work.item))
        except OSError as error:
            cause = "the file vanished" if isinstance(error, FileNotFoundError) else os.strerror(error.errno or 0)
            return Unusable(work, cause, UnreadableImage.__name__, content_hash=None)

    def _load_text(self, work: Work) -> Loaded:
        content_hash = text_content_hash(work.item)
        return self._known_content(work, content_hash) or PreparedText(work, content_hash, work.item.text or "")

    def _load_image(self, work: Work, file: IO[bytes], content_hash: str) -> Loaded:
        known = self._known_content(work, content_hash)
        if known is not None:
            return known
        try:
            with (
                open_image(file, name=work.item.location, max_pixels=self._max_pixels, target_side=self._encoder.image_side) as pending,
                self._budget.take(pending.num_pixels),
            ):
                decoded = pending.decode()
                pixels = self._encoder.prepare(decoded.image)
        except UnreadableImage as error:
            return Unusable(work, error.reason, type(error).__name__, content_hash)
        except Exception as error:  # noqa: BLE001  the outermost loop of one input: a shape that a processor trips over costs one line
            cause = f"the encoder cannot take it ({type(error).__name__}: {error})"
            return Unusable(work, cause, UnreadableImage.__name__, content_hash)
        return PreparedImage(work, content_hash, pixels, decoded.width, decoded.height)

    def _known_content(self, work: Work, content_hash: str) -> SameContent | MovedHere | None:
        if work.row is not None:
            return SameContent(work) if self._comparison.known.has_content(work.row, content_hash) else None
        if work.standing is Standing.NEW and len(self._orphans):
            row = self._orphans.claim(content_hash, key=work.item.key)
            return None if row is None else MovedHere(work, row)
        return None


@contextmanager
def _opened(content: ByteRange) -> Iterator[tuple[IO[bytes], str]]:
    """The bytes as a file, and their SHA-256 in hex."""
    with content.path.open("rb") as file:
        if content.num_bytes is None and os.fstat(file.fileno()).st_size > _READ_AT_ONCE_BYTES:
            yield file, hashlib.file_digest(file, "sha256").hexdigest()
            return
        file.seek(content.offset)
        content_bytes = file.read() if content.num_bytes is None else file.read(content.num_bytes)
    yield io.BytesIO(content_bytes), hashlib.sha256(content_bytes).hexdigest()
