"""The real app over a real store, asked in-process."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from api import Sightline
from api.http.app import create_app
from api.http.service import Service
from api.http.settings import load_service_settings


@pytest.fixture
def client(sightline: Sightline) -> Iterator[TestClient]:
    """A client on loopback, of a store with the six photos, in which there is no key."""
    app = create_app(Service(sightline, load_service_settings()))
    with TestClient(app, raise_server_exceptions=False, client=("127.0.0.1", 50_000)) as client:
        yield client
