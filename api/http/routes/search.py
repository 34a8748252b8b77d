"""Searches: of one collection, of many at once, and why an item matches."""

from typing import Annotated

from fastapi import APIRouter, File, Form, Query, UploadFile

from api.http.authorisation import MaySearch
from api.http.problems import problem_responses
from api.http.schemas import AnswerBody
from api.http.searches import (
    MAX_TEXT_CHARACTERS,
    Cursor,
    MinMatch,
    OnlyModality,
    RerankDeadline,
    RerankDepth,
    SearchBody,
    SearchParameters,
    TopK,
    answered,
    understood,
)
from api.http.service import ServiceDep
from search.engine import DEFAULT_TOP_K
from search.rerank import DEFAULT_DEPTH

router = APIRouter(
    prefix="/v1/collections/{collection}", tags=["search"], responses=problem_responses(400, 401, 403, 404, 409, 413, 422, 429, 503)
)


@router.get("/search", dependencies=[MaySearch])
def search_by_address(collection: str, parameters: Annotated[SearchParameters, Query()], service: ServiceDep) -> AnswerBody:
    """The items closest to words or items: a search that can be a link."""
    return answered(understood(parameters.body, service, collection=collection), service)


@router.post("/search", dependencies=[MaySearch])
def search(collection: str, body: SearchBody, service: ServiceDep) -> AnswerBody:
    """The items closest to words, a picture, items, an embedding, or several of them at once."""
    return answered(understood(body, service, collection=collection), service)


@router.post("/search/upload", dependencies=[MaySearch])
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
) -> AnswerBody:
    """The items closest to a picture that is uploaded; the next page takes it again."""
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
    return answered(understood(body, service, collection=collection, picture=image.file.read()), service)
