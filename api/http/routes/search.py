"""Searches."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from api.http.authorisation import MaySearch
from api.http.problems import problem_responses
from api.http.schemas import AnswerBody, Body
from api.http.service import ServiceDep
from search.engine import DEFAULT_TOP_K
from search.query import parse_query
from search.rerank import DEFAULT_DEPTH, Reranking
from sightline.types import Modality

router = APIRouter(prefix="/v1/collections/{collection}", tags=["search"], responses=problem_responses(401, 403, 404, 409, 422, 429, 503))


class SearchBody(Body):
    """A search."""

    text: str | None = Field(default=None, description='words, as in "a dog on the beach"; `dog::2 beach` weighs')
    without: list[str] = Field(default=[], description="words to stay away from")
    like: list[str] = Field(default=[], description="keys of items to look for")
    top_k: Annotated[int, Field(ge=1, le=1000)] = DEFAULT_TOP_K
    modality: Modality | None = Field(default=None, description="only pictures, or only texts")
    rerank_depth: Annotated[int, Field(ge=0, le=1024)] = Field(default=DEFAULT_DEPTH, description="0 takes no second look")
    rerank_deadline_ms: Annotated[float, Field(gt=0)] | None = Field(default=None, description="what is not read by then keeps its place")
    min_match: Annotated[float, Field(ge=0, le=1)] | None = Field(default=None, description="leave out what matches less probably")


@router.post("/search", dependencies=[MaySearch])
def search(collection: str, body: SearchBody, service: ServiceDep) -> AnswerBody:
    """The items closest to words, items, or several of them at once."""
    query = parse_query(body.text, like=body.like, without=body.without, modality=body.modality)
    reranking = None
    if body.rerank_depth:
        reranking = Reranking(depth=body.rerank_depth, deadline_ms=body.rerank_deadline_ms, min_match=body.min_match)
    return AnswerBody.of(service.sightline.search(query, k=body.top_k, collection=collection, reranking=reranking))
