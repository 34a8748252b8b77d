"""Which files a job may read: those below the folders that the settings name, wherever links lead."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from indexer.sources import BrokenInput, Scanned, Source, SourceItem
from sightline.errors import InvalidSource

_PATTERN = re.compile(r"[*?\[{]")


def require_within(source: str, roots: Sequence[Path], *, store: Path) -> None:
    """Raises `InvalidSource` unless the source, a path or a pattern of shards, is below one of `roots` and not inside the store.

    What exists outside of them is not told: the sentence is the same whether it does.
    """
    if not roots:
        raise InvalidSource("no folder may be read by jobs: the setting SIGHTLINE_SERVICE_SOURCE_ROOTS names those that may")
    fixed = _PATTERN.split(source)[0]
    path = Path(fixed if fixed == source else fixed.rpartition("/")[0] or "/")
    if not path.is_absolute() or ".." in Path(source).parts or "\0" in source:
        raise InvalidSource(f"{source!r} is no source of a job: expected an absolute path without '..'")
    if not Roots(roots).hold(path) or is_inside(path, store):
        raise InvalidSource(f"{source!r} is outside of the folders that jobs may read (SIGHTLINE_SERVICE_SOURCE_ROOTS)")


def is_inside(path: Path, folder: Path) -> bool:
    """Whether it leads into the folder, links followed."""
    return path.resolve().is_relative_to(folder.resolve())


class Roots:
    """Folders, resolved once."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = tuple(root.resolve() for root in roots)
        self._holds_folder = lru_cache(maxsize=1024)(self._holds)

    def hold(self, path: Path) -> bool:
        """Whether the path leads into one of them, links followed."""
        try:
            if path.is_symlink():
                return self._holds(path)
            return self._holds_folder(path.parent) or self._holds(path)
        except (OSError, RuntimeError):  # a name that is too long for any file, a ring of links: it leads nowhere
            return False

    def _holds(self, path: Path) -> bool:
        resolved = path.resolve()
        return any(resolved.is_relative_to(root) for root in self._roots)


class ConfinedSource:
    """A source whose pictures outside of the roots, named by a manifest or reached by a link, are broken inputs."""

    def __init__(self, source: Source, roots: Sequence[Path]) -> None:
        """Raises `InvalidSource` where a shard is outside of them."""
        self._source = source
        self._roots = Roots(roots)
        for root in source.roots:
            if not self._roots.hold(Path(root)):
                raise InvalidSource(f"{root} is outside of the folders that jobs may read (SIGHTLINE_SERVICE_SOURCE_ROOTS)")

    @property
    def name(self) -> str:
        """As the source's own."""
        return self._source.name

    @property
    def roots(self) -> tuple[str, ...]:
        """As the source's own."""
        return self._source.roots

    def scan(self) -> Iterator[Scanned]:
        """As the source's own, but for what is outside."""
        for scanned in self._source.scan():
            if isinstance(scanned, SourceItem) and scanned.content is not None and not self._roots.hold(scanned.content.path):
                yield BrokenInput(scanned.source, scanned.key, "it is outside of the folders that jobs may read")
            else:
                yield scanned
