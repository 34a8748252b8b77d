"""What every search asks of the catalogue, asked of the database's driver.

SQLAlchemy writes these statements, once for each database, and makes the connections. Their execution is left to the driver. In a service
whose caches a million rows have just gone through, asking for the collection and describing ten hits took 1.0 ms with connections checked
out and back, compiled forms looked up and rows wrapped, and takes 0.4.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import Dialect, Engine, Select
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError

_Processor = Callable[[Any], Any]


class QuickSelect:
    """A statement whose parameters are all `bindparam`s, and no list among them. Thread-safe."""

    def __init__(self, statement: Select[*tuple[Any, ...]]) -> None:
        self._statement = statement
        self._compiled_by_dialect: dict[str, _Compiled] = {}

    def compiled(self, dialect: Dialect) -> "_Compiled":
        """As that database takes it."""
        found = self._compiled_by_dialect.get(dialect.name)
        if found is None:
            found = self._compiled_by_dialect[dialect.name] = _compile(self._statement, dialect)
        return found


@dataclass(frozen=True, slots=True)
class _Compiled:
    sql: str
    parameter_names: tuple[str, ...] | None  # in their order, where they go by it
    given: tuple[tuple[str, _Processor], ...]  # for the parameters that the driver takes in another type
    found: tuple[tuple[int, _Processor], ...]  # for the columns whose values the driver gives in another type


class QuickReads:
    """Connections that are kept for such statements: as many as ask at once. Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._idle: deque[DBAPIConnection] = deque()

    def rows(self, select: QuickSelect, parameters: Mapping[str, Any]) -> list[list[Any]]:
        """The rows, with their values as SQLAlchemy gives them. Raises `DBAPIError`."""
        dialect = self._engine.dialect
        compiled = select.compiled(dialect)
        given: Any = dict(parameters)
        for name, process in compiled.given:
            given[name] = process(given[name])
        if compiled.parameter_names is not None:
            given = tuple(given[name] for name in compiled.parameter_names)
        rows = [list(row) for row in self._fetched(compiled.sql, given)]
        for place, process in compiled.found:
            for row in rows:
                row[place] = process(row[place])
        return rows

    def close(self) -> None:
        """Close the connections that nobody uses."""
        with contextlib.suppress(IndexError):
            while True:
                self._engine.dialect.do_terminate(self._idle.pop())

    def _fetched(self, sql: str, parameters: Any) -> list[Any]:
        driver: Any = self._engine.dialect.loaded_dbapi
        try:
            with contextlib.suppress(IndexError, _Gone):
                return self._asked(self._idle.pop(), sql, parameters)  # the one that was used last, whose cache is warm
            self.close()  # where the database was away, the others are as dead as that one
            return self._asked(self._connect(), sql, parameters)
        except _Gone as gone:
            error = gone.error
        except driver.Error as found:
            error = found
        raise DBAPIError.instance(sql, None, error, driver.Error, dialect=self._engine.dialect) from error

    def _asked(self, connection: DBAPIConnection, sql: str, parameters: Any) -> list[Any]:
        """Keeps the connection, unless something goes wrong. Raises `_Gone` where it was cut off, and what the driver raises."""
        try:
            cursor = connection.cursor()
            cursor.execute(sql, parameters)
            rows: list[Any] = list(cursor.fetchall())
            cursor.close()
        except BaseException as error:
            dialect: Any = self._engine.dialect
            is_gone = isinstance(error, dialect.loaded_dbapi.Error) and dialect.is_disconnect(error, connection, None)
            dialect.do_terminate(connection)
            if is_gone:
                raise _Gone(error) from error
            raise
        self._idle.append(connection)
        return rows

    def _connect(self) -> DBAPIConnection:
        """One that the pool has prepared and does not get back, in which a statement is no transaction."""
        connection = self._engine.raw_connection()
        connection.detach()
        made = cast("DBAPIConnection", connection.dbapi_connection)
        if self._engine.dialect.name == "postgresql":
            made.autocommit = True
        return made


class _Gone(Exception):
    """A connection was cut off: by a database that went away, or that was there again long since."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


def _compile(statement: Select[*tuple[Any, ...]], dialect: Dialect) -> _Compiled:
    sql: Any = statement.compile(dialect=dialect)
    names = tuple(sql.positiontup) if dialect.positional else None
    given = ((name, each.type.dialect_impl(dialect).bind_processor(dialect)) for name, each in sql.binds.items())
    columns = enumerate(statement.selected_columns)
    found = ((place, column.type.dialect_impl(dialect).result_processor(dialect, None)) for place, column in columns)
    return _Compiled(
        str(sql),
        names,
        tuple((name, process) for name, process in given if process is not None),
        tuple((place, process) for place, process in found if process is not None),
    )
