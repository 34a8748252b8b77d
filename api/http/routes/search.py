"""Searches: of one collection, of many at once, and why an item matches."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, File, Form, Query, Request, Response, UploadFile
from pydantic import BaseModel, ConfigDict, Field

from api.http.admission import AdmittedRoute
from api.http.authorisation import MaySearch, Searcher
from api.http.batches import answered_each
from api.http.content_types import require_picture_type
from api.http.direct_route import DirectRoute
from api.http.problems import Problem, problem_of, problem_responses
from api.http.schemas import AnswerBody, Body
from api.http.searches import (
    MAX_TEXT_CHARACTERS,
    Cursor,
    MinMatch,
    OnlyModality,
    RerankDeadline,
    RerankDepth,
    Search,
    SearchBody,
    SearchParameters,
    TopK,
    answered,
    as_response,
    understood,
)
from api.http.service import ServiceDep
from search.engine import DEFAULT_TOP_K
from search.rerank import DEFAULT_DEPTH
from sightline.errors import SightlineError

router = APIRouter(
    prefix="/v1", tags=["search"], route_class=AdmittedRoute, responses=problem_responses(400, 401, 403, 404, 409, 413, 422, 429, 503)
)

MAX_SEARCHES = 64
"""In one call: it has one place among the requests, and one deadline."""


class OneSearchBody(SearchBody):
    """One search of several."""

    model_config = ConfigDict(
        extra="forbid", allow_inf_nan=False, json_schema_extra={"examples": [{"collection": "photos", "text": "a dog on the beach"}]}
    )

    collection: str = Field(description="in which to look")


class BatchBody(Body):
    """Several searches."""

    model_config = ConfigDict(
        extra="forbid",
        allow_inf_nan=False,
        json_schema_extra={
            "examples": [{"searches": [{"collection": "photos", "text": "a dog"}, {"collection": "photos", "like_ids": [17], "top_k": 5}]}]
        },
    )

    searches: list[OneSearchBody] = Field(min_length=1, max_length=MAX_SEARCHES)


class OneAnswerBody(BaseModel):
    """What became of one search."""

    status: int = Field(description="as if it had been asked alone", examples=[200])
    answer: AnswerBody | None
    problem: Problem | None = Field(description="what is wrong, where there is no answer")


class AnswersBody(BaseModel):
    """What became of each, in their order."""

    answers: list[OneAnswerBody]


def search(collection: str, body: SearchBody, service: ServiceDep) -> Response:
    """The items closest to words, a picture, items, an embedding, or several of them at once."""
    return as_response(answered(understood(body, service, collection=collection), service.sightline))


router.add_api_route(
    "/collections/{collection}/search",
    search,
    methods=["POST"],
    response_model=AnswerBody,
    dependencies=[MaySearch],
    route_class_override=DirectRoute,
)


@router.get("/collections/{collection}/search", response_model=AnswerBody, dependencies=[MaySearch])
def search_by_address(collection: str, parameters: Annotated[SearchParameters, Query()], service: ServiceDep) -> Response:
    """The items closest to words or items: a search that can be a link."""
    return as_response(answered(understood(parameters.body, service, collection=collection), service.sightline))


@router.post("/collections/{collection}/search/upload", response_model=AnswerBody, dependencies=[MaySearch])
def search_by_upload(
    collection: str,
    service: ServiceDep,
    image: Annotated[UploadFile, File(description="the file of a picture to look for")],
    text: Annotated[str | None, Form(max_length=MAX_TEXT_CHARACTERS, description="words to look for as well")] = None,
    without: Annotated[list[str], Form(description="words to stay away from", max_length=32)] = [],  # noqa: B006  FastAPI copies it
    top_k: Annotated[TopK, Form()] = DEFAULT_TOP_K,
    cursor: Annotated[Cursor, Form()] = None,
    modality: Annotated[OnlyModality, Form()] = None,
    rerank_depth: Annotated[RerankDepth, Form()] = DEFAULT_DEPTH,
    rerank_deadline_ms: Annotated[RerankDeadline, Form()] = None,
    min_match: Annotated[MinMatch, Form()] = None,
) -> Response:
    """The items closest to a picture that is uploaded; the next page takes it again."""
    require_picture_type(image.content_type, of="the file image")
    body = SearchBody(
        text=text,
        without=without,
        top_k=top_k,
        cursor=cursor,
        modality=modality,
        rerank_depth=rerank_depth,
        rerank_deadline_ms=rerank_deadline_ms,
        min_match=min_match,
    )
    return as_response(answered(understood(body, service, collection=collection, picture=image.file.read()), service.sightline))


@router.post("/search/batch")
def search_batch(body: BatchBody, actor: Searcher, request: Request, service: ServiceDep) -> AnswersBody:
    """Several searches in one call, of one collection or more; what they have in common is done once."""
    asked: list[Search | SightlineError] = []
    for each in body.searches:
        try:
            actor.require_collection(each.collection)
            service.sightline.collection(each.collection)
            asked.append(understood(each, service, collection=each.collection))
        except SightlineError as error:
            asked.append(error)
    found = iter(answered_each(service.sightline, [each for each in asked if isinstance(each, Search)]))
    answers = []
    for each_asked in asked:
        answer = next(found) if isinstance(each_asked, Search) else each_asked
        if isinstance(answer, SightlineError):
            problem = problem_of(answer, request)
            answers.append(OneAnswerBody(status=problem.status, answer=None, problem=problem))
        else:
            answers.append(OneAnswerBody(status=HTTPStatus.OK, answer=answer, problem=None))
    return AnswersBody(answers=answers)
