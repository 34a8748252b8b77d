"""How Alembic reaches the catalogue: on the connection that `Database.migrate` gives it, or by `SIGHTLINE_DATABASE_URL`.

The second way is for `alembic revision --autogenerate` and `alembic check` from a checkout.
"""

import os
from pathlib import Path
from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import Connection
from sqlalchemy.types import TypeDecorator

from sightline.errors import InvalidSetting
from sightline.storage.database import Database, catalogue_url
from sightline.storage.tables import Base


def _render_plain(kind: str, value: Any, _context: AutogenContext) -> str | Literal[False]:
    """Migrations spell the plain type: they must not change when ours does."""
    return repr(value.impl) if kind == "type" and isinstance(value, TypeDecorator) else False


def _migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,  # SQLite changes a column by copying the table
        render_item=_render_plain,
        compare_type=True,
        transactional_ddl=True,  # true of SQLite as well, once its driver doesn't commit by itself
    )
    with context.begin_transaction():
        context.run_migrations()


def _run() -> None:
    given: Connection | None = context.config.attributes.get("connection")
    if given is not None:
        _migrate(given)
        return
    url = os.environ.get("SIGHTLINE_DATABASE_URL")
    if not url:
        raise InvalidSetting("set SIGHTLINE_DATABASE_URL to the catalogue that Alembic shall work on, e.g. sqlite:////tmp/catalogue.sqlite")
    database = Database(catalogue_url(Path(), url))
    try:
        with database.writing() as connection:
            _migrate(connection)
    finally:
        database.close()


_run()
