"""Every storage test runs on SQLite and on a real PostgreSQL, both built by the migrations."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sightline.storage.records import CollectionRecord
from sightline.storage.store import Store, StoreOptions

DIM = 16


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str | None:
    """The URL of an empty catalogue; None for SQLite in the store's folder."""
    if request.param == "sqlite":
        return None
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def store(tmp_path: Path, database_url: str | None) -> Iterator[Store]:
    """An empty store."""
    with Store.open(tmp_path / "store", database_url=database_url) as opened:
        yield opened


@pytest.fixture
def ann_store(tmp_path: Path, database_url: str | None) -> Iterator[Store]:
    """An empty store that builds an index from 500 rows on."""
    with Store.open(tmp_path / "store", database_url=database_url, options=StoreOptions(exact_max_rows=500)) as opened:
        yield opened


def make_collection(store: Store, name: str = "photos", *, dim: int = DIM) -> CollectionRecord:
    """A collection of a made-up encoder."""
    return store.create_collection(name, encoder_name="made-up", encoder_fingerprint="f00", embedding_dim=dim)


@pytest.fixture
def collection(store: Store) -> CollectionRecord:
    """An empty collection, 16 wide."""
    return make_collection(store)
