"""Stores with known pictures, indexed through the public door."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from api import Sightline, open_store
from tests.histogram_encoder import HistogramEncoder

COLOURS = ("red", "green", "blue", "yellow", "black", "white")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six pictures of one colour each, in three shapes; the red one has a caption."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for colour, shape in zip(COLOURS, [(64, 48), (48, 64), (120, 30)] * 2, strict=True):
        Image.new("RGB", shape, colour).save(folder / f"{colour}.png")
    (folder / "red.txt").write_text("a red wall\n")
    return folder


@pytest.fixture
def sightline(tmp_path: Path, photos: Path) -> Iterator[Sightline]:
    """A store with the photos in its default collection."""
    with open_store(tmp_path / "store", encoder=HistogramEncoder()) as sightline:
        sightline.index(photos)
        yield sightline
