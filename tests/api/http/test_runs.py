"""Runs and the ledger over HTTP, as pages and as a file for spreadsheets."""

import csv
import io
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from api import Sightline
from api.http.routes.runs import harmless_cell

BROKEN = ("=1+1.png", "@SUM(A1).png", "plain.png")


@pytest.fixture(autouse=True)
def skipped(sightline: Sightline, photos: Path) -> None:
    """A second run that skips three pictures."""
    for name in BROKEN:
        (photos / name).write_bytes(b"no picture")
    sightline.index(photos)


def test_runs_are_listed_a_page_at_a_time(client: TestClient) -> None:
    first = client.get("/v1/runs", params={"limit": 1}).json()
    second = client.get("/v1/runs", params={"limit": 1, "before": first["next_before"]}).json()
    assert [(run["collection"], run["counts"]["new"], run["counts"]["skipped"]) for run in first["runs"] + second["runs"]] == [
        ("default", 0, 3),
        ("default", 6, 0),
    ]
    assert second["next_before"] is None


def test_the_ledger_is_listed_a_page_at_a_time(client: TestClient) -> None:
    first = client.get("/v1/ledger", params={"limit": 2, "collection": "default", "unresolved": True}).json()
    second = client.get("/v1/ledger", params={"limit": 2, "after": first["next_after"]}).json()
    assert sorted(entry["key"] for entry in first["entries"] + second["entries"]) == sorted(BROKEN)
    assert (len(first["entries"]), second["next_after"]) == (2, None)
    run_id = first["entries"][0]["run_id"]
    assert len(client.get("/v1/ledger", params={"run_id": run_id}).json()["entries"]) == 3
    assert client.get("/v1/ledger", params={"run_id": run_id + 1}).json()["entries"] == []


def test_the_ledger_as_a_file_holds_no_formula(client: TestClient) -> None:
    response = client.get("/v1/ledger", params={"format": "csv", "limit": 1})
    assert response.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert sorted(row["key"] for row in rows) == sorted(["'=1+1.png", "'@SUM(A1).png", "plain.png"])
    assert all(row["cause"] and row["collection"] == "default" for row in rows)


@pytest.mark.parametrize("path", ["/v1/runs", "/v1/ledger"])
@pytest.mark.parametrize(
    ("query", "status"), [("collection=none", 404), ("limit=0", 422), ("before=x&after=x", 422), ("format=xml&limit=-1", 422)]
)
def test_what_cannot_be_listed(client: TestClient, path: str, query: str, status: int) -> None:
    assert client.get(f"{path}?{query}").status_code == status


@pytest.mark.parametrize(("value", "expected"), [("=1", "'=1"), ("+1", "'+1"), ("-1", "'-1"), ("\t=1", "'\t=1"), ("a=1", "a=1"), (-1, -1)])
def test_cells(value: object, expected: object) -> None:
    assert harmless_cell(value) == expected
