"""The audit list: what was done to a store by whom, which is only ever added to."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import insert, select

from sightline.storage.database import Database
from sightline.storage.tables import AuditEventRow
from sightline.types import JsonObject


@dataclass(frozen=True, slots=True)
class NewAuditEvent:
    """Something that was done just now."""

    actor: str  # a key's name and id, or who else it was
    action: str  # such as "collection.delete"
    subject: str  # what it was done to
    request_id: str | None = None
    details: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """Something that was done."""

    event_id: int  # grows with time
    at: datetime
    actor: str
    action: str
    subject: str
    request_id: str | None
    details: JsonObject


class AuditList:
    """The audit list of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(self, event: NewAuditEvent) -> None:
        """Write down what was done."""
        values = {
            "at": datetime.now(UTC),
            "actor": event.actor,
            "action": event.action,
            "subject": event.subject,
            "request_id": event.request_id,
            "details": event.details,
        }
        with self._database.writing() as connection:
            connection.execute(insert(AuditEventRow).values(**values))

    def page(self, *, before: int | None = None, limit: int = 100) -> list[AuditEvent]:
        """Events, the newest first: those before the event of that id, which is the last one of the page that came before this."""
        statement = _EVENT.order_by(AuditEventRow.event_id.desc()).limit(limit)
        if before is not None:
            statement = statement.where(AuditEventRow.event_id < before)
        with self._database.reading() as connection:
            return [_event(row) for row in connection.execute(statement)]


_EVENT = select(
    AuditEventRow.event_id,
    AuditEventRow.at,
    AuditEventRow.actor,
    AuditEventRow.action,
    AuditEventRow.subject,
    AuditEventRow.request_id,
    AuditEventRow.details,
)


def _event(row: Sequence[object]) -> AuditEvent:
    return AuditEvent(*row)  # type: ignore[arg-type]  # in the order of `_EVENT`
