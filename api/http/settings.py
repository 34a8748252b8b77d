"""What can be configured of the service, with its unit, from `SIGHTLINE_SERVICE_*` environment variables or the command line."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from api.http.fetching import IpNetwork
from sightline.errors import InvalidSetting


class ServiceSettings(BaseSettings):
    """Each is an environment variable `SIGHTLINE_SERVICE_` + its name in capitals, and one that is empty counts as not set."""

    model_config = SettingsConfigDict(env_prefix="SIGHTLINE_SERVICE_", env_ignore_empty=True, extra="forbid", frozen=True)

    host: str = Field(default="127.0.0.1", description="address to listen on; any but loopback needs a key to exist")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(default=8000, description="port to listen on; 0 takes a free one")
    max_body_bytes: Annotated[int, Field(ge=1024)] = Field(default=32_000_000, description="of a request, unless it is a bulk upload")
    max_json_bytes: Annotated[int, Field(ge=1024)] = Field(default=8_000_000, description="of a request in JSON")
    max_upload_bytes: Annotated[int, Field(ge=1024)] = Field(default=2_000_000_000, description="of a bulk upload, all files together")
    max_pixels: Annotated[int, Field(ge=1)] = Field(default=100_000_000, description="of an uploaded picture")
    decode_timeout_s: Annotated[float, Field(gt=0)] = Field(default=20.0, description="decoding an uploaded picture takes at most so long")
    decode_memory_bytes: Annotated[int, Field(ge=10_000_000)] = Field(
        default=2_500_000_000, description="memory that decoding an uploaded picture may take"
    )
    request_deadline_ms: Annotated[int, Field(ge=1)] = Field(default=10_000, description="a search that takes longer answers 503")
    max_waiting_requests: Annotated[int, Field(ge=1)] = Field(
        default=64, description="searches that wait for a place; one more answers 429"
    )
    batch_wait_ms: Annotated[float, Field(ge=0, le=100)] = Field(default=3.0, description="a busy network waits so long for company")
    max_batch: Annotated[int, Field(ge=1, le=1024)] = Field(default=32, description="texts that are embedded together at most")
    rate_limit_per_minute: Annotated[int, Field(ge=1)] | None = Field(default=None, description="requests of one key; none: no limit")
    cors_origins: tuple[str, ...] = Field(default=(), description="origins whose pages may call the service; none by default")
    source_roots: tuple[Path, ...] = Field(default=(), description="folders that indexing jobs may read; none: no jobs over folders")
    fetch_urls: bool = Field(default=False, description="whether items may be given as addresses to fetch")
    fetch_max_bytes: Annotated[int, Field(ge=1024)] = Field(default=32_000_000, description="of one fetched picture")
    fetch_timeout_s: Annotated[float, Field(gt=0)] = Field(default=10.0, description="of one fetched picture, redirects included")
    fetch_networks: tuple[IpNetwork, ...] = Field(default=(), description="private networks that are fetched from as well; none by default")
    log_format: Literal["text", "json"] = Field(default="text", description="of log lines")


def load_service_settings(**overrides: object) -> ServiceSettings:
    """Settings from the environment, with `overrides` first; those that are None count as absent.

    Raises `InvalidSetting` with the variable's name, its value and what was expected.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return ServiceSettings(**given)  # type: ignore[arg-type]  # pydantic validates them
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"])
        raise InvalidSetting(f"SIGHTLINE_SERVICE_{name.upper()}={first['input']!r}: {first['msg']}") from error
