"""Aliases: other names of collections, which can be turned to another one while searches go on."""

from typing import Annotated, Self

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field

from api.http.auditing import AuditorDep
from api.http.authorisation import MayAdminister, Searcher
from api.http.problems import problem_responses
from api.http.schemas import Body, Instant
from api.http.service import ServiceDep
from sightline.storage.aliases import AliasRecord

router = APIRouter(prefix="/v1/aliases", tags=["administration"], responses=problem_responses(401, 403, 422, 429, 503))

AliasName = Annotated[str, Path(description="the alias", examples=["current"])]


class AliasBody(BaseModel):
    """An alias and the collection that it stands for."""

    name: str = Field(examples=["current"])
    collection: str = Field(examples=["photos-2026"])
    created_at: Instant

    @classmethod
    def of(cls, alias: AliasRecord) -> Self:
        """The alias as it is sent."""
        return cls(name=alias.name, collection=alias.collection, created_at=alias.created_at)


class PutAliasBody(Body):
    """What an alias is to stand for."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"collection": "photos-2026"}]})

    collection: Annotated[str, Field(min_length=1, max_length=200)] = Field(description="a collection's name, or another alias of it")


@router.get("")
def list_aliases(service: ServiceDep, actor: Searcher) -> list[AliasBody]:
    """The aliases of the collections that the key is for, by name."""
    return [AliasBody.of(alias) for alias in service.sightline.store.aliases.list() if actor.may_use(alias.collection)]


@router.put("/{alias}", dependencies=[MayAdminister], responses=problem_responses(400, 404, 409, 413, 507))
def put_alias(alias: AliasName, body: PutAliasBody, service: ServiceDep, auditor: AuditorDep) -> AliasBody:
    """Make an alias, or turn it to another collection; a search meanwhile finds the one or the other."""
    record = service.sightline.store.aliases.put(alias, collection=body.collection)
    service.access.forget()
    auditor.note("alias.put", alias, details={"collection": record.collection})
    return AliasBody.of(record)


@router.delete("/{alias}", status_code=204, dependencies=[MayAdminister], responses=problem_responses(404, 507))
def delete_alias(alias: AliasName, service: ServiceDep, auditor: AuditorDep) -> None:
    """Delete an alias; its collection stays."""
    service.sightline.store.aliases.delete(alias)
    service.access.forget()
    auditor.note("alias.delete", alias)
