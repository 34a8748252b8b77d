"""Whether the service lives and is ready, what Prometheus reads, and the line about each request."""

import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text
from starlette.testclient import TestClient

from api import Sightline, open_store
from api.http.app import create_app
from api.http.service import Service
from api.http.settings import load_service_settings
from sightline.logs import LOGGER_ROOTS, configure_logging
from sightline.types import Scope
from tests.api.http.keys import bearer, new_key
from tests.histogram_encoder import HistogramEncoder

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def loggers_as_before() -> Iterator[None]:
    before = {name: (logging.getLogger(name).level, list(logging.getLogger(name).handlers)) for name in LOGGER_ROOTS}
    yield
    for name, (level, handlers) in before.items():
        logging.getLogger(name).setLevel(level)
        logging.getLogger(name).handlers[:] = handlers


@pytest.fixture
def service(sightline: Sightline) -> Service:
    return Service(sightline, load_service_settings())


@pytest.fixture
def watched(service: Service) -> Iterator[TestClient]:
    """A service that is warm."""
    service.warming.start()
    assert service.warming.wait(60)
    with TestClient(create_app(service), raise_server_exceptions=False) as client:
        yield client


def test_what_is_to_be_done_when_all_is_warm_is_done_before_it_is_ready(service: Service) -> None:
    was_over = []
    service.warming.start(then=lambda: was_over.append(service.warming.is_over))
    assert service.warming.wait(60)
    assert was_over == [False]


def test_a_service_that_is_well_is_alive_and_ready(watched: TestClient) -> None:
    assert watched.get("/livez").json() == {"status": "alive"}
    ready = watched.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})


def test_a_migration_that_is_pending_makes_it_unready_and_not_dead(watched: TestClient, sightline: Sightline) -> None:
    database = sightline.store._database
    with database.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0004'"))
    response = watched.get("/readyz")
    assert (response.status_code, response.json()["type"]) == (503, "NotReady")
    assert "migration" in response.json()["detail"]
    assert watched.get("/livez").status_code == 200

    with database.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0005'"))
    assert watched.get("/readyz").status_code == 200


def test_a_model_that_is_missing_makes_it_unready(tmp_path: Path, photos: Path, tiny_encoder_path: Path) -> None:
    copy = tmp_path / "copy-of-the-encoder"
    copy.mkdir()
    for file in tiny_encoder_path.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    with open_store(tmp_path / "gone", encoder=str(copy)) as sightline:
        sightline.index(photos)
    for file in copy.iterdir():
        file.unlink()
    copy.rmdir()

    with open_store(tmp_path / "gone") as sightline:
        service = Service(sightline, load_service_settings())
        service.warming.start()
        assert service.warming.wait(60)
        with TestClient(create_app(service)) as client:
            response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["detail"] == "a model is missing"
    assert str(copy) not in response.text


def test_it_is_not_ready_while_it_ends(watched: TestClient, service: Service) -> None:
    service.stopping.set()
    assert watched.get("/readyz").status_code == 503
    service.stopping.clear()


def _samples(client: TestClient) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {(sample.name, frozenset(sample.labels.items())): sample.value for family in families for sample in family.samples}


def _labelled(**labels: str) -> frozenset[tuple[str, str]]:
    return frozenset(labels.items())


def test_requests_and_stages_are_counted_and_timed(watched: TestClient) -> None:
    for _ in range(3):
        assert watched.post("/v1/collections/default/search", json={"text": "red"}).status_code == 200
    watched.post("/v1/collections/nothing/search", json={"text": "red"})
    watched.get("/v1/no/such/path")
    samples = _samples(watched)

    route = "/v1/collections/{collection}/search"
    assert samples["sightline_requests_total", _labelled(method="POST", route=route, status="200")] == 3
    assert samples["sightline_requests_total", _labelled(method="POST", route=route, status="404")] == 1
    assert samples["sightline_requests_total", _labelled(method="GET", route="none", status="404")] == 1
    assert samples["sightline_request_seconds_count", _labelled(route=route)] == 4
    for stage in ("embed", "retrieve", "metadata", "total"):
        assert samples["sightline_search_stage_seconds_count", _labelled(stage=stage)] == 3
        assert samples["sightline_search_stage_seconds_sum", _labelled(stage=stage)] > 0
    assert samples["sightline_requests_in_progress", frozenset()] == 1


def test_what_the_store_holds_is_measured(watched: TestClient) -> None:
    samples = _samples(watched)
    assert samples["sightline_items", _labelled(collection="default", modality="image")] == 6
    assert samples["sightline_segments", _labelled(collection="default")] == 1
    assert samples["sightline_tombstones", _labelled(collection="default")] == 0
    assert samples["sightline_disk_bytes", _labelled(collection="default")] > 0
    assert samples["sightline_memory_bytes", _labelled(collection="default")] > 0
    assert samples["process_resident_memory_bytes", frozenset()] > 0


def test_two_apps_do_not_add_up(watched: TestClient, tmp_path: Path) -> None:
    watched.get("/livez")
    with (
        open_store(tmp_path / "other", encoder=HistogramEncoder()) as other,
        TestClient(create_app(Service(other, load_service_settings()))) as client,
    ):
        assert ("sightline_requests_total", _labelled(method="GET", route="/livez", status="200")) not in _samples(client)
        assert ("sightline_items", _labelled(collection="default", modality="image")) not in _samples(client)


def test_metrics_take_a_key_for_all_collections(service: Service, sightline: Sightline) -> None:
    every, some = new_key(sightline, Scope.SEARCH), new_key(sightline, Scope.SEARCH, collections=["default"])
    with TestClient(create_app(service)) as client:
        assert client.get("/metrics").status_code == 401
        assert client.get("/metrics", headers=bearer(some)).status_code == 403
        assert client.get("/metrics", headers=bearer(every)).status_code == 200


def test_the_dashboard_asks_for_metrics_that_exist(watched: TestClient) -> None:
    watched.post("/v1/collections/default/search", json={"text": "red"})
    names = {name for name, _ in _samples(watched)}
    dashboard = json.loads((ROOT / "docs" / "grafana-dashboard.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    assert len(expressions) >= 8
    asked = {name for expression in expressions for name in re.findall(r"\b(?:sightline|process)_\w+", expression)}
    assert asked <= names


def test_each_request_is_a_line_with_its_id_and_without_what_was_looked_for(watched: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    configure_logging("info", log_format="json")
    monkeypatch.setattr(sys, "stderr", log := io.StringIO())
    watched.get("/v1/collections/default/search", params={"q": "a-secret-wish"}, headers={"X-Request-ID": "r1"})

    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    (line,) = [line for line in lines if line["logger"] == "api.http.access"]
    assert line["request_id"] == "r1"
    assert (line["method"], line["status"], line["path"]) == ("GET", 200, "/v1/collections/default/search")
    assert line["route"] == "/v1/collections/{collection}/search"
    assert line["actor"] == "anyone on this machine"
    assert 0 < line["search_ms"] <= line["duration_ms"]
    assert "a-secret-wish" not in json.dumps(line)
    assert all(other["request_id"] == "r1" for other in lines if other["logger"].startswith("search"))
