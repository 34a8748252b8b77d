"""Stores with known pictures, indexed through the public door."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from api import Sightline, open_store
from sightline.encoders.composed import ComposedEncoder
from tests.api.tiny_fusion import NUM_PICTURES, opened, save_fusion
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


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise, of which each picture has its own."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for number in range(NUM_PICTURES):
        pixels = generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64), Image.Resampling.NEAREST).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def fusion(tiny_encoder: ComposedEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fusion encoder of the tiny encoder."""
    return save_fusion(
        tmp_path_factory.mktemp("fusion") / "tiny",
        encoder_fingerprint=tiny_encoder.fingerprint,
        token_dim=tiny_encoder.image_token_dim,
        text_width=tiny_encoder.text_token_dim,
    )


@pytest.fixture
def store(tmp_path: Path, pictures: Path, tiny_encoder: ComposedEncoder, fusion: Path) -> Path:
    """The pictures in a store, with patches."""
    with opened(tmp_path / "store", tiny_encoder, fusion) as sightline:
        sightline.index(pictures)
    return tmp_path / "store"
