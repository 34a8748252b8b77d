"""Which kind of source a path or pattern names."""

import os
from enum import StrEnum
from pathlib import Path

from indexer.sources.folder import FolderSource
from indexer.sources.manifest import ManifestSource
from indexer.sources.rows import TABLE_SUFFIXES, table_suffix
from indexer.sources.source import Source
from indexer.sources.texts import TextsSource
from indexer.sources.webdataset import WebDatasetSource
from sightline.encoders.image_input import image_suffixes
from sightline.errors import InvalidSource

_COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


class SourceKind(StrEnum):
    """What there is to index from."""

    FOLDER = "folder"
    MANIFEST = "manifest"
    WEBDATASET = "webdataset"
    TEXTS = "texts"


def open_source(spec: str | Path, kind: SourceKind | None = None) -> Source:
    """The source that `spec` names: a folder, a file, or a pattern of shards; without `kind`, as `kind_of` says.

    Raises `InvalidSource` where there is none, or it cannot be read as that kind.
    """
    if not str(spec).strip():
        raise InvalidSource("the name of the source is empty; give a folder, a manifest, a text file or a pattern of tars")
    path = Path(spec).expanduser()
    try:
        return _open(str(spec), path, kind or kind_of(path))
    except OSError as error:
        raise InvalidSource(f"{path} cannot be read: {os.strerror(error.errno or 0)}") from error


def _open(spec: str, path: Path, kind: SourceKind) -> Source:
    if kind is SourceKind.WEBDATASET:
        return WebDatasetSource(spec)
    if not path.exists():
        raise InvalidSource(f"{path} does not exist" + _hint_of_parent(path))
    if path.is_dir() != (kind is SourceKind.FOLDER):
        raise InvalidSource(f"{path} is {'a folder' if path.is_dir() else 'a file'}, which a source of kind {kind} is not")
    match kind:
        case SourceKind.FOLDER:
            return FolderSource(path)
        case SourceKind.MANIFEST:
            return ManifestSource(path)
        case SourceKind.TEXTS:
            return TextsSource(path)


def kind_of(path: Path) -> SourceKind:
    """Folders are folders; `.tar` is a shard; tables are manifests; other files hold texts. Raises `InvalidSource` for what is none."""
    if path.is_dir():
        return SourceKind.FOLDER
    if path.name.endswith(".tar"):
        return SourceKind.WEBDATASET
    if path.name.lower().endswith(_COMPRESSED_TARS):
        raise InvalidSource(f"{path}: shards must not be compressed, since pictures are read from their place in them; unpack it to a .tar")
    if table_suffix(path) in TABLE_SUFFIXES:
        return SourceKind.MANIFEST
    if path.exists() and path.suffix.lower() in image_suffixes():
        raise InvalidSource(f"{path} is a single picture; give the folder that it is in ({path.parent})")
    if path.exists() and table_suffix(path) not in {".txt", ".text", ".md", ""}:
        raise InvalidSource(
            f"{path}: a source is a folder, a manifest ({', '.join(sorted(TABLE_SUFFIXES))}), a text file or a .tar; "
            "to read it as a text file name the kind: texts"
        )
    return SourceKind.TEXTS if path.exists() else SourceKind.FOLDER


def _hint_of_parent(path: Path) -> str:
    """Names the nearest folder above that does exist, which is where the typing error begins."""
    existing = next((parent for parent in path.absolute().parents if parent.is_dir()), None)
    return f" ({existing} does)" if existing is not None else ""
