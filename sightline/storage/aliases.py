"""Aliases: other names of collections, which can be turned to another one at any time without a word to those who search.

`Catalogue.collection` resolves them, so that they work wherever a collection is named.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, delete, insert, select

from sightline.errors import CollectionExists, NotFound
from sightline.storage.catalogue import Catalogue
from sightline.storage.database import Database
from sightline.storage.names import check_collection_name
from sightline.storage.tables import AliasRow, CollectionRow


@dataclass(frozen=True, slots=True)
class AliasRecord:
    """An alias and the collection that it stands for."""

    name: str
    collection: str
    created_at: datetime


class Aliases:
    """The aliases of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, name: str, *, collection: str) -> AliasRecord:
        """Make an alias, or turn one to another collection; what searches meanwhile finds the one or the other.

        Raises `CollectionNotFound`, `CollectionExists` for the name of a collection, `InvalidInput` for a name that is none.
        """
        check_collection_name(name)
        record = Catalogue(self._database).collection(collection)
        created_at = datetime.now(UTC)
        with self._database.writing() as connection:
            if connection.execute(select(CollectionRow.collection_id).where(CollectionRow.name == name)).first() is not None:
                raise CollectionExists(f"{name!r} is a collection; choose another name for the alias, or rename the collection")
            connection.execute(delete(AliasRow).where(AliasRow.name == name))
            connection.execute(insert(AliasRow).values(name=name, collection_id=record.collection_id, created_at=created_at))
        return AliasRecord(name, record.name, created_at)

    def delete(self, name: str) -> None:
        """Raises `NotFound`."""
        with self._database.writing() as connection:
            gone = connection.execute(delete(AliasRow).where(AliasRow.name == name).returning(AliasRow.name)).first()
        if gone is None:
            raise NotFound(f"there is no alias {name!r}")

    def list(self) -> list[AliasRecord]:
        """All aliases, by name."""
        with self._database.reading() as connection:
            return [AliasRecord(*row) for row in connection.execute(_ALIAS.order_by(AliasRow.name))]

    def collection_by_alias(self) -> Mapping[str, str]:
        """The name of the collection that each alias stands for."""
        return {alias.name: alias.collection for alias in self.list()}


def alias_exists(connection: Connection, name: str) -> bool:
    """Whether an alias has the name."""
    return connection.execute(select(AliasRow.name).where(AliasRow.name == name)).first() is not None


_ALIAS = select(AliasRow.name, CollectionRow.name, AliasRow.created_at).join(
    CollectionRow, CollectionRow.collection_id == AliasRow.collection_id
)
