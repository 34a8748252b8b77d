"""Searches: of one collection, of many at once, and why an item matches."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from api.http.admission import AdmittedRoute
from api.http.authorisation import MaySearch, Searcher
from api.http.batches import answered_each
from api.http.content_types import require_picture_type
from api.http.direct_route import DirectRoute
from api.http.problems import Problem, problem_of, problem_responses
from api.http.schemas import AnswerBody, Body, CollectionPath
from api.http.searches import (
    Search,
    SearchBody,
    SearchForm,
    SearchParameters,
    answered,
    as_response,
    understood,
)
from api.http.service import ServiceDep
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
    problem: Problem | None = Field(description="what is wrong, where there is no answer", examples=[None])


class AnswersBody(BaseModel):
    """What became of each, in their order."""

    answers: list[OneAnswerBody]


def search(collection: CollectionPath, body: SearchBody, service: ServiceDep) -> Response:
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
def search_by_address(collection: CollectionPath, parameters: Annotated[SearchParameters, Query()], service: ServiceDep) -> Response:
    """The items closest to words or items: a search that can be a link."""
    return as_response(answered(understood(parameters.body, service, collection=collection), service.sightline))


@router.post("/collections/{collection}/search/upload", response_model=AnswerBody, dependencies=[MaySearch])
def search_by_upload(
    collection: CollectionPath,
    service: ServiceDep,
    form: Annotated[SearchForm, Form(media_type="multipart/form-data")],
) -> Response:
    """The items closest to a picture that is uploaded; the next page takes it again."""
    require_picture_type(form.image.content_type, of="the file image")
    picture = form.image.file.read()
    return as_response(answered(understood(form.body, service, collection=collection, picture=picture), service.sightline))


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
