"""WebDataset shards: tars in which the files of a sample follow each other and share their name up to the first dot.

Only headers and captions are read while scanning; a picture is read later from its offset. The tars must be uncompressed.
Every shard is a root of its own, so that a pattern may grow (`{0..3}` to `{0..7}`) and its items stay the same.
"""

import glob
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path, PurePosixPath
from typing import IO

from indexer.sources.description import (
    MAX_DESCRIPTION_BYTES,
    Description,
    InvalidDescription,
    clean_text,
    decoded_text,
    description_of_json,
    description_of_text,
)
from indexer.sources.source import BrokenInput, ByteRange, Hidden, PassedOver, Scanned, SourceItem
from sightline.encoders.image_input import image_suffixes
from sightline.errors import InvalidSource
from sightline.types import Modality

_DESCRIPTION_EXTENSIONS = frozenset({"txt", "caption", "json", "cls"})
_COMPRESSED_HEADS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd
_MAX_SHARDS = 1_000_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


class WebDatasetSource:
    """Shards named by a pattern; a key is the shard's name and the member's, `train-0.tar/cat.jpg`."""

    def __init__(self, pattern: str) -> None:
        """`pattern` may have braces (`{000..012}`, `{train,val}`) and, where it has none, `*`.

        Raises `InvalidSource` where a shard does not exist or none can be read; those that cannot, beside others, are broken inputs.
        """
        self._pattern = os.path.abspath(os.path.expanduser(pattern))  # noqa: PTH100, PTH111  it is a pattern, no path
        self._shards = _shards(self._pattern)
        _check_any_is_readable(self._shards)
        repeated = {name for name, count in Counter(shard.name for shard in self._shards).items() if count > 1}
        self._prefix_by_shard = {shard: os.fspath(shard) if shard.name in repeated else shard.name for shard in self._shards}

    @property
    def name(self) -> str:
        """The pattern, absolute."""
        return self._pattern

    @property
    def roots(self) -> tuple[str, ...]:
        """The paths of the shards."""
        return tuple(os.fspath(shard) for shard in self._shards)

    def scan(self) -> Iterator[Scanned]:
        """Shard by shard, sample by sample in the order of the tar."""
        for shard in self._shards:
            yield from self._scan_shard(shard)

    def _scan_shard(self, shard: Path) -> Iterator[Scanned]:
        try:
            mtime_ns = shard.stat().st_mtime_ns
            with tarfile.open(shard, "r:") as tar, shard.open("rb") as file:
                seen: set[str] = set()
                for _, members in groupby(filter(_is_visible_file, tar), key=lambda member: _sample_name(member.name)):
                    for scanned in self._read_sample(shard, list(members), _Reader(file), mtime_ns=mtime_ns):
                        if isinstance(scanned, SourceItem) and scanned.key in seen:
                            yield BrokenInput(scanned.source, scanned.key, "the shard holds a member of this name already")
                            continue
                        if isinstance(scanned, SourceItem):
                            seen.add(scanned.key)
                        yield scanned
                if not _is_complete(shard, tar):
                    yield self._broken(shard, "the shard is cut short or damaged; what follows its last whole member is not read")
        except (OSError, tarfile.TarError) as error:
            yield self._broken(shard, _why_unreadable(shard, error))

    def _read_sample(
        self, shard: Path, members: list[tarfile.TarInfo], reader: "_Reader", *, mtime_ns: int
    ) -> Iterator[SourceItem | BrokenInput | PassedOver]:
        pictures = [member for member in members if PurePosixPath(member.name).suffix.lower() in image_suffixes()]
        description = Description()
        for member in members:
            if _extension(member.name) in _DESCRIPTION_EXTENSIONS:
                try:
                    description = description.joined(reader.description(member))
                except InvalidDescription as error:
                    yield BrokenInput(os.fspath(shard), self._key(shard, member), str(error))
        if not pictures:
            yield PassedOver(len(members))
        for member in pictures:
            yield SourceItem(
                source=os.fspath(shard),
                key=self._key(shard, member),
                modality=Modality.IMAGE,
                size_bytes=member.size,
                mtime_ns=mtime_ns,  # of the shard: members often have none, and a rewritten shard must be looked at again
                text=description.text,
                metadata=description.metadata,
                content=ByteRange(shard, offset=member.offset_data, num_bytes=member.size),
            )

    def _key(self, shard: Path, member: tarfile.TarInfo) -> str:
        return f"{self._prefix_by_shard[shard]}/{_printable(member.name)}"

    def _broken(self, shard: Path, cause: str) -> BrokenInput:
        return BrokenInput(os.fspath(shard), self._prefix_by_shard[shard], cause, hides=Hidden.BELOW)


class _Reader:
    """Reads the small members of an open shard."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def description(self, member: tarfile.TarInfo) -> Description:
        """Captions or metadata. Raises `InvalidDescription`."""
        self._file.seek(member.offset_data)
        content = self._file.read(min(member.size, MAX_DESCRIPTION_BYTES + 1))
        match _extension(member.name):
            case "json":
                return description_of_json(content)
            case "cls":
                return Description(metadata={"class": _class_of(content)})
            case _:
                return description_of_text(content)


def _class_of(content: bytes) -> str | int:
    text = clean_text(decoded_text(content)).strip()
    return int(text) if text.isdecimal() and len(text) < 19 else text


def _is_visible_file(member: tarfile.TarInfo) -> bool:
    return member.isfile() and not PurePosixPath(member.name).name.startswith(".")


def _sample_name(name: str) -> str:
    folder, _, file_name = name.rpartition("/")
    return f"{folder}/{file_name.partition('.')[0]}"


def _extension(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[2].lower()


def _is_complete(shard: Path, tar: tarfile.TarFile) -> bool:
    """Whether an end-of-archive block follows the last member: `tarfile` itself takes any damage for the end."""
    members = tar.getmembers()
    end = 0 if not members else members[-1].offset_data + -(-members[-1].size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    with shard.open("rb") as file:
        file.seek(end)
        return file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)


def _shards(pattern: str) -> tuple[Path, ...]:
    if not _BRACES.search(pattern) and glob.has_magic(pattern):
        found = tuple(Path(path) for path in sorted(glob.glob(pattern)))  # noqa: PTH207  the pattern is absolute
        if not found:
            raise InvalidSource(f"no shard is named like {pattern}")
        return found
    shards = tuple(Path(name) for name in islice(_expanded(pattern), _MAX_SHARDS))
    missing = [os.fspath(shard) for shard in shards if not shard.is_file()]
    if missing:
        more = f" and {len(missing) - 3:,} more" if len(missing) > 3 else ""
        raise InvalidSource(f"{len(missing):,} of {len(shards):,} shards do not exist: {', '.join(missing[:3])}{more}")
    return shards


def _expanded(pattern: str) -> Iterator[str]:
    """`x{00..02}{a,b}` -> x00a, x00b, x01a, ...; a range keeps the width of its first number."""
    braces = _BRACES.search(pattern)
    if braces is None:
        yield pattern
        return
    choice = braces.group(1)
    numbers = _RANGE.fullmatch(choice)
    if numbers:
        first, last = numbers.groups()
        choices: Iterable[str] = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    else:
        choices = choice.split(",")
    for chosen in choices:
        for rest in _expanded(pattern[braces.end() :]):
            yield pattern[: braces.start()] + chosen + rest


def _check_any_is_readable(shards: tuple[Path, ...]) -> None:
    first_cause = ""
    for shard in shards:
        try:
            with tarfile.open(shard, "r:"):
                return
        except (OSError, tarfile.TarError) as error:
            first_cause = first_cause or _why_unreadable(shard, error)
    of_all = "" if len(shards) == 1 else f"none of the {len(shards):,} shards can be read; the first, "
    raise InvalidSource(f"{of_all}{shards[0]}: {first_cause}")


def _why_unreadable(shard: Path, error: OSError | tarfile.TarError) -> str:
    if isinstance(error, OSError):
        return f"the shard cannot be read: {error.strerror or error}"
    try:
        with shard.open("rb") as file:
            head = file.read(6)
    except OSError as reading_error:
        return f"the shard cannot be read: {reading_error.strerror or reading_error}"
    if not head:
        return "the shard is empty, not even a tar without members"
    if head.startswith(_COMPRESSED_HEADS):
        return "the shard is compressed; unpack it, since pictures are read from their place in it"
    return f"the shard is not a tar, or is damaged ({error})"


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()
