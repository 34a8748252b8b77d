"""What goes over the wire of searches and collections: pydantic models, with what each field means and an example."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Self

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field

from api.http.wording import over_http
from search.engine import Answer, Hit
from sightline.storage.records import BankRecord, CollectionRecord, CollectionStatistics
from sightline.types import Modality

TINY_PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFklEQVR42mM8ISfHwMDAxMDAwMDAAAANBAEIf62CUQAAAABJRU5ErkJggg=="
"""For examples: a PNG of 2 x 2 pixels in base64."""

CollectionPath = Annotated[str, Path(description="the collection's name, or an alias of it", examples=["photos"])]
Instant = Annotated[datetime, Field(examples=["2026-11-27T09:30:00Z"])]
OptionalInstant = Annotated[datetime | None, Field(examples=["2026-11-27T09:30:00Z"])]
Metadata = Annotated[dict[str, Any], Field(description="as it was indexed", examples=[{"place": "Lisbon"}])]
Notes = Annotated[Sequence[str], Field(description="what the person who asked should know", examples=[[]])]
Limit = Annotated[int, Query(ge=1, le=1000, description="so many at most", examples=[50])]


class Body(BaseModel):
    """A request's body: what it does not know is refused, and numbers that are none too."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(slots=True)
class HitBody:
    """One item of an answer."""

    rank: Annotated[int, Field(description="1 is the best", examples=[1])]
    item_id: Annotated[int, Field(examples=[17])]
    key: Annotated[str, Field(description="what the collection calls it", examples=["beach/dog.jpg"])]
    modality: Modality
    similarity: Annotated[float, Field(description="cosine of the two embeddings", examples=[0.41])]
    adjusted_similarity: Annotated[
        float | None, Field(description="less what is taken off of its hubness bias, where that is done", examples=[0.29])
    ]
    centred_similarity: Annotated[
        float | None, Field(description="in a ranking over both modalities: what it is ordered by", examples=[None])
    ]
    match_probability: Annotated[float | None, Field(description="of the second look; null for what it did not read", examples=[0.93])]
    first_rank: Annotated[int | None, Field(description="before the second look", examples=[3])]
    text: Annotated[str | None, Field(description="a picture's caption, or the text itself", examples=["a dog runs along the beach"])]
    width: Annotated[int | None, Field(description="pixels; null for texts", examples=[1024])]
    height: Annotated[int | None, Field(examples=[768])]
    metadata: Metadata

    @classmethod
    def of(cls, hit: Hit) -> Self:
        """The hit as it is sent."""
        return cls(
            rank=hit.rank,
            item_id=hit.item_id,
            key=hit.key,
            modality=hit.modality,
            similarity=hit.similarity,
            adjusted_similarity=hit.adjusted_similarity,
            centred_similarity=hit.centred_similarity,
            match_probability=hit.match_probability,
            first_rank=hit.first_rank,
            text=hit.text,
            width=hit.width,
            height=hit.height,
            metadata=hit.metadata,
        )


@dataclass(slots=True)
class TimingsBody:
    """Milliseconds a stage."""

    embed_ms: Annotated[float, Field(description="of the query", examples=[4.1])]
    retrieve_ms: Annotated[float, Field(description="of finding the candidates", examples=[0.9])]
    rerank_ms: Annotated[float, Field(description="of the second look", examples=[7.2])]
    metadata_ms: Annotated[float, Field(description="of what is told of each hit", examples=[0.4])]
    total_ms: Annotated[float, Field(examples=[12.8])]


@dataclass(slots=True)
class RerankedBody:
    """What the second look did."""

    depth: Annotated[int, Field(description="candidates that were to be read", examples=[64])]
    num_read: Annotated[int, Field(description="that were read, by the deadline and with patches", examples=[64])]


@dataclass(slots=True)
class AnswerBody:
    """Hits, best first."""

    collection: Annotated[str, Field(examples=["photos"])]
    hits: list[HitBody]
    plan: Annotated[str, Field(description="how the candidates were found", examples=["images: exact over 1,000 rows"])]
    notes: Annotated[list[str], Field(description="what the person who asked should know", examples=[[]])]
    reranked: Annotated[
        RerankedBody | None, Field(description="null where this page took no second look; later pages show what the first one's saw")
    ]
    timings: TimingsBody
    next_cursor: Annotated[
        str | None, Field(description="send it with the same query for the hits that follow; null where none do", examples=[None])
    ]

    @classmethod
    def of(cls, answer: Answer, *, next_cursor: str | None) -> Self:
        """The answer as it is sent."""
        timings, reranked = answer.timings, answer.reranked
        return cls(
            collection=answer.collection,
            hits=[HitBody.of(hit) for hit in answer],
            plan=answer.plan,
            notes=[over_http(note) for note in answer.notes],
            reranked=None if reranked is None else RerankedBody(depth=reranked.depth, num_read=reranked.num_read),
            timings=TimingsBody(
                embed_ms=timings.embed_ms,
                retrieve_ms=timings.retrieve_ms,
                rerank_ms=timings.rerank_ms,
                metadata_ms=timings.metadata_ms,
                total_ms=timings.total_ms,
            ),
            next_cursor=next_cursor,
        )


class BankBody(BaseModel):
    """What a search takes off of how near an item is to every query: a share of its bias by a bank of queries."""

    strength: float = Field(description="the share that is taken off, from 0 to 1; 0: none", examples=[0.5])
    num_queries: int = Field(description="in the bank: queries or their centroids", examples=[1024])
    origin: str = Field(description="where the queries are from", examples=["of sightline-mini"])

    @classmethod
    def of(cls, bank: BankRecord) -> Self:
        """The bank as it is sent."""
        return cls(strength=bank.strength, num_queries=bank.num_queries, origin=bank.origin)


class CollectionBody(BaseModel):
    """A collection and its size."""

    name: str = Field(examples=["photos"])
    description: str = Field(description="what it holds, for people; empty where nobody has said", examples=["Holidays since 2009"])
    encoder: str = Field(examples=["sightline-mini"])
    encoder_fingerprint: str = Field(description="of the weights and settings that made the embeddings", examples=["3f9a1c7be0d24586"])
    embedding_dim: int = Field(examples=[512])
    num_items: dict[Modality, int] = Field(examples=[{"image": 1000}])
    num_segments: int = Field(examples=[1])
    num_tombstones: int = Field(description="rows of deleted or replaced items, which a compaction drops", examples=[0])
    num_missing_embeddings: int = Field(
        description="items whose segment was lost; indexing their sources again restores them", examples=[0]
    )
    size_bytes: int = Field(description="on disk", examples=[16_384_000])
    memory_bytes: int = Field(description="in memory, of what searches so far had to be loaded", examples=[2_048_000])
    device_memory_bytes: int = Field(description="on a GPU, of what searches so far had to be loaded", examples=[0])
    indexes: Sequence[str] = Field(description="of each segment: how it is searched", examples=[["exact"]])
    ann_recall: float | None = Field(description="measured against exact search; null where search is exact", examples=[None])
    hubness: dict[Modality, BankBody] = Field(
        description="what is taken off of the hubness bias, of modalities with a bank",
        examples=[{"image": {"strength": 0.5, "num_queries": 1024, "origin": "of sightline-mini"}}],
    )
    created_at: Instant

    @classmethod
    def of(cls, record: CollectionRecord, statistics: CollectionStatistics, *, memory_bytes: int, device_memory_bytes: int) -> Self:
        """The collection as it is sent."""
        return cls(
            name=record.name,
            description=record.description,
            encoder=record.encoder_name,
            encoder_fingerprint=record.encoder_fingerprint,
            embedding_dim=record.embedding_dim,
            num_items=dict(statistics.num_items_by_modality),
            num_segments=statistics.num_segments,
            num_tombstones=statistics.num_tombstones,
            num_missing_embeddings=statistics.num_missing_embeddings,
            size_bytes=statistics.size_bytes,
            memory_bytes=memory_bytes,
            device_memory_bytes=device_memory_bytes,
            indexes=statistics.index_descriptions,
            ann_recall=statistics.ann_recall,
            hubness={bank.modality: BankBody.of(bank) for bank in statistics.banks},
            created_at=record.created_at,
        )
