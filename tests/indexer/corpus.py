"""Pictures and stores for the tests of the indexer."""

import contextlib
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image

from indexer.options import IndexOptions
from indexer.pipeline import index_source
from indexer.progress import ProgressListener
from indexer.report import IndexReport
from indexer.sources import BrokenInput, PassedOver, Source, SourceItem, open_source
from sightline.storage.records import ItemRecord
from sightline.storage.store import Store
from tests.histogram_encoder import HistogramEncoder

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
COLOURS = ("red", "green", "blue", "yellow", "black", "white")
NOBODY = 65534
_OTHERS_MAY_ENTER = stat.S_IXGRP | stat.S_IRGRP | stat.S_IXOTH | stat.S_IROTH


def write_picture(path: Path, colour: str = "red", *, serial: int = 0, side: int = 24) -> Path:
    """A picture of one colour with a few pixels that make its content unlike that of any other `serial`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (side, side), colour)
    for place in range(3):
        image.putpixel((place, 0), (serial >> (8 * place) & 255, 1, 2))
    image.save(path)
    return path


def write_pictures(folder: Path, count: int, *, start: int = 0) -> Path:
    """`count` pictures in three subfolders, colours in turn."""
    for serial in range(start, start + count):
        write_picture(folder / f"part{serial % 3}" / f"{serial:05d}.png", COLOURS[serial % len(COLOURS)], serial=serial)
    return folder


def index(
    store: Store,
    source: Path | str | Source,
    *,
    collection: str = "photos",
    options: IndexOptions | None = None,
    progress: ProgressListener | None = None,
    encoder: HistogramEncoder | None = None,
) -> IndexReport:
    """Index with the deterministic encoder."""
    opened = open_source(source) if isinstance(source, Path | str) else source
    return index_source(store, collection, opened, encoder or HistogramEncoder(), options=options, progress=progress)


def items_by_key(store: Store, *, collection: str = "photos") -> dict[str, ItemRecord]:
    """All items of a collection."""
    record = store.collection(collection)
    item_ids = [known.item_id for known in store.known_items(record.collection_id)]
    items = store.items(record.collection_id, item_ids)
    by_key = {item.key: item for item in items.values()}
    assert len(by_key) == len(item_ids)
    return by_key


def scanned_items(source: Source) -> list[SourceItem]:
    """What a source yields, without the rest."""
    return [scanned for scanned in source.scan() if isinstance(scanned, SourceItem)]


def broken_inputs(source: Source) -> list[BrokenInput]:
    """What a source cannot read."""
    return [scanned for scanned in source.scan() if isinstance(scanned, BrokenInput)]


def num_passed_over(source: Source) -> int:
    """Files that a source has no use for."""
    return sum(scanned.num_files for scanned in source.scan() if isinstance(scanned, PassedOver))


@contextlib.contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """Nobody may read `path` for the length of the block, not even root, who becomes nobody meanwhile."""
    mode = path.stat().st_mode
    for parent in path.parents:  # the folders of a test are its owner's alone
        if parent.stat().st_mode & _OTHERS_MAY_ENTER != _OTHERS_MAY_ENTER:
            if parent.stat().st_uid != os.geteuid():
                pytest.skip(f"needs a folder for tests that others may enter, and {parent} is none")
            parent.chmod(parent.stat().st_mode | _OTHERS_MAY_ENTER)
    path.chmod(0)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        path.chmod(mode)
