"""Originals and thumbnails of items: where their bytes are, what they are, and a smaller picture of them.

Which file is read is decided by the catalogue alone. What is sent is only what begins like a picture of a kind that is shown and not run:
a file that was put in its place since it was indexed is no way to read anything else.
"""

import hashlib
import io
import os
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from PIL import Image

from api.http.decoding import PictureDecoder
from indexer.sources.source import ByteRange
from sightline.encoders.image_input import decode_image
from sightline.errors import InvalidRequest, NotFound, UnreadableImage
from sightline.locations import is_upload, locate
from sightline.storage.records import ItemRecord
from sightline.types import Modality

ThumbnailFormat = Literal["jpeg", "webp"]

_CHUNK_BYTES = 256_000
_HEAD_BYTES = 16
_QUALITY = 82
"""Of thumbnails: half the bytes of 95, and no difference that is seen at that size."""

_DECODERS = 2
"""Pictures that are decoded for thumbnails at once: each may take `max_pixels` of memory."""

_KEPT_BYTES = 64_000_000
_KEPT_SHARDS = 8

_MAGIC = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"\x00\x00\x00\x0cjP  \r\n", "image/jp2"),
    (b"\x00\x00\x01\x00", "image/x-icon"),
    (b"8BPS", "image/vnd.adobe.photoshop"),
)


@dataclass(frozen=True, slots=True)
class Original:
    """The bytes of an item's picture, found and not yet read."""

    content: ByteRange
    num_bytes: int
    mtime_ns: int  # of the file that holds them
    media_type: str | None  # None for what is not sent as it is

    @property
    def etag(self) -> str:
        """Changes when the bytes may have."""
        parts = (self.content.path, self.content.offset, self.num_bytes, self.mtime_ns)
        return f'"{hashlib.blake2b(repr(parts).encode(), digest_size=12).hexdigest()}"'

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` up to `end`, in pieces."""
        with self.content.path.open("rb") as file:
            file.seek(self.content.offset + start)
            remaining = end - start
            while remaining and (chunk := file.read(min(_CHUNK_BYTES, remaining))):
                remaining -= len(chunk)
                yield chunk


class Shards:
    """Where the members of tars are, read once for each of the last few tars. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._members_by_shard: OrderedDict[tuple[str, int, int], dict[str, tuple[int, int]]] = OrderedDict()

    def member(self, shard: Path, name: str) -> ByteRange:
        """Raises `KeyError` for a member that is none, OSError and `tarfile.TarError` for a shard that can't be read."""
        status = shard.stat()
        stamp = (os.fspath(shard), status.st_mtime_ns, status.st_size)
        with self._lock:
            members = self._members_by_shard.get(stamp)
            if members is None:
                members = self._members_by_shard[stamp] = _members(shard)
            self._members_by_shard.move_to_end(stamp)
            while len(self._members_by_shard) > _KEPT_SHARDS:
                self._members_by_shard.popitem(last=False)
        offset, num_bytes = members[name]
        return ByteRange(shard, offset=offset, num_bytes=num_bytes)


def _members(shard: Path) -> dict[str, tuple[int, int]]:
    with tarfile.open(shard, "r:") as tar:
        named = ((member.name.encode("utf-8", "backslashreplace").decode(), member) for member in tar if member.isfile())
        return {name: (member.offset_data, member.size) for name, member in named}


class Pictures:
    """Opens the pictures of items, and keeps the thumbnails that were made last. Thread-safe."""

    def __init__(self, *, max_pixels: int, decoder: PictureDecoder) -> None:
        """`decoder` is for pictures that were sent by strangers, whom nobody vouches for."""
        self._max_pixels = max_pixels
        self._decoder = decoder
        self._shards = Shards()
        self._decoders = threading.BoundedSemaphore(_DECODERS)
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int, str], bytes] = OrderedDict()
        self._kept_bytes = 0

    def original(self, item: ItemRecord) -> Original:
        """The picture's bytes. Raises `InvalidRequest` for a text, `NotFound` where the file is gone."""
        if item.modality is not Modality.IMAGE:
            raise InvalidRequest(f"item {item.item_id} is a text; only pictures have an original and a thumbnail")
        try:
            content = self._content(Path(locate(item.source, item.key)))
            with content.path.open("rb") as file:
                status = os.fstat(file.fileno())
                num_bytes = status.st_size if content.num_bytes is None else content.num_bytes
                return Original(content, num_bytes, status.st_mtime_ns, _media_type(file, content))
        except (OSError, KeyError, ValueError, tarfile.TarError) as error:
            raise NotFound(f"the file of item {item.item_id} ({item.key}) is not there any more, or cannot be read") from error

    def _content(self, path: Path) -> ByteRange:
        if path.is_file():
            return ByteRange(path)
        shard = next((parent for parent in path.parents if parent.is_file()), None)
        if shard is None:
            raise FileNotFoundError(path)
        return self._shards.member(shard, path.relative_to(shard).as_posix())

    def thumbnail(self, item: ItemRecord, original: Original, *, side: int, as_format: ThumbnailFormat) -> bytes:
        """The picture upright and no longer than `side` pixels, never enlarged. Raises `UnreadableImage`."""
        wanted = (original.etag, side, as_format)
        with self._lock:
            if wanted in self._kept:
                self._kept.move_to_end(wanted)
                return self._kept[wanted]
        with self._decoders:
            content = self._draw(item, original, side=side, as_format=as_format)
        self._keep(wanted, content)
        return content

    def _draw(self, item: ItemRecord, original: Original, *, side: int, as_format: ThumbnailFormat) -> bytes:
        picture = self._decoded(item, original, side=side)
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        picture.save(buffer, format=as_format, quality=_QUALITY)
        return buffer.getvalue()

    def _decoded(self, item: ItemRecord, original: Original, *, side: int) -> Image.Image:
        content = original.content
        if is_upload(item.source):
            return self._decoder.decode(content.path.read_bytes(), name=item.key, side=side).image
        source = content.path if content.num_bytes is None else b"".join(original.read(0, original.num_bytes))
        # A JPEG decoded at half of `side` for its shorter side is at least `side` wide then, which is what it is reduced from.
        return decode_image(source, name=item.key, max_pixels=self._max_pixels, target_side=max(1, side // 2)).image

    def _keep(self, wanted: tuple[str, int, str], content: bytes) -> None:
        with self._lock:
            if wanted not in self._kept:
                self._kept[wanted] = content
                self._kept_bytes += len(content)
            while self._kept_bytes > _KEPT_BYTES:
                self._kept_bytes -= len(self._kept.popitem(last=False)[1])


def _media_type(file: IO[bytes], content: ByteRange) -> str | None:
    file.seek(content.offset)
    head = file.read(_HEAD_BYTES if content.num_bytes is None else min(_HEAD_BYTES, content.num_bytes))
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"):
        return "image/avif"
    return next((media_type for magic, media_type in _MAGIC if head.startswith(magic)), None)


def require_media_type(item: ItemRecord, original: Original) -> str:
    """The media type; raises `UnreadableImage` for what is not sent as it is."""
    if original.media_type is None:
        raise UnreadableImage(item.key, reason="its format is not sent as it is, since browsers do not show it; its thumbnail is")
    return original.media_type
