"""What was sent in one request, on disk inside the store until it is indexed: lines of JSON as they came, or files with a list of them.

A batch is enough to begin again from: a job over it may be killed at any moment, and what it has indexed is found unchanged the next time.
"""

import hashlib
import json
import logging
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from api.http.content_types import require_picture_type
from api.http.uploads.entries import Entry, key_of_line, parse_line
from indexer.maintenance import (
    announced_leavings,
    remove_orphaned_uploads,
    remove_uploads_of_gone_collections,
    uploads_of_gone_collections,
)
from indexer.upserting import SentItem, SentPicture
from sightline.errors import InvalidRequest, RequestTooLarge, SightlineError, UnsupportedMediaType
from sightline.storage.sealed_files import sync_and_close, sync_folder, translated_disk_errors
from sightline.storage.store import Store
from sightline.storage.writer_lock import UPLOADS_LOCK_FILE, held_with_others
from sightline.types import JsonObject

logger = logging.getLogger(__name__)

_LINES = "lines.jsonl"
_PARTS = "parts.jsonl"


@dataclass(frozen=True, slots=True)
class SentPart:
    """A part of a form, received."""

    key: str
    file: str | None = None  # its name in the batch's folder
    sha256: str = ""
    size_bytes: int = 0
    caption: str | None = None
    metadata: JsonObject = field(default_factory=dict)
    content_type: str | None = None  # as it was declared
    error: str | None = None  # why it was not taken


@dataclass(frozen=True, slots=True)
class Refused:
    """An entry that is none."""

    key: str
    error: SightlineError


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch's folder."""

    folder: Path

    @classmethod
    def begin(cls, uploads: Path) -> "Batch":
        """An empty one in the folder of a collection's uploads."""
        with translated_disk_errors(uploads):
            folder = uploads / "incoming" / uuid.uuid4().hex
            folder.mkdir(parents=True)
        return cls(folder)

    @classmethod
    def named(cls, uploads: Path, name: str) -> "Batch":
        """The one of that name. Raises `InvalidRequest` for what is none, or is not there any more."""
        folder = uploads / "incoming" / name
        if len(name) != 32 or not name.isalnum() or not folder.is_dir():
            raise InvalidRequest(f"there is no upload {name!r} any more; send it again")
        return cls(folder)

    @property
    def name(self) -> str:
        """What a job calls it."""
        return self.folder.name

    def create_lines(self) -> IO[bytes]:
        """The file for lines of JSON as they come."""
        return (self.folder / _LINES).open("xb")

    def write_parts(self, parts: list[SentPart]) -> None:
        """The list of a form's parts, once all of them are there."""
        with translated_disk_errors(self.folder):
            file = (self.folder / _PARTS).open("x", encoding="utf-8")
            file.writelines(json.dumps(asdict(part)) + "\n" for part in parts)
            sync_and_close(file)
            sync_folder(self.folder)

    def digest(self) -> str:
        """Tells what was sent from what else might be: the same, sent again, has the same."""
        digest = hashlib.sha256()
        for name in (_PARTS, _LINES):
            if (self.folder / name).exists():
                with (self.folder / name).open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def entries(self, *, max_picture_bytes: int) -> Iterator[Entry | SentItem | Refused]:
        """All of them in the order in which they were sent; memory holds one."""
        if (self.folder / _PARTS).exists():
            with (self.folder / _PARTS).open(encoding="utf-8") as file:
                yield from (self._part(SentPart(**json.loads(line))) for line in file)
            return
        longest = 2 * max_picture_bytes
        with (self.folder / _LINES).open("rb") as lines:
            for number, line in enumerate(iter(lambda: lines.readline(longest), b""), start=1):
                if not line.endswith(b"\n") and len(line) >= longest:
                    yield Refused(f"line {number}", RequestTooLarge(f"line {number} is longer than {longest:,} bytes"))
                    return  # where the next line begins is not looked for: what sends such lines sends no pictures
                if line.strip():
                    yield _parsed(line, number=number, max_picture_bytes=max_picture_bytes)

    def _part(self, part: SentPart) -> SentItem | Refused:
        if part.error is not None or part.file is None:
            return Refused(part.key, InvalidRequest(part.error or "it was not received"))
        try:
            require_picture_type(part.content_type, of="the file")
        except UnsupportedMediaType as error:
            return Refused(part.key, error)
        picture = SentPicture(self.folder / part.file, part.sha256, part.size_bytes)
        return SentItem(part.key, part.caption, part.metadata, picture)

    def with_picture(self, entry: Entry, content: bytes) -> SentItem:
        """The entry with its picture in a file of the batch."""
        sha256 = hashlib.sha256(content).hexdigest()
        path = self.folder / uuid.uuid4().hex
        with translated_disk_errors(self.folder):
            file = path.open("wb")
            file.write(content)
            sync_and_close(file)
        return SentItem(entry.key, entry.text, entry.metadata, SentPicture(path, sha256, len(content)))

    def remove(self) -> None:
        """Everything of it that was not taken over."""
        shutil.rmtree(self.folder, ignore_errors=True)


def remove_batch(store: Store, name: str) -> None:
    """The batch of a job that is done, whatever its collection is called by now; quiet where it is gone."""
    for folder in (store.folder / "uploads").glob("*/incoming/*"):
        if folder.name == name:
            Batch(folder).remove()


def _parsed(line: bytes, *, number: int, max_picture_bytes: int) -> Entry | Refused:
    try:
        return parse_line(line, max_picture_bytes=max_picture_bytes)
    except InvalidRequest as error:
        return Refused(key_of_line(line) or f"line {number}", error)


@contextmanager
def taking_uploads(store: Store) -> Iterator[None]:
    """For as long as a service takes uploads. The first of a store removes what those before it left behind when they died."""
    with ExitStack() as stack:
        try:
            stack.enter_context(held_with_others(store.folder / UPLOADS_LOCK_FILE, if_alone=lambda: _remove_left_behind(store)))
        except (OSError, SightlineError) as error:  # such as a store that may not be written, which can be searched
            logger.warning("uploads that nothing refers to stay until the next start: %s", error)
        yield


def _remove_left_behind(store: Store) -> None:
    """Delete batches that no job still needs, pictures that no item has because a commit was cut off, and what was sent to no collection.

    A collection that a job has still to add a batch to is left to a later start: that job may have taken pictures over before it was
    killed, and no item has them yet. Raises `StoreBusy` where another process writes.
    """
    batches, leavings = list((store.folder / "uploads").glob("*/incoming/*")), announced_leavings(store)
    in_use = {spec.get("batch") for spec in store.jobs.specs_to_do("upload")} if batches else set()
    ids_in_use = {_collection_of(batch) for batch in batches if batch.name in in_use}
    left = [path for path in (*batches, *leavings) if _collection_of(path) not in ids_in_use]
    if not left and not uploads_of_gone_collections(store):
        return
    ids_of_left = {_collection_of(path) for path in left}
    with store.writer():
        remove_uploads_of_gone_collections(store)
        for record in store.collections():
            if record.collection_id in ids_of_left:
                remove_orphaned_uploads(store, record)
        for path in left:  # only now: they say that there may be orphans
            logger.info("removing what an upload or a deletion left behind: %s", path.name)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _collection_of(path: Path) -> int:
    """The id of the collection that a batch, or an announcement, is for."""
    return int(path.parent.parent.name)
