"""A folder of pictures and everything below it, with captions and metadata from files of the same stem.

Hidden files and folders (a leading dot) and the folders that systems keep copies in are passed over: thumbnails, resource
forks and trash are nobody's pictures. Links are followed where they lead out of the folder; a link to something inside
it adds nothing, since that is found at its own place, and would return every such picture twice. A link that leads back
to a folder which is being walked ends there.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from indexer.sources.description import MAX_DESCRIPTION_BYTES, Description, InvalidDescription, description_of_json, description_of_text
from indexer.sources.source import BrokenInput, ByteRange, Hidden, PassedOver, Scanned, SourceItem
from sightline.encoders.image_input import image_suffixes
from sightline.errors import InvalidSource
from sightline.types import Modality

_COPIES_OF_SYSTEMS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
_SIDECAR_SUFFIXES = (".txt", ".json")

_FolderId = tuple[int, int]  # device and inode


class FolderSource:
    """A folder and what is below it; keys are posix paths relative to it."""

    def __init__(self, folder: Path) -> None:
        """Raises `InvalidSource` where the folder does not exist or cannot be read."""
        self._folder = folder.resolve()
        self._root = os.path.join(self._folder, "")  # noqa: PTH118  with the slash that pathlib drops
        try:
            with os.scandir(self._folder):
                pass
        except OSError as error:
            raise InvalidSource(f"the folder {self._folder} cannot be read: {os.strerror(error.errno or 0)}") from error

    @property
    def name(self) -> str:
        """The absolute path."""
        return self._root

    @property
    def roots(self) -> tuple[str, ...]:
        """The absolute path, with a slash at the end."""
        return (self._root,)

    def scan(self) -> Iterator[Scanned]:
        """Folder by folder, sorted by name."""
        yield from self._scan_folder(self._folder, ancestors=())

    def _scan_folder(self, folder: Path, *, ancestors: tuple[_FolderId, ...]) -> Iterator[Scanned]:
        try:
            status = folder.stat()
            listing = _Listing(folder)
        except OSError as error:
            yield self._broken(folder, cause=f"the folder cannot be read: {os.strerror(error.errno or 0)}", hides=Hidden.BELOW)
            return
        this_folder = (status.st_dev, status.st_ino)
        if this_folder in ancestors:
            return
        num_passed_over = 0
        for name in listing.names:
            entry = listing.special_by_name.get(name)
            if entry is not None and entry.is_symlink() and self._leads_inside(entry):
                continue
            if entry is not None and entry.is_dir():
                yield from self._scan_folder(folder / name, ancestors=(*ancestors, this_folder))
            elif entry is not None and not entry.is_file():
                yield from self._describe_no_file(folder, entry)
            elif listing.is_picture(name):
                yield from self._describe(folder / name, listing.sidecars_of(name))
            elif not listing.is_sidecar(name):
                num_passed_over += 1
        if num_passed_over:
            yield PassedOver(num_passed_over)

    def _leads_inside(self, entry: os.DirEntry[str]) -> bool:
        return os.path.realpath(entry.path).startswith(self._root) and entry.is_file() | entry.is_dir()

    def _describe_no_file(self, folder: Path, entry: os.DirEntry[str]) -> Iterator[BrokenInput]:
        """Sockets and the like are nothing; a link to nowhere may be one to a disk that is not there."""
        if entry.is_symlink():
            yield self._broken(folder / entry.name, cause="the link leads nowhere", hides=Hidden.BELOW)

    def _describe(self, path: Path, sidecars: list[str]) -> Iterator[SourceItem | BrokenInput]:
        try:
            os.fspath(path).encode()
            status = path.stat()
        except UnicodeEncodeError:
            yield self._broken(path, cause="the name of the file or of a folder above it is not valid UTF-8; rename it")
            return
        except OSError as error:
            yield self._broken(path, cause=os.strerror(error.errno or 0))
            return
        description = Description()
        for name in sidecars:
            try:
                description = description.joined(_read_sidecar(path.with_name(name)))
            except InvalidDescription as error:
                yield self._broken(path.with_name(name), cause=str(error))
        yield SourceItem(
            source=self._root,
            key=self._key(path),
            modality=Modality.IMAGE,
            size_bytes=status.st_size,
            mtime_ns=status.st_mtime_ns,
            text=description.text,
            metadata=description.metadata,
            content=ByteRange(path),
        )

    def _key(self, path: Path) -> str:
        return os.fspath(path)[len(self._root) :].replace(os.sep, "/")

    def _broken(self, path: Path, *, cause: str, hides: Hidden = Hidden.NONE) -> BrokenInput:
        key = self._key(path).encode("utf-8", "backslashreplace").decode()
        return BrokenInput(source=self._root, key=key or ".", cause=cause, hides=hides)


class _Listing:
    """What is in one folder: names alone for ordinary files, since a folder may hold a million."""

    def __init__(self, folder: Path) -> None:
        self.names: list[str] = []  # all that are not hidden, sorted
        self.special_by_name: dict[str, os.DirEntry[str]] = {}  # folders, links, ...
        self._suffixes = image_suffixes()
        with os.scandir(folder) as entries:
            for entry in entries:
                if _is_hidden(entry.name):
                    continue
                self.names.append(entry.name)
                if not entry.is_file(follow_symlinks=False):
                    self.special_by_name[entry.name] = entry
        self.names.sort()
        self._sidecars_by_stem: dict[str, list[str]] = {}
        for name in self.names:
            stem, suffix = _split(name)
            if suffix in _SIDECAR_SUFFIXES:
                self._sidecars_by_stem.setdefault(stem, []).append(name)
        pictures = (name for name in self.names if self._sidecars_by_stem and self.is_picture(name))
        self._described_stems = {stem for name in pictures if (stem := _split(name)[0]) in self._sidecars_by_stem}

    def is_picture(self, name: str) -> bool:
        return _split(name)[1] in self._suffixes

    def is_sidecar(self, name: str) -> bool:
        stem, suffix = _split(name)
        return suffix in _SIDECAR_SUFFIXES and stem in self._described_stems

    def sidecars_of(self, name: str) -> list[str]:
        return self._sidecars_by_stem.get(_split(name)[0], [])


def _split(name: str) -> tuple[str, str]:
    """Stem, and suffix in lower case."""
    stem, suffix = os.path.splitext(name)  # noqa: PTH122  a Path for every file would double the time of a scan
    return stem, suffix.lower()


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _COPIES_OF_SYSTEMS


def _read_sidecar(path: Path) -> Description:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_DESCRIPTION_BYTES + 1)
    except OSError as error:
        raise InvalidDescription(os.strerror(error.errno or 0)) from error
    return description_of_json(content) if path.suffix.lower() == ".json" else description_of_text(content)
