"""Connections to the catalogue: SQLite in the store's folder, or PostgreSQL by URL, and the migrations that build both."""

import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import ConnectionPoolEntry

from sightline.errors import Conflict, DatabaseUnavailable, InvalidSetting, OutOfSpace, SchemaTooNew, StorageError
from sightline.storage.columns import storable_json
from sightline.storage.quick_reads import QuickReads, QuickSelect
from sightline.storage.tables import SCHEMA_REVISION

logger = logging.getLogger(__name__)

SQLITE_FILE = "catalogue.sqlite"
_BUSY_TIMEOUT_S = 30.0
"""Catalogue transactions take milliseconds; a compaction that repoints a million items holds the database for seconds."""

_KEPT_CONNECTIONS = 32
"""As many as searches run at once: one more than is kept is opened anew for each search. None is opened before it is needed."""

_WRITING, _AUTOCOMMIT = "sightline_writing", "sightline_autocommit"
_DISK_FULL_STATES = frozenset({"53100"})  # PostgreSQL: disk_full
_UNIQUE_VIOLATION = "23505"


def catalogue_url(folder: Path, database_url: str | None) -> URL:
    """Where the catalogue is. Raises `InvalidSetting` for what is no URL of SQLite or PostgreSQL."""
    if database_url is None:
        return URL.create("sqlite", database=str(folder / SQLITE_FILE))
    expected = "expected postgresql://user:password@host/database or sqlite:///path"
    try:
        url = make_url(database_url)
    except ArgumentError as error:
        raise InvalidSetting(f"the database URL can't be read; {expected}") from error
    match url.get_backend_name():
        case "sqlite" if url.database and url.database != ":memory:":
            return url
        case "postgresql" | "postgres":
            return url.set(drivername="postgresql+psycopg")
        case other:
            raise InvalidSetting(f"the database URL names {other!r} ({url.database!r}); {expected}")


class Database:
    """One catalogue: `reading` for single statements, `consistent_reading` for several, `writing` for one transaction.

    Thread-safe. Third-party errors leave as those of `sightline.errors`.
    """

    def __init__(self, url: URL) -> None:
        self.url = url
        self.is_sqlite = url.get_backend_name() == "sqlite"
        try:
            self._engine = self._create_engine()
        except (NoSuchModuleError, ModuleNotFoundError) as error:
            raise DatabaseUnavailable(
                f"{url.drivername} needs a driver that is not installed: pip install 'sightline[postgres]'"
            ) from error
        # A statement of its own needs no transaction: half the round trips of a search. SQLite's driver is in autocommit already, and
        # SQLAlchemy's way to ask for it would cost a PRAGMA each time.
        options = {_AUTOCOMMIT: True} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"}
        self._autocommit = self._engine.execution_options(**options)
        self._quick = QuickReads(self._engine)

    def __str__(self) -> str:
        """The URL without passwords, which PostgreSQL takes as parameters too."""
        secrets = {name: "***" for name in self.url.query if "pass" in name.lower()}
        return self.url.update_query_dict(secrets).render_as_string(hide_password=True)

    def _create_engine(self) -> Engine:
        if not self.is_sqlite:
            options = {"pool_size": _KEPT_CONNECTIONS, "pool_pre_ping": False, "connect_args": {"connect_timeout": 10}}
            return create_engine(self.url, json_serializer=storable_json, **options)
        url = _read_only_url(self.url) or self.url
        options = {"pool_size": _KEPT_CONNECTIONS, "connect_args": {"timeout": _BUSY_TIMEOUT_S}}
        engine = create_engine(url, json_serializer=storable_json, **options)
        event.listen(engine, "connect", _prepare_sqlite if url is self.url else _prepare_read_only_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection on which each statement stands for itself."""
        with self.translated_errors(), self._autocommit.connect() as connection:
            yield connection

    def quick_rows(self, select: QuickSelect, parameters: Mapping[str, Any]) -> list[list[Any]]:
        """What one statement gives, at the least cost; for what is asked at every search."""
        with self.translated_errors():
            return self._quick.rows(select, parameters)

    @contextmanager
    def consistent_reading(self) -> Iterator[Connection]:
        """A connection on which all statements see one state of the catalogue."""
        options = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ"}
        with self.translated_errors(), self._engine.execution_options(**options).begin() as connection:
            yield connection

    @contextmanager
    def writing(self, connection: Connection | None = None) -> Iterator[Connection]:
        """One transaction, on `connection` or one of its own: committed at the end, rolled back on an error."""
        with self.translated_errors():
            if connection is None:
                with self._engine.connect() as own, own.execution_options(**{_WRITING: True}).begin():
                    yield own
            else:
                with connection.begin():
                    yield connection

    def connect_writer(self) -> Connection:
        """A connection to hold for as long as its caller writes; closing it ends its session and, with that, its advisory lock."""
        with self.translated_errors():
            connection = self._engine.connect().execution_options(**{_WRITING: True})
            connection.detach()  # from the pool, which would keep the session
            return connection

    def close(self) -> None:
        """Give the pooled connections back."""
        self._quick.close()
        self._engine.dispose()

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """Turn what the driver raises into errors of our tree."""
        try:
            yield
        except DBAPIError as error:
            raise _translated(error, str(self)) from error

    def holds_anything(self) -> bool:
        """Whether there is a catalogue; asking makes no file."""
        if self.is_sqlite and not Path(str(self.url.database)).exists():
            return False
        return self.revision() is not None

    def revision(self) -> str | None:
        """The migration that the database is at; None for an empty one."""
        with self.reading() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()

    def require_revision(self) -> None:
        """Raises `StorageError` unless the schema is the one that this version works with, and what reaching the database raises."""
        revision = self.revision()
        if revision != SCHEMA_REVISION:
            raise StorageError(
                f"the catalogue {self} is at schema {revision!r} and this Sightline works with {SCHEMA_REVISION!r}; start it again, which "
                "migrates an older one"
            )

    def migrate(self) -> None:
        """Bring the schema to `SCHEMA_REVISION`; nothing half done stays, whatever happens.

        The caller holds the writer's lock. Raises `SchemaTooNew` when the database is at a revision that this version doesn't know.
        """
        # Alembic takes longer to import than a search takes; a database that is up to date never needs it.
        from alembic import command
        from alembic.config import Config
        from alembic.script import ScriptDirectory

        import migrations

        config = Config()
        config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
        revision = self.revision()
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if revision is not None and revision not in known:
            raise SchemaTooNew(
                f"the catalogue {self} is at schema {revision!r}, made by a newer Sightline; this one knows up to {SCHEMA_REVISION!r}: "
                "upgrade Sightline to open it"
            )
        with self.writing() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        logger.info("catalogue migrated from=%s to=%s", revision, SCHEMA_REVISION)


def _prepare_sqlite(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    """WAL lets readers read while a writer writes; FULL because files are deleted once a commit is durable."""
    connection.isolation_level = None  # we begin transactions ourselves: the driver's own way commits before DDL
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "temp_store=MEMORY", "cache_size=-32000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _read_only_url(url: URL) -> URL | None:
    """How to read an SQLite file that this process may not write (another user's, a backup's, on a read-only disk); None where it may.

    SQLite reads a database in WAL mode through files beside it, which a writer keeps there. Where there are none, nobody writes, and the
    file may be read as one that doesn't change.
    """
    path = Path(str(url.database))
    if not path.exists() or (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        return None
    wal = path.with_name(path.name + "-wal")
    is_written = wal.exists() and wal.stat().st_size > 0
    query = {"uri": "true", "mode": "ro"} | ({} if is_written else {"immutable": "1"})
    return URL.create("sqlite", database=f"file:{quote(str(path))}", query=query)


def _prepare_read_only_sqlite(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("temp_store=MEMORY", "cache_size=-32000", "query_only=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get(_AUTOCOMMIT):
        return
    # A deferred transaction that turns from reading to writing fails at once when another writes; an immediate one waits.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get(_WRITING) else "BEGIN")


def _translated(error: DBAPIError, where: str) -> Exception:
    """The error of our tree for what a driver raised."""
    cause = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
    state = getattr(error.orig, "sqlstate", None)
    code = getattr(error.orig, "sqlite_errorcode", None)
    if state in _DISK_FULL_STATES or code == sqlite3.SQLITE_FULL:
        return OutOfSpace(f"the catalogue {where} has no room left ({cause}); free some space and run again: what was committed is intact")
    if state == _UNIQUE_VIOLATION or code == sqlite3.SQLITE_CONSTRAINT_UNIQUE:
        return Conflict(f"the catalogue {where} holds this already: {cause}")
    if code == sqlite3.SQLITE_NOTADB or code == sqlite3.SQLITE_CORRUPT:
        return StorageError(f"the catalogue {where} is damaged ({cause}); restore it from a backup, or index again into a new folder")
    if code == sqlite3.SQLITE_READONLY:
        return StorageError(f"the catalogue {where} can't be written ({cause}); check the permissions of its folder")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return DatabaseUnavailable(f"the catalogue {where} was busy for {_BUSY_TIMEOUT_S:.0f} s; try again")
    if error.connection_invalidated or (state is None and code is None) or str(state).startswith(("08", "57P", "53", "28", "3D")):
        return DatabaseUnavailable(f"the catalogue {where} can't be reached ({cause}); check that the database runs and the URL is right")
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR):
        return DatabaseUnavailable(f"the catalogue {where} can't be opened ({cause}); check the folder and its permissions")
    return StorageError(f"the catalogue {where} refused: {cause}")
