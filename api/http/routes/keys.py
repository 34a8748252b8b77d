"""Keys of the service: made, listed and revoked by an administrator."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Self

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, ConfigDict, Field

from api.http.auditing import AuditorDep
from api.http.authorisation import MayAdminister
from api.http.problems import problem_responses
from api.http.schemas import Body, Instant, OptionalInstant
from api.http.service import ServiceDep
from sightline.errors import Conflict
from sightline.storage.keys import KeyRecord, NewKey
from sightline.types import KeyId, Scope

router = APIRouter(
    prefix="/v1/keys", tags=["administration"], dependencies=[MayAdminister], responses=problem_responses(400, 401, 403, 413, 422, 429, 503)
)

MAX_ID = 2**63 - 1


class KeyBody(BaseModel):
    """A key, without what opens anything."""

    key_id: int = Field(examples=[3])
    name: str = Field(examples=["nightly import"])
    scopes: Sequence[Scope] = Field(examples=[["write"]])
    collections: Sequence[str] | None = Field(description="null for all", examples=[["photos"]])
    created_at: Instant
    expires_at: datetime | None = Field(description="null for never", examples=["2027-02-25T09:30:00Z"])
    revoked_at: datetime | None = Field(description="null where it is not", examples=[None])
    last_used_at: OptionalInstant = Field(description="to the minute")
    is_valid: bool = Field(description="neither expired nor revoked", examples=[True])

    @classmethod
    def of(cls, record: KeyRecord) -> Self:
        """The key as it is sent."""
        return cls(**_shown(record))  # type: ignore[arg-type]  # pydantic validates them


class NewKeyBody(KeyBody):
    """A key that was made just now."""

    key: str = Field(description="what opens: it is shown this once", examples=["sl_" + "x" * 43])


class CreateKeyBody(Body):
    """What a key is to be."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "nightly import", "scopes": ["write"], "collections": ["photos"], "expires_in_days": 90}]}
    )

    name: Annotated[str, Field(min_length=1, max_length=100)] = Field(description="who will use it; names need not differ")
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=10)] = Field(description="write stands for search too, admin for all")
    collections: Annotated[list[str], Field(min_length=1, max_length=1000)] | None = Field(default=None, description="null for all")
    expires_in_days: Annotated[float, Field(strict=True, gt=0, le=36_500)] | None = Field(default=None, description="null for never")


@router.get("")
def list_keys(service: ServiceDep) -> list[KeyBody]:
    """All keys, the oldest first, expired and revoked ones among them."""
    return [KeyBody.of(record) for record in service.sightline.store.keys.list()]


@router.post("", status_code=201, responses=problem_responses(409, 507))
def create_key(body: CreateKeyBody, service: ServiceDep, auditor: AuditorDep, response: Response) -> NewKeyBody:
    """A new key, shown this once. From the first one on, which has to be one that administers, the service asks every request for a key."""
    is_first = auditor.actor.key_id is None
    if is_first and (Scope.ADMIN not in body.scopes or body.collections is not None):
        raise Conflict(
            "the first key closes the service to everybody without one, and this one could not make others: "
            "make one with the scope admin first, for all collections"
        )
    expires_at = None if body.expires_in_days is None else datetime.now(UTC) + timedelta(days=body.expires_in_days)
    collections = None if body.collections is None else frozenset(body.collections)
    secret, record = service.sightline.store.keys.create(NewKey(body.name, frozenset(body.scopes), collections, expires_at))
    service.access.forget()
    auditor.note("key.create", f"key {record.key_id}", details=body.model_dump(mode="json"))
    response.headers["Cache-Control"] = "no-store"
    return NewKeyBody(**_shown(record), key=secret)  # type: ignore[arg-type]


@router.delete("/{key_id}", responses=problem_responses(404, 507))
def revoke_key(
    key_id: Annotated[int, Path(ge=1, le=MAX_ID, description="as the list of keys has it", examples=[3])],
    service: ServiceDep,
    auditor: AuditorDep,
) -> KeyBody:
    """Have a key open nothing any more, for good. It stays in the list."""
    before = service.sightline.store.keys.get(KeyId(key_id))
    record = service.sightline.store.keys.revoke(before.key_id)
    service.access.forget()
    if before.revoked_at is None:
        auditor.note("key.revoke", f"key {record.key_id}", details={"name": record.name})
    return KeyBody.of(record)


def _shown(record: KeyRecord) -> dict[str, object]:
    return {
        "key_id": record.key_id,
        "name": record.name,
        "scopes": sorted(record.scopes),
        "collections": None if record.collections is None else sorted(record.collections),
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "revoked_at": record.revoked_at,
        "last_used_at": record.last_used_at,
        "is_valid": record.counts(),
    }
