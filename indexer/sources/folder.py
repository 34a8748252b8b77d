"""A folder of pictures and everything below it, with captions and metadata from files of the same stem.

Hidden files and folders (a leading dot) and the folders that systems keep copies in are passed over: thumbnails, resource
forks and trash are nobody's pictures. Links are followed where they lead out of the folder; a link to something inside
it adds nothing, since that is found at its own place, and would return every such picture twice. A link that leads back
to a folder which is being walked ends there.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from indexer.sources.description import MAX_DESCRIPTION_BYTES, Description, InvalidDescription, description_of_json, description_of_text
from indexer.sources.source import BrokenInput, ByteRange, PassedOver, Scanned, SourceItem
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
            with os.scandir(folder) as listing:
                entries = sorted((entry for entry in listing if not _is_hidden(entry.name)), key=lambda entry: entry.name)
        except OSError as error:
            yield self._broken(folder, cause=f"the folder cannot be read: {os.strerror(error.errno or 0)}", hides_items=True)
            return
        this_folder = (status.st_dev, status.st_ino)
        if this_folder in ancestors:
            return
        contents = _Contents(entry.name for entry in entries)
        num_passed_over = 0
        for entry in entries:
            if entry.is_symlink() and self._leads_inside(entry):
                continue
            if entry.is_dir():
                yield from self._scan_folder(folder / entry.name, ancestors=(*ancestors, this_folder))
            elif not entry.is_file():
                yield from self._describe_no_file(folder, entry)
            elif contents.is_picture(entry.name):
                yield from self._describe(folder, entry, contents.sidecars_of(entry.name))
            elif not contents.is_sidecar(entry.name):
                num_passed_over += 1
        if num_passed_over:
            yield PassedOver(num_passed_over)

    def _leads_inside(self, entry: os.DirEntry[str]) -> bool:
        return os.path.realpath(entry.path).startswith(self._root) and entry.is_file() | entry.is_dir()

    def _describe_no_file(self, folder: Path, entry: os.DirEntry[str]) -> Iterator[BrokenInput]:
        """Sockets and the like are nothing; a link to nowhere may be one to a disk that is not there."""
        if entry.is_symlink():
            yield self._broken(folder / entry.name, cause="the link leads nowhere", hides_items=True)

    def _describe(self, folder: Path, entry: os.DirEntry[str], sidecars: list[str]) -> Iterator[SourceItem | BrokenInput]:
        path = folder / entry.name
        try:
            entry.path.encode()
            status = entry.stat()
        except UnicodeEncodeError:
            yield self._broken(path, cause="the name of the file or of a folder above it is not valid UTF-8; rename it")
            return
        except OSError as error:
            yield self._broken(path, cause=os.strerror(error.errno or 0))
            return
        description = Description()
        for name in sidecars:
            try:
                description = description.joined(_read_sidecar(folder / name))
            except InvalidDescription as error:
                yield self._broken(folder / name, cause=str(error))
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

    def _broken(self, path: Path, *, cause: str, hides_items: bool = False) -> BrokenInput:
        key = self._key(path).encode("utf-8", "backslashreplace").decode()
        return BrokenInput(source=self._root, key=key or ".", cause=cause, hides_items=hides_items)


class _Contents:
    """The files of one folder: which are pictures, and which describe one of them by having its stem."""

    def __init__(self, names: Iterable[str]) -> None:
        self._suffixes = image_suffixes()
        self._sidecars_by_stem: dict[str, list[str]] = {}
        self._stems_of_pictures: set[str] = set()
        for name in names:
            stem, suffix = _split(name)
            if suffix in _SIDECAR_SUFFIXES:
                self._sidecars_by_stem.setdefault(stem, []).append(name)
            elif suffix in self._suffixes:
                self._stems_of_pictures.add(stem)

    def is_picture(self, name: str) -> bool:
        return _split(name)[1] in self._suffixes

    def is_sidecar(self, name: str) -> bool:
        stem, suffix = _split(name)
        return suffix in _SIDECAR_SUFFIXES and stem in self._stems_of_pictures

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
