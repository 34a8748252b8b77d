"""What a job is to do: the body of a request, what the row of a job keeps, and what its process is given."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from api.http.decoding import DecodingLimits
from api.http.fetching import FetchLimits
from api.http.schemas import Body
from indexer.hubness import OwnQueries
from indexer.sources import SourceKind
from sightline.storage.jobs import JobRecord
from sightline.types import JsonObject

CollectionName = Annotated[str, Field(min_length=1, max_length=200, examples=["photos"])]


class IndexSpec(Body):
    """Bring a collection in step with a source on the server's disk."""

    kind: Literal["index"]
    collection: CollectionName
    source: Annotated[str, Field(min_length=1, max_length=4096, examples=["/srv/photos"])] = Field(
        description="an absolute path below one of `source_roots`: a folder, a manifest, a file of texts, or a pattern of shards"
    )
    source_kind: SourceKind | None = Field(default=None, description="null finds out")
    prune: bool = Field(default=False, description="delete items that are gone from the source")
    retry_skipped: bool = Field(default=False, description="try again what earlier runs skipped")
    patches: bool = Field(default=True, description="store what the second look reads")


class CompactionExtent(StrEnum):
    """What a compaction merges."""

    ALL = "all"
    WORTH_IT = "worth it"  # small segments, mostly dead ones, an index that has fallen behind


class CompactSpec(Body):
    """Merge segments and drop the rows of deleted items."""

    kind: Literal["compact"]
    collection: CollectionName
    extent: CompactionExtent = Field(default=CompactionExtent.ALL, description="what is merged")


class RebuildSpec(Body):
    """Write every segment and index of a collection anew."""

    kind: Literal["rebuild"]
    collection: CollectionName


class VerifySpec(Body):
    """Compare the catalogue with the files, byte by byte."""

    kind: Literal["verify"]
    collection: CollectionName | None = Field(default=None, description="null: all")
    repair: bool = Field(default=False, description="first give damaged segments up; indexing their sources restores them")

    @model_validator(mode="after")
    def _repair_all(self) -> Self:
        if self.repair and self.collection is not None:
            raise ValueError("a repair is of all collections; leave the collection away")
        return self


class PatchesSpec(Body):
    """Store what the second look reads, of each picture that lacks it."""

    kind: Literal["patches"]
    collection: CollectionName


class HubnessSpec(Body):
    """Give a collection a bank of queries, and its items their hubness bias from it; how much is taken off is fitted on captions."""

    kind: Literal["hubness"]
    collection: CollectionName
    queries: OwnQueries | None = Field(default=None, description="whose queries: the captions of its pictures, or what its encoder brings")
    source: Annotated[str, Field(min_length=1, max_length=4096, examples=["/srv/asked.txt"])] | None = Field(
        default=None,
        description="or a file of queries, lines or a table with a column `text`, below one of `source_roots`",
    )

    @model_validator(mode="after")
    def _have_one_of_both(self) -> Self:
        if (self.queries is None) == (self.source is None):
            raise ValueError("give queries (captions or encoder) or a source, and not both")
        return self


class UploadSpec(Body):
    """Index what was sent; made by an upload and never asked for by itself."""

    kind: Literal["upload"]
    collection: CollectionName
    batch: str
    digest: str = ""  # of what was sent


JobRequest = Annotated[IndexSpec | CompactSpec | RebuildSpec | VerifySpec | PatchesSpec | HubnessSpec, Field(discriminator="kind")]
"""What may be asked for."""

Spec = Annotated[IndexSpec | CompactSpec | RebuildSpec | VerifySpec | PatchesSpec | HubnessSpec | UploadSpec, Field(discriminator="kind")]

_SPEC: TypeAdapter[IndexSpec | CompactSpec | RebuildSpec | VerifySpec | PatchesSpec | HubnessSpec | UploadSpec] = TypeAdapter(Spec)


def spec_of(job: JobRecord) -> IndexSpec | CompactSpec | RebuildSpec | VerifySpec | PatchesSpec | HubnessSpec | UploadSpec:
    """What the row of a job says."""
    return _SPEC.validate_python({**job.spec, "kind": job.kind, **({} if job.collection is None else {"collection": job.collection})})


def stored_spec(spec: BaseModel) -> JsonObject:
    """What the row of a job keeps beside its kind and collection."""
    return spec.model_dump(mode="json", exclude={"kind", "collection"})


class Order(BaseModel):
    """What the process of a job is given, on its standard input: it has a database's password in it."""

    model_config = ConfigDict(extra="forbid")

    store: Path
    settings: dict[str, Any]  # of `sightline.settings`
    encoder: str | None  # where the service was told to use another one than its settings say
    source_roots: tuple[Path, ...]
    decoding: DecodingLimits  # of an uploaded picture
    max_picture_bytes: int
    fetching: FetchLimits | None  # None: nothing is fetched
    spec: Spec
