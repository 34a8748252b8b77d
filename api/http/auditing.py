"""The audit list, as routes that change something write it: who did what to what, in which request."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from starlette.types import Scope

from api.http.access import Actor
from api.http.authorisation import WhoAsks
from api.http.refusals import Refusals
from api.http.request_id import request_id_of
from api.http.service import ServiceDep
from sightline.errors import NotPermitted
from sightline.storage.audit import AuditList, NewAuditEvent
from sightline.types import JsonObject


@dataclass(frozen=True, slots=True)
class Auditor:
    """Writes down what one request does."""

    audit: AuditList
    actor: Actor
    request_id: str
    refusals: Refusals
    scope: Scope

    def note(self, action: str, subject: str, *, details: JsonObject | None = None) -> None:
        """Something was done, such as "collection.delete" to "photos"; call it once it is."""
        self.audit.append(NewAuditEvent(str(self.actor), action, subject, self.request_id, details or {}))

    def note_refusal(self, error: NotPermitted) -> None:
        """It was refused, as an attempt at what takes the scope admin; where a route's own dependency refuses, that one tells."""
        self.refusals.note(self.scope, error, who=str(self.actor))


async def _auditor(request: Request, service: ServiceDep, actor: WhoAsks) -> Auditor:
    return Auditor(service.sightline.store.audit, actor, request_id_of(request.scope), service.refusals, request.scope)


AuditorDep = Annotated[Auditor, Depends(_auditor)]
"""Writes down what the request does, as a parameter of a route."""
