"""The shapes that clients of other services send and expect: OpenAI's embeddings and models, Cohere's rerank in both versions."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, model_validator

from api.http.schemas import Body

MAX_INPUTS = 2048
"""As OpenAI has it."""

MAX_DOCUMENTS = 1000
"""As Cohere has it."""

_Text = Annotated[str, Field(max_length=100_000)]
_Picture = Annotated[str, Field(description="a picture as a data URI, data:image/jpeg;base64,...")]
Input = Annotated[str, Field(description="a text, or a picture as a data URI")]


class EmbeddingsRequest(Body):
    """What OpenAI's clients send to get embeddings; a picture as a data URI is our extension."""

    model_config = ConfigDict(
        extra="forbid",
        allow_inf_nan=False,
        json_schema_extra={"examples": [{"model": "sightline-mini", "input": ["a dog on the beach", "a cat"], "encoding_format": "float"}]},
    )

    model: str = Field(description="an encoder, as `GET /v1/models` lists them")
    input: Input | Annotated[list[Input], Field(min_length=1, max_length=MAX_INPUTS)]
    encoding_format: Literal["float", "base64"] = Field(default="float", description="base64 is of float32, little-endian")
    dimensions: StrictInt | None = Field(default=None, ge=1, description="nothing but the encoder's own number of them")
    user: str | None = Field(default=None, description="not looked at")


class EmbeddingBody(BaseModel):
    """One embedding."""

    object: Literal["embedding"] = "embedding"
    index: int = Field(description="of the input that it is of", examples=[0])
    embedding: list[float] | str = Field(examples=[[0.0119, -0.0342, 0.0507]])


class Usage(BaseModel):
    """Tokens that were read; a picture has none."""

    prompt_tokens: int = Field(examples=[7])
    total_tokens: int = Field(examples=[7])


class EmbeddingsBody(BaseModel):
    """Embeddings in the order of the inputs, of unit length."""

    object: Literal["list"] = "list"
    data: list[EmbeddingBody]
    model: str = Field(examples=["sightline-mini"])
    usage: Usage


class ModelBody(BaseModel):
    """An encoder."""

    id: str = Field(examples=["sightline-mini"])
    object: Literal["model"] = "model"
    created: int = Field(description="when its first collection was made, in seconds since 1970", examples=[1_795_771_800])
    owned_by: str = "sightline"


class ModelsBody(BaseModel):
    """Encoders."""

    object: Literal["list"] = "list"
    data: list[ModelBody]


class DocumentBody(Body):
    """A document: a text or, which is our extension, a picture."""

    text: Annotated[_Text | None, Field(examples=["a dog by the sea"])] = None
    image: Annotated[_Picture | None, Field(examples=[None])] = None

    @model_validator(mode="after")
    def _is_one_of_two(self) -> Self:
        if (self.text is None) == (self.image is None):
            raise ValueError("a document has either a text or an image")
        return self


class RerankRequest(Body):
    """What Cohere's clients send to have documents put in order; pictures among them are our extension."""

    model_config = ConfigDict(
        extra="forbid",
        allow_inf_nan=False,
        json_schema_extra={
            "examples": [{"query": "a dog on the beach", "documents": ["a dog by the sea", {"text": "a tax form"}], "top_n": 1}]
        },
    )

    model: str | None = Field(default=None, description="an encoder, as `GET /v1/models` lists them; that of new collections without one")
    query: Annotated[str, Field(max_length=100_000)]
    documents: Annotated[list[_Text | DocumentBody], Field(min_length=1, max_length=MAX_DOCUMENTS)]
    top_n: StrictInt | None = Field(default=None, ge=1, description="so many of the best; all without it")
    return_documents: StrictBool = Field(default=False, description="whether to send each document back with its relevance")
    max_tokens_per_doc: StrictInt | None = Field(default=None, ge=1, description="not looked at: the encoder reads what it can")
    max_chunks_per_doc: StrictInt | None = Field(default=None, ge=1, description="not looked at: a document is one chunk")
    priority: StrictInt | None = Field(default=None, description="not looked at")


class RerankedDocument(BaseModel):
    """One document."""

    index: int = Field(description="its place in what was sent", examples=[0])
    relevance_score: float = Field(
        ge=0, le=1, description="of a picture the match probability; of a text its similarity, moved to [0, 1]", examples=[0.82]
    )
    document: DocumentBody | None = Field(default=None, description="where it was to be sent back")


class ApiVersion(BaseModel):
    """Which shape this is."""

    version: str = Field(examples=["2"])


class BilledUnits(BaseModel):
    """Nothing costs anything; clients want the field."""

    search_units: int = 1


class RerankMeta(BaseModel):
    """What Cohere's clients expect beside the results."""

    api_version: ApiVersion
    billed_units: BilledUnits = BilledUnits()


class RerankBody(BaseModel):
    """Documents, the most relevant first; equal ones in the order in which they were sent."""

    id: str = Field(examples=["0f3f6e1c-9f0e-4c55-8f8a-1c9f7f1f2a3b"])
    results: list[RerankedDocument]
    meta: RerankMeta
