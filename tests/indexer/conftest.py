"""Fixtures of the indexer's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sightline.storage.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store of its own for each test."""
    with Store.open(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """An empty folder for pictures."""
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder
