"""Why pictures match words: of items of a collection, and of a picture that is sent."""

from typing import TYPE_CHECKING, Annotated, cast

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictBool

from api.http.admission import AdmittedRoute
from api.http.authorisation import MaySearch, Searcher
from api.http.explanations import ExplanationBody, MatchBody, RanksBody, SeenBody, drawn
from api.http.problems import problem_responses
from api.http.schemas import TINY_PICTURE, Body, CollectionPath, Notes
from api.http.searches import ItemNumber, ItemNumberInJson, decoded_base64
from api.http.service import Service, ServiceDep
from api.http.wording import over_http
from api.library import Sightline
from search.explain import ItemExplanation, MatchExplanation
from search.query import Picture
from sightline.errors import InvalidRequest, ItemNotFound
from sightline.storage.records import ItemRecord
from sightline.types import ItemId

if TYPE_CHECKING:  # it imports torch
    from sightline.encoders.tokens import TokenEncoder

router = APIRouter(
    prefix="/v1", tags=["explanations"], route_class=AdmittedRoute, responses=problem_responses(400, 401, 403, 404, 409, 413, 422, 429, 503)
)

_PNG = {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}, "description": "The heat map as a picture"}
_MAX_TEXTS = 64
_Text = Annotated[str, Field(min_length=1, max_length=10_000)]


class ExplainParameters(Body):
    """What is to be explained, as an address."""

    q: Annotated[_Text, Field(description="words", examples=["a dog on the beach"])]
    item_id: Annotated[ItemNumber, Field(description="of a picture", examples=[17])]
    ranks: bool = Field(default=False, description="whether to say where it stands in the ranking, which takes a search", examples=[True])


class ExplainBody(Body):
    """What is to be explained."""

    model_config = ConfigDict(
        extra="forbid", allow_inf_nan=False, json_schema_extra={"examples": [{"text": "a dog on the beach", "item_id": 17}]}
    )

    text: Annotated[_Text, Field(description="words")]
    item_id: Annotated[ItemNumberInJson, Field(description="of a picture")]
    ranks: StrictBool = Field(default=False, description="whether to say where it stands in the ranking, which takes a search")


class MatchTexts(Body):
    """A picture and what to match it with."""

    model_config = ConfigDict(
        extra="forbid", allow_inf_nan=False, json_schema_extra={"examples": [{"image": TINY_PICTURE, "texts": ["a dog", "a cat"]}]}
    )

    image: Annotated[str, Field(description="the file of a picture in base64, URL-safe or plain, or as a data URI")]
    texts: Annotated[list[_Text], Field(min_length=1, max_length=_MAX_TEXTS)]
    collection: str | None = Field(default=None, description="whose encoder to use; that of new collections without one")
    explain: StrictBool = Field(default=True, description="whether to send the maps")


class TextMatchBody(BaseModel):
    """One text and the picture."""

    text: str = Field(examples=["a dog"])
    similarity: float = Field(description="cosine of the two embeddings", examples=[0.31])
    match_probability: float | None = Field(description="null where no fusion encoder fits", examples=[0.93])
    explanation: MatchBody | None = Field(description="null where it was not asked for, or nothing can explain")


class PictureMatchesBody(BaseModel):
    """A picture and its texts, in the order given."""

    encoder: str = Field(examples=["sightline-mini"])
    width: int = Field(description="of the picture, in pixels, upright", examples=[1024])
    height: int = Field(examples=[768])
    matches: list[TextMatchBody]
    notes: Notes


class _Explained:
    """One item, explained with or without its ranks."""

    def __init__(self, service: Service, *, collection: CollectionPath, text: str, item_id: int, with_ranks: bool) -> None:
        sightline = service.sightline
        if sightline.matcher_of(collection) is None:
            raise InvalidRequest(f"no fusion encoder fits collection {collection!r}, and it is what explains: similarity is all there is")
        self.text = text
        self.item = _item(sightline, collection=collection, item_id=item_id)
        self.ranked: ItemExplanation | None = None
        self.match: MatchExplanation
        if with_ranks:
            self.ranked = sightline.explain(self.item.key, text, collection=collection)
            self.match, self.similarity = self.ranked.match, self.ranked.similarity
        else:
            found = sightline.match_item(self.item.key, text, collection=collection)
            self.match, self.similarity = found.match, found.similarity
        self.encoder = cast("TokenEncoder", sightline.encoder_of(collection))

    def body(self) -> ExplanationBody:
        """As data."""
        width, height = self.item.width or 1, self.item.height or 1
        seen = SeenBody.of(self.encoder.seen_box(width, height), width=width, height=height)
        return ExplanationBody(
            **MatchBody.of(self.match, seen).model_dump(),
            item_id=self.item.item_id,
            key=self.item.key,
            similarity=self.similarity,
            ranks=None if self.ranked is None else RanksBody.of(self.ranked),
        )

    def picture(self, service: Service) -> Response:
        """As a PNG."""
        content = drawn(
            self.item,
            self.match,
            text=self.text,
            similarity=self.similarity,
            explained=self.ranked,
            encoder=self.encoder,
            decoder=service.decoder,
        )
        return Response(content, media_type="image/png")


@router.post("/collections/{collection}/explain", dependencies=[MaySearch], response_model=ExplanationBody, responses={200: _PNG})
def explain(collection: CollectionPath, body: ExplainBody, request: Request, service: ServiceDep) -> ExplanationBody | Response:
    """Which parts of a picture speak for which word, as maps for each word; as a PNG where `Accept` names image/png."""
    found = _Explained(service, collection=collection, text=body.text, item_id=body.item_id, with_ranks=body.ranks)
    return found.picture(service) if "image/png" in request.headers.get("accept", "") else found.body()


@router.get("/collections/{collection}/explain.png", dependencies=[MaySearch], response_class=Response, responses={200: _PNG})
def explain_as_picture(collection: CollectionPath, parameters: Annotated[ExplainParameters, Query()], service: ServiceDep) -> Response:
    """The heat map as a PNG."""
    found = _Explained(service, collection=collection, text=parameters.q, item_id=parameters.item_id, with_ranks=parameters.ranks)
    return found.picture(service)


@router.post("/match")
def match(body: MatchTexts, actor: Searcher, service: ServiceDep) -> PictureMatchesBody:
    """How a picture matches texts: similarity, match probability, and which parts of it speak for which word."""
    from api.matching import match_with

    if body.collection is not None:
        actor.require_collection(body.collection)
    decoded = service.decoder.decode(decoded_base64(body.image, field="image"))
    sightline = service.sightline
    encoder, matcher = sightline.encoder_of(body.collection), sightline.matcher_of(body.collection)
    found = match_with(Picture(decoded.image), body.texts, encoder=encoder, matcher=matcher, max_pixels=service.settings.max_pixels)
    matches = []
    for each in found.matches:
        explanation = None
        if body.explain and each.explanation is not None:
            seen = SeenBody.of(found.encoder.seen_box(*decoded.image.size), width=decoded.image.width, height=decoded.image.height)
            explanation = MatchBody.of(each.explanation, seen)
        matches.append(
            TextMatchBody(text=each.text, similarity=each.similarity, match_probability=each.match_probability, explanation=explanation)
        )
    return PictureMatchesBody(
        encoder=found.encoder.name,
        width=decoded.width,
        height=decoded.height,
        matches=matches,
        notes=[over_http(note) for note in found.notes],
    )


def _item(sightline: Sightline, *, collection: CollectionPath, item_id: int) -> ItemRecord:
    items = sightline.store.items(sightline.collection(collection).collection_id, [ItemId(item_id)])
    if not items:
        raise ItemNotFound(f"the collection {collection!r} holds no item number {item_id}")
    return items[ItemId(item_id)]
