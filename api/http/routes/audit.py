"""The audit list: what administrators did."""

from collections.abc import Sequence
from typing import Annotated, Any, Self

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from api.http.authorisation import MayAdminister
from api.http.problems import problem_responses
from api.http.schemas import Instant, Limit
from api.http.service import ServiceDep
from sightline.storage.audit import AuditEvent

router = APIRouter(
    prefix="/v1/audit", tags=["administration"], dependencies=[MayAdminister], responses=problem_responses(401, 403, 422, 429, 503)
)

MAX_ID = 2**63 - 1


class AuditEventBody(BaseModel):
    """Something that was done."""

    event_id: int = Field(examples=[41])
    at: Instant
    actor: str = Field(description="a key's name and number, or who else it was", examples=["laptop (key 3)"])
    action: str = Field(examples=["collection.delete"])
    subject: str = Field(description="what it was done to", examples=["photos"])
    request_id: str | None = Field(description="of the request that did it", examples=["6f1c1c2b7c8e4f0a"])
    details: dict[str, Any] = Field(examples=[{"num_items": {"image": 1000}}])

    @classmethod
    def of(cls, event: AuditEvent) -> Self:
        """The event as it is sent."""
        return cls(
            event_id=event.event_id,
            at=event.at,
            actor=event.actor,
            action=event.action,
            subject=event.subject,
            request_id=event.request_id,
            details=event.details,
        )


class AuditBody(BaseModel):
    """A page of the list."""

    events: Sequence[AuditEventBody] = Field(description="the newest first")
    next_before: int | None = Field(description="`before` of the next page; null where this is the last", examples=[None])


@router.get("")
def list_audit(
    service: ServiceDep,
    before: Annotated[
        int | None, Query(ge=1, le=MAX_ID, description="`next_before` of the page before: only events before that one", examples=[41])
    ] = None,
    limit: Limit = 100,
) -> AuditBody:
    """What was done, the newest first; what comes meanwhile moves no page."""
    events = service.sightline.store.audit.page(before=before, limit=limit + 1)
    shown = events[:limit]
    next_before = shown[-1].event_id if len(events) > limit else None
    return AuditBody(events=[AuditEventBody.of(event) for event in shown], next_before=next_before)
