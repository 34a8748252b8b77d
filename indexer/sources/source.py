"""What every kind of source yields: cheap descriptions of items, and of what is no item and why."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from sightline.locations import locate
from sightline.types import JsonObject, Modality


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Where the bytes of a picture are: a file, or a part of one."""

    path: Path
    offset: int = 0
    num_bytes: int | None = None  # None: to the end of the file


@dataclass(frozen=True, slots=True)
class SourceItem:
    """An item as its source describes it, before its picture is read."""

    source: str  # the root that `key` is relative to, see `sightline.locations`
    key: str
    modality: Modality
    size_bytes: int
    mtime_ns: int  # 0 for texts, which are compared by content
    text: str | None = None  # the text body, or the picture's captions, one a line
    metadata: JsonObject = field(default_factory=dict)
    content: ByteRange | None = None  # of an image; a text is its own content

    @property
    def location(self) -> str:
        """Path or URL that opens it; two items are the same item if they are at the same place."""
        return locate(self.source, self.key)


class Hidden(StrEnum):
    """Which known items may be behind a broken input, unseen; they are not gone."""

    NONE = "none"  # at most the one at its own location
    BELOW = "below"  # all below its location: a folder or shard that could not be looked into
    SOURCE = "source"  # all of its source: a row that could not be read, and may have named any of them


@dataclass(frozen=True, slots=True)
class BrokenInput:
    """Something in a source that should have been an item and is not: one line of the ledger."""

    source: str
    key: str
    cause: str
    error_class: str = "InvalidSource"
    hides: Hidden = Hidden.NONE

    @property
    def location(self) -> str:
        """As of an item."""
        return locate(self.source, self.key)


@dataclass(frozen=True, slots=True)
class PassedOver:
    """Files that are no pictures and were not meant to be indexed; counted, so that a wrong folder is noticed."""

    num_files: int


Scanned = SourceItem | BrokenInput | PassedOver


class Source(Protocol):
    """One folder, manifest, text file or set of shards."""

    @property
    def name(self) -> str:
        """What a person calls it and runs remember: an absolute path or pattern."""

    @property
    def roots(self) -> tuple[str, ...]:
        """Every `SourceItem.source` that it can yield."""

    def scan(self) -> Iterator[Scanned]:
        """All there is, always in the same order while nothing changes; reads no picture. May be called again.

        Raises `InvalidSource` where the whole cannot be read.
        """
