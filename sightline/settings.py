"""What can be configured, with its unit, from `SIGHTLINE_*` environment variables or a caller's own values.

Nothing reads settings globally: the builder in `api` makes one `Settings` and hands the parts on.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from sightline.errors import InvalidSetting

DEFAULT_ENCODER = "sightline-mini"
DEFAULT_COLLECTION = "default"


def default_store() -> Path:
    """The folder that holds the catalogue and the segments when none is named."""
    return Path.home() / ".local" / "share" / "sightline"


class Settings(BaseSettings):
    """All settings; each is an environment variable `SIGHTLINE_` + its name in capitals, and one that is empty counts as not set."""

    model_config = SettingsConfigDict(env_prefix="SIGHTLINE_", env_ignore_empty=True, extra="forbid", frozen=True)

    store: Path = Field(default_factory=default_store, description="folder of the catalogue and the segments")
    database_url: str | None = Field(
        default=None, description="SQLAlchemy URL of the catalogue; SQLite inside the store's folder when absent"
    )
    encoder: str = Field(default=DEFAULT_ENCODER, description="encoder of new collections: sightline-mini, a hub id or a folder")
    fusion: str | None = Field(
        default=None, description="fusion encoder: a folder, or BLIP by folder or hub id; the one beside the encoder when absent"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="where networks run and, with a CUDA device, rows are searched"
    )
    max_pixels: Annotated[int, Field(ge=1)] = Field(
        default=200_000_000, description="pictures with more pixels are skipped (decompression bombs)"
    )
    batch_images: Annotated[int, Field(ge=1, le=4096)] = Field(default=32, description="images a forward pass")
    decode_workers: Annotated[int, Field(ge=0, le=256)] = Field(default=0, description="decoding threads; 0 is one a core")
    look_ahead_batches: Annotated[int, Field(ge=1, le=64)] = Field(default=3, description="decoded batches in flight at most")
    commit_items: Annotated[int, Field(ge=1)] = Field(default=4096, description="a commit at the latest after so many items")
    commit_seconds: Annotated[float, Field(gt=0)] = Field(default=15.0, description="a commit at the latest after so many seconds")
    index_memory_bytes: Annotated[int, Field(ge=1_000_000)] = Field(
        default=4_000_000_000, description="memory that the FAISS indexes of one collection may take"
    )
    min_free_bytes: Annotated[int, Field(ge=0)] = Field(
        default=64_000_000, description="indexing stops cleanly when less than this is free on the store's disk"
    )


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment, with `overrides` first; those that are None count as absent.

    Raises `InvalidSetting` with the variable's name, its value and what was expected.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]  # pydantic validates them
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"])
        raise InvalidSetting(f"SIGHTLINE_{name.upper()}={first['input']!r}: {first['msg']}") from error
