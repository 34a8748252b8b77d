"""Explanations as they are sent: maps as lists of rows, and drawn over the picture as a PNG."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from api.explaining import facts_told, ranks_told
from api.http.decoding import PictureDecoder
from api.http.schemas import Notes, RerankedBody, TimingsBody
from api.http.wording import over_http
from search.engine import Timings
from search.explain import ItemExplanation, MatchExplanation
from sightline.errors import UnreadableImage
from sightline.locations import locate, picture_at
from sightline.storage.records import ItemRecord

if TYPE_CHECKING:  # it imports torch
    from sightline.encoders.tokens import SeenBox, TokenEncoder

_DECIMALS = 5
"""Of a relevance, which is in units of the match logit: finer than a screen shows, and half the bytes."""

Map = Annotated[
    Sequence[Sequence[float]],
    Field(description="rows of patches from the top, each from the left; not negative", examples=[[[0.0, 0.02], [0.31, 0.11]]]),
]


class SeenBody(BaseModel):
    """The part of the picture that the encoder sees, over which the maps lie; in shares of its width and height."""

    left: float = Field(examples=[0.125])
    top: float = Field(examples=[0.0])
    right: float = Field(examples=[0.875])
    bottom: float = Field(examples=[1.0])

    @classmethod
    def of(cls, seen: "SeenBox", *, width: int, height: int) -> Self:
        """The box of a picture of so many pixels."""
        return cls(left=seen.left / width, top=seen.top / height, right=seen.right / width, bottom=seen.bottom / height)


class WordBody(BaseModel):
    """What one word found."""

    text: str = Field(examples=["dog"])
    weight: float = Field(description="share of the relevance of all words; they sum to 1", examples=[0.6])
    relevance: Map


class MatchBody(BaseModel):
    """Why words match a picture, or do not: what to lay over the picture, word by word."""

    match_logit: float = Field(examples=[2.6])
    match_probability: float = Field(examples=[0.93])
    width: int = Field(description="columns of every map", examples=[2])
    height: int = Field(description="rows of every map", examples=[2])
    relevance: Map = Field(description="for all words together, on a scale of its own", examples=[[[0.0, 0.03], [0.42, 0.2]]])
    words: Sequence[WordBody] = Field(description="in their order; what the encoder did not read is not among them")
    highest: float = Field(description="the highest relevance of any word: the end of the scale that they share", examples=[0.31])
    seen: SeenBody

    @classmethod
    def of(cls, match: MatchExplanation, seen: SeenBody) -> Self:
        """The explanation as it is sent."""
        rows, columns = match.relevance.shape
        return cls(
            match_logit=match.match_logit,
            match_probability=match.match_probability,
            width=columns,
            height=rows,
            relevance=_rows(match.relevance),
            words=[WordBody(text=word.text, weight=word.share, relevance=_rows(word.relevance)) for word in match.words],
            highest=max((float(word.relevance.max()) for word in match.words), default=0.0),
            seen=seen,
        )


class RanksBody(BaseModel):
    """Where the item stands among the pictures, stage by stage."""

    first_rank: int | None = Field(description="by similarity; null beyond the ranks that were looked at", examples=[12])
    rank: int | None = Field(description="after the second look", examples=[3])
    num_candidates: int = Field(description="pictures that were ranked", examples=[1000])
    adjusted_similarity: float | None = Field(description="less what is taken off of its hubness bias, where that is done", examples=[0.29])
    reranked: RerankedBody | None
    timings: TimingsBody
    notes: Notes

    @classmethod
    def of(cls, explained: ItemExplanation) -> Self:
        """The ranks of an explanation."""
        reranked = explained.reranked
        return cls(
            first_rank=explained.first_rank,
            rank=explained.rank,
            num_candidates=explained.num_candidates,
            adjusted_similarity=explained.adjusted_similarity,
            reranked=None if reranked is None else RerankedBody(depth=reranked.depth, num_read=reranked.num_read),
            timings=timings_body(explained.timings),
            notes=[over_http(note) for note in explained.notes],
        )


class ExplanationBody(MatchBody):
    """Why one item of a collection matches words, or does not."""

    item_id: int = Field(examples=[17])
    key: str = Field(examples=["beach/dog.jpg"])
    similarity: float = Field(description="cosine of the two embeddings", examples=[0.31])
    ranks: RanksBody | None = Field(description="where they were asked for")


def timings_body(timings: Timings) -> TimingsBody:
    """Milliseconds a stage, as they are sent."""
    return TimingsBody(
        embed_ms=timings.embed_ms,
        retrieve_ms=timings.retrieve_ms,
        rerank_ms=timings.rerank_ms,
        metadata_ms=timings.metadata_ms,
        total_ms=timings.total_ms,
    )


def drawn(
    item: ItemRecord,
    match: MatchExplanation,
    *,
    text: str,
    similarity: float,
    explained: ItemExplanation | None,
    encoder: "TokenEncoder",
    decoder: PictureDecoder,
) -> bytes:
    """The heat map as a PNG; over grey where the picture cannot be shown any more."""
    from api.heat_map import LARGE_SIDE, Explained, draw_heat_map, grey_picture

    try:
        found = picture_at(Path(locate(item.source, item.key)))
        picture = decoder.decode(found if isinstance(found, bytes) else found.read_bytes(), name=item.key, side=LARGE_SIDE).image
    except (UnreadableImage, OSError):
        picture = grey_picture(item.width, item.height)
    ranks = None if explained is None else ranks_told(explained.rank, explained.first_rank)
    facts = (facts_told(match.match_probability, similarity=similarity, ranks=ranks), item.key)
    sheet = draw_heat_map(Explained(text, item.key, facts, match), picture, encoder.seen_box(*picture.size))
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def _rows(relevance: NDArray[np.float32]) -> list[list[float]]:
    rows: list[list[float]] = np.round(relevance.astype(np.float64), _DECIMALS).tolist()
    return rows
