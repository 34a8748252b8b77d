"""Collections: which there are, what is in them, and what an administrator does with them."""

from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import ConfigDict, Field, StrictFloat

from api.http.auditing import AuditorDep
from api.http.authorisation import MayAdminister, MaySearch, Searcher
from api.http.problems import problem_responses
from api.http.schemas import Body, CollectionBody, CollectionPath
from api.http.service import Service, ServiceDep
from sightline.errors import CollectionNotFound, InvalidRequest
from sightline.storage.names import MAX_DESCRIPTION_CHARACTERS
from sightline.types import Modality

router = APIRouter(prefix="/v1/collections", tags=["collections"], responses=problem_responses(401, 403, 422, 429, 503))

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^/]+$")]
"""A slash would be no part of an address."""

Strength = Annotated[StrictFloat, Field(ge=0, le=1)]

Description = Annotated[str, Field(max_length=MAX_DESCRIPTION_CHARACTERS)]


class CreateCollectionBody(Body):
    """A collection that is to be."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "photos", "description": "Holidays since 2009"}]})

    name: Name = Field(description="its name")
    description: Description = Field(default="", description="what it holds, in one line, for people")


class PatchCollectionBody(Body):
    """What is to change; what is left out, or null, stays."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "photos-2026"}, {"description": "Holidays since 2009"}, {"hubness_strength": {"image": 0.5}}]
        }
    )

    name: Name | None = Field(default=None, description="its name from now on; keys and aliases follow")
    description: Description | None = Field(default=None, description="what it holds, in one line, for people; an empty one says nothing")
    hubness_strength: dict[Modality, Strength] | None = Field(
        default=None, description="by modality of the items, the share of their hubness bias that searches take off from now on; 0: none"
    )


@router.get("")
def list_collections(service: ServiceDep, actor: Searcher) -> list[CollectionBody]:
    """All collections that the key is for, by name."""
    names = [record.name for record in service.sightline.collections() if actor.may_use(record.name)]
    bodies = []
    for name in names:
        try:
            bodies.append(_body(service, name))
        except CollectionNotFound:  # deleted since
            continue
    return bodies


@router.post("", status_code=201, dependencies=[MayAdminister], responses=problem_responses(400, 409, 413, 507))
def create_collection(body: CreateCollectionBody, service: ServiceDep, auditor: AuditorDep) -> CollectionBody:
    """An empty collection, embedded by the encoder of the settings for good."""
    record = service.sightline.create_collection(body.name, description=body.description)
    auditor.note("collection.create", record.name, details={"encoder": record.encoder_name})
    return _body(service, record.name)


@router.get("/{collection}", dependencies=[MaySearch], responses=problem_responses(404))
def get_collection(collection: CollectionPath, service: ServiceDep) -> CollectionBody:
    """One collection, with what it takes in memory and on disk and how it is searched."""
    return _body(service, collection)


@router.put("/{collection}", dependencies=[MayAdminister], responses={201: {"model": CollectionBody}, **problem_responses(400, 409, 507)})
def put_collection(collection: CollectionPath, service: ServiceDep, auditor: AuditorDep, response: Response) -> CollectionBody:
    """The collection of that name, made empty (201) where there is none."""
    try:
        return _body(service, collection)
    except CollectionNotFound:
        record = service.sightline.create_collection(collection)
    auditor.note("collection.create", record.name, details={"encoder": record.encoder_name})
    response.status_code = 201
    return _body(service, record.name)


@router.patch("/{collection}", dependencies=[MayAdminister], responses=problem_responses(400, 404, 409, 413, 507))
def patch_collection(collection: CollectionPath, body: PatchCollectionBody, service: ServiceDep, auditor: AuditorDep) -> CollectionBody:
    """Change its name, description and what is taken off of the hubness bias, all at once; searches that have begun end as they began."""
    if body.name is None and body.description is None and not body.hubness_strength:
        raise InvalidRequest("nothing is to change; give a name, a description, a hubness_strength or several of them")
    before = service.sightline.collection(collection)
    strength_before = {bank.modality: bank.strength for bank in service.sightline.statistics(collection=before.name).banks}
    new_name = None if body.name == before.name else body.name
    after = service.sightline.alter_collection(
        before.name, new_name=new_name, description=body.description, hubness_strengths=body.hubness_strength
    )
    if after.description != before.description:
        auditor.note("collection.describe", before.name, details={"description": after.description})
    for modality, strength in (body.hubness_strength or {}).items():
        if strength != strength_before.get(modality):
            details = {"modality": modality, "strength": strength, "strength_before": strength_before.get(modality)}
            auditor.note("collection.hubness", before.name, details=details)
    if after.name != before.name:
        service.access.forget()
        auditor.note("collection.rename", before.name, details={"name": after.name})
    return _body(service, after.name)


@router.delete("/{collection}", status_code=204, dependencies=[MayAdminister], responses=problem_responses(404, 409, 507))
def delete_collection(collection: CollectionPath, service: ServiceDep, auditor: AuditorDep) -> None:
    """Delete a collection with its embeddings, history and aliases; 409 while something else writes."""
    record = service.sightline.collection(collection)
    num_items = service.sightline.statistics(collection=record.name).num_items_by_modality
    service.sightline.delete_collection(record.name)
    service.access.forget()
    auditor.note("collection.delete", record.name, details={"num_items": {str(modality): count for modality, count in num_items.items()}})


def _body(service: Service, name: str) -> CollectionBody:
    record, store = service.sightline.collection(name), service.sightline.store
    return CollectionBody.of(
        record,
        store.statistics(record.collection_id),
        memory_bytes=store.memory_bytes(record.collection_id),
        device_memory_bytes=store.device_memory_bytes(record.collection_id),
    )
