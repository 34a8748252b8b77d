"""Collections: which there are, and what is in them."""

from fastapi import APIRouter

from api.http.authorisation import MaySearch, Searcher
from api.http.problems import problem_responses
from api.http.schemas import CollectionBody
from api.http.service import ServiceDep

router = APIRouter(prefix="/v1/collections", tags=["collections"], responses=problem_responses(401, 403, 422, 429, 503))


@router.get("")
def list_collections(service: ServiceDep, actor: Searcher) -> list[CollectionBody]:
    """All collections that the key is for, by name."""
    sightline = service.sightline
    records = [record for record in sightline.collections() if actor.may_use(record.name)]
    return [CollectionBody.of(record, sightline.statistics(collection=record.name)) for record in records]


@router.get("/{collection}", dependencies=[MaySearch], responses=problem_responses(404))
def get_collection(collection: str, service: ServiceDep) -> CollectionBody:
    """One collection."""
    return CollectionBody.of(service.sightline.collection(collection), service.sightline.statistics(collection=collection))
