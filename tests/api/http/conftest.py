"""The real app over a real store, asked in-process."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from api import Sightline
from api.http.app import create_app
from api.http.service import Service
from api.http.settings import load_service_settings
from sightline.encoders.composed import ComposedEncoder
from tests.api.tiny_fusion import opened


@pytest.fixture
def client(sightline: Sightline) -> Iterator[TestClient]:
    """A client on loopback, of a store with the six photos, in which there is no key."""
    app = create_app(Service(sightline, load_service_settings()))
    with TestClient(app, raise_server_exceptions=False, client=("127.0.0.1", 50_000)) as client:
        yield client


@pytest.fixture
def fused(store: Path, tiny_encoder: ComposedEncoder, fusion: Path) -> Iterator[Sightline]:
    """A store of pictures with patches, and its fusion encoder."""
    with opened(store, tiny_encoder, fusion) as sightline:
        yield sightline


@pytest.fixture
def fused_client(fused: Sightline) -> Iterator[TestClient]:
    """A client of a store that has patches and a fusion encoder."""
    app = create_app(Service(fused, load_service_settings()))
    with TestClient(app, raise_server_exceptions=False, client=("127.0.0.1", 50_000)) as client:
        yield client
