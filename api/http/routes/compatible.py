"""What clients of OpenAI and Cohere expect to find: embeddings, models, rerank."""

import base64
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, cast

import numpy as np
from fastapi import APIRouter, Path

from api.http.access import Actor
from api.http.admission import AdmittedRoute
from api.http.authorisation import Searcher
from api.http.compatible_schemas import (
    ApiVersion,
    DocumentBody,
    EmbeddingBody,
    EmbeddingsBody,
    EmbeddingsRequest,
    ModelBody,
    ModelsBody,
    RerankBody,
    RerankedDocument,
    RerankMeta,
    RerankRequest,
    Usage,
)
from api.http.problems import problem_responses
from api.http.searches import decoded_base64
from api.http.service import Service, ServiceDep
from search.query import Picture, Words, plain_words
from search.relevance import embedded_pictures, embedded_texts, relevance_of
from sightline.encoders.encoder import Encoder
from sightline.errors import EncoderMismatch, InvalidRequest, NotFound
from sightline.types import Embeddings

if TYPE_CHECKING:  # they import torch
    from sightline.encoders.blip_matcher import BlipMatcher
    from sightline.encoders.matcher import FusionMatcher
    from sightline.encoders.tokens import TokenEncoder

_PROBLEMS = problem_responses(400, 401, 403, 404, 409, 413, 422, 429, 503)
router = APIRouter(tags=["compatible"], route_class=AdmittedRoute, responses=_PROBLEMS)

_DATA_URI = "data:image/"


@dataclass(frozen=True, slots=True)
class _Networks:
    encoder: Encoder
    matcher: "FusionMatcher | BlipMatcher | None"


@router.get("/v1/models")
def list_models(actor: Searcher, service: ServiceDep) -> ModelsBody:
    """The encoders of the collections, in the shape that OpenAI's clients expect."""
    return ModelsBody(data=_models(actor, service))


ModelPath = Annotated[str, Path(description="its name, as the list has it", examples=["sightline-mini"])]


@router.get("/v1/models/{model:path}")
def get_model(model: ModelPath, actor: Searcher, service: ServiceDep) -> ModelBody:
    """One encoder."""
    found = next((each for each in _models(actor, service) if each.id == model), None)
    if found is None:
        raise _no_model(model)
    return found


@router.post("/v1/embeddings")
def create_embeddings(body: EmbeddingsRequest, actor: Searcher, service: ServiceDep) -> EmbeddingsBody:
    """Embeddings of texts and pictures, in the shape that OpenAI's clients expect."""
    encoder = _networks(body.model, actor, service).encoder
    if body.dimensions not in (None, encoder.embedding_dim):
        raise InvalidRequest(f"{encoder.name} has {encoder.embedding_dim} dimensions, and {body.dimensions} were asked for")
    inputs = [body.input] if isinstance(body.input, str) else body.input
    parts = [_part(each, service) for each in inputs]
    embeddings = np.empty((len(parts), encoder.embedding_dim), dtype=np.float32)
    texts = [(place, part.text) for place, part in enumerate(parts) if isinstance(part, Words)]
    pictures = [(place, part) for place, part in enumerate(parts) if isinstance(part, Picture)]
    if texts:
        embeddings[[place for place, _ in texts]] = embedded_texts([text for _, text in texts], encoder=encoder)
    if pictures:
        found = embedded_pictures([each for _, each in pictures], encoder=encoder, max_pixels=service.settings.max_pixels)
        embeddings[[place for place, _ in pictures]] = found
    num_tokens = sum(len(cast("TokenEncoder", encoder).token_spans(text)) for _, text in texts)
    return EmbeddingsBody(
        data=[EmbeddingBody(index=index, embedding=row) for index, row in enumerate(_written(embeddings, body.encoding_format))],
        model=encoder.name,
        usage=Usage(prompt_tokens=num_tokens, total_tokens=num_tokens),
    )


@router.post("/v1/rerank", response_model_exclude_none=True)
def rerank(body: RerankRequest, actor: Searcher, service: ServiceDep) -> RerankBody:
    """Documents put in order for words, in the shape that clients of Cohere's first version expect."""
    return _reranked(body, actor, service, version="1")


@router.post("/v2/rerank", response_model_exclude_none=True)
def rerank_v2(body: RerankRequest, actor: Searcher, service: ServiceDep) -> RerankBody:
    """Documents put in order for words, in the shape that clients of Cohere's second version expect."""
    return _reranked(body, actor, service, version="2")


def _reranked(body: RerankRequest, actor: Actor, service: Service, *, version: str) -> RerankBody:
    networks = _networks(body.model, actor, service)
    documents = [DocumentBody(text=each) if isinstance(each, str) else each for each in body.documents]
    relevance = relevance_of(
        plain_words(body.query),
        [_document(each, service) for each in documents],
        encoder=networks.encoder,
        matcher=networks.matcher,
        max_pixels=service.settings.max_pixels,
    )
    order = np.argsort(-relevance, kind="stable")[: body.top_n].tolist()
    results = [
        RerankedDocument(index=place, relevance_score=float(relevance[place]), document=documents[place] if body.return_documents else None)
        for place in order
    ]
    return RerankBody(id=str(uuid.uuid4()), results=results, meta=RerankMeta(api_version=ApiVersion(version=version)))


def _models(actor: Actor, service: Service) -> list[ModelBody]:
    """Encoders of the collections that the actor may use, by name; that of new collections where there are none."""
    created_by_name: dict[str, int] = {}
    for record in service.sightline.collections():
        if actor.may_use(record.name):
            created = int(record.created_at.timestamp())
            created_by_name[record.encoder_name] = min(created, created_by_name.get(record.encoder_name, created))
    if not created_by_name:
        created_by_name[service.sightline.encoder_of(None).name] = 0
    return [ModelBody(id=name, created=created) for name, created in sorted(created_by_name.items())]


def _networks(model: str | None, actor: Actor, service: Service) -> _Networks:
    """Those of that name. Raises `NotFound`, and `EncoderMismatch` where every collection has other weights of it than there are now."""
    sightline = service.sightline
    if model is None:
        return _Networks(sightline.encoder_of(None), sightline.matcher_of(None))
    mismatch: EncoderMismatch | None = None
    for record in sightline.collections():
        if record.encoder_name == model and actor.may_use(record.name):
            try:
                return _Networks(sightline.encoder_of(record.name), sightline.matcher_of(record.name))
            except EncoderMismatch as error:
                mismatch = error
    if mismatch is not None:
        raise mismatch
    encoder = sightline.encoder_of(None)
    if encoder.name == model:
        return _Networks(encoder, sightline.matcher_of(None))
    raise _no_model(model)


def _no_model(model: str) -> NotFound:
    return NotFound(f"there is no encoder {model[:200]!r} here; GET /v1/models lists those of the collections")


def _part(text: str, service: Service) -> Words | Picture:
    """A data URI is a picture, and everything else a text. Raises `InvalidRequest`, `InvalidQuery`, `UnreadableImage`."""
    if text.startswith(_DATA_URI):
        return Picture(service.decoder.decode(decoded_base64(text, field="input")).image)
    return plain_words(text)


def _document(document: DocumentBody, service: Service) -> Words | Picture:
    if document.image is not None:
        return Picture(service.decoder.decode(decoded_base64(document.image, field="image")).image)
    return plain_words(document.text or "")


def _written(embeddings: Embeddings, encoding_format: str) -> list[Any]:
    if encoding_format == "float":
        rows: list[Any] = embeddings.tolist()
        return rows
    return [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in embeddings]
