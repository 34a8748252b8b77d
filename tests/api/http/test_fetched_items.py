"""Items whose pictures are given as addresses, from the request to the search that finds them; in a request, a job and a process."""

import io
import json
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from api import Sightline, open_store
from sightline.encoders.composed import ComposedEncoder
from tests.api.http.jobs_at_work import DEADLINE_S, AtWork, at_work
from tests.api.http.picture_site import Site, serving_pictures
from tests.api.http.test_killed_jobs import ask, served
from tests.api.http.test_uploads import NDJSON, lines, make_collection

NUM_PICTURES = 3
LIMITS = {
    "SIGHTLINE_SERVICE_FETCH_URLS": "true",
    "SIGHTLINE_SERVICE_FETCH_NETWORKS": '["127.0.0.1/32"]',
    "SIGHTLINE_SERVICE_FETCH_MAX_BYTES": "100000",
    "SIGHTLINE_SERVICE_FETCH_TIMEOUT_S": "2",
}
REFUSED = {
    "redirect/http://127.0.0.2:{port}/0.png": ("UnfetchableUrl", "not on the public internet"),
    "redirect/http://169.254.169.254/latest/meta-data": ("UnfetchableUrl", "not on the public internet"),
    "redirect/http://[::1]:{port}/0.png": ("UnfetchableUrl", "not on the public internet"),
    "redirect/file:///etc/passwd": ("UnfetchableUrl", "no address that is fetched"),
    "loop": ("UnfetchableUrl", "more than 5 times"),
    "large": ("RequestTooLarge", "more than the 100,000 bytes"),
    "never": ("UnfetchableUrl", "within 2 s"),
    "drip/head": ("UnfetchableUrl", "within 2 s"),
    "drip/to-its-end": ("UnfetchableUrl", "within 2 s"),
    "page": ("UnfetchableUrl", "is text/html, and no picture"),
    "no-picture": ("UnreadableImage", "it holds text, not a picture"),
    "short": ("UnfetchableUrl", "cut short"),
    "gone": ("UnfetchableUrl", "status 404"),
}
"""Paths of the site, and why what they lead to is no item."""


def noise(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((64, 48), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def site() -> Iterator[Site]:
    with serving_pictures({f"/{number}.png": noise(number) for number in range(NUM_PICTURES)}) as site:
        yield site


@pytest.fixture
def work(tmp_path: Path, tiny_encoder_path: Path, tiny_encoder: ComposedEncoder, monkeypatch: pytest.MonkeyPatch) -> Iterator[AtWork]:
    """A service that fetches, and from loopback's first address too."""
    for variable, setting in LIMITS.items():
        monkeypatch.setenv(variable, setting)
    with at_work(tmp_path / "store", encoder=tiny_encoder_path, source_roots=()) as work:
        make_collection(work, tiny_encoder)
        yield work


def sent(site: Site) -> list[dict[str, Any]]:
    """Whole pictures and what is none, in turns; the key of the first is its address."""
    refused = [{"key": path, "image": site.address("/" + path.replace("{port}", str(site.port)))} for path in REFUSED]
    others = [
        {"key": "file", "image": "file:///etc/passwd"},
        {"key": "inside", "image": f"http://127.0.0.2:{site.port}/0.png"},
        {"key": "local", "image": f"http://localhost.invalid:{site.port}/0.png"},
        {"key": "secret", "image": f"http://me:secret@127.0.0.1:{site.port}/0.png"},
    ]
    first = {"image": site.address("/0.png"), "caption": "a first picture"}
    second = {"key": "second", "image": site.address("/1.png"), "metadata": {"n": 2}}
    third = {"key": "redirected", "image": site.address(f"/redirect/{site.address('/2.png')}")}
    return [first, *refused, second, *others, {"key": "note", "text": "two red cubes"}, third]


def expected_keys(site: Site) -> set[str]:
    return {site.address("/0.png"), "second", "note", "redirected"}


def assert_refused(failed: list[tuple[str, str, str]]) -> None:
    """Each that is no item failed, for its own reason, in a sentence without a secret."""
    found = {key: (kind, detail) for key, kind, detail in failed}
    assert set(found) == {*REFUSED, "file", "inside", "local", "secret"}
    for key, (kind, said) in REFUSED.items():
        assert found[key][0] == kind, found[key]
        assert said in found[key][1], found[key]
    assert "neither a data URI" in found["file"][1]
    assert "not on the public internet" in found["inside"][1]
    assert "not known" in found["local"][1]
    assert "a user name or password" in found["secret"][1]
    assert "secret" not in found["secret"][1]


def assert_searchable(work: AtWork, site: Site) -> None:
    assert set(work.items()) == expected_keys(site)
    hit = work.client.post("/v1/collections/default/search", json={"like": ["second"], "top_k": 3, "modality": "image"}).json()["hits"]
    assert {each["key"] for each in hit} == {site.address("/0.png"), "redirected"}
    upload = work.client.post("/v1/collections/default/search/upload", files={"image": ("any.png", noise(1))}, data={"top_k": "10"})
    (second,) = (hit for hit in upload.json()["hits"] if hit["key"] == "second")
    assert second["metadata"] == {"n": 2}
    assert second["similarity"] == pytest.approx(1.0, abs=2e-3)  # rows are fp16
    original = work.client.get(f"/v1/collections/default/items/{second['item_id']}/original")
    assert original.content == noise(1)


def left_over(sightline: Sightline) -> list[str]:
    return [path.name for path in (sightline.store.folder / "uploads").glob("*/incoming/*")]


def test_pictures_are_fetched_and_what_is_none_takes_nothing_with_it(work: AtWork, site: Site) -> None:
    response = lines(work.client, *sent(site))
    assert response.status_code == 200, response.text
    items = response.json()["items"]
    assert {item["key"] for item in items if item["status"] == "added"} == expected_keys(site)
    assert_refused([(item["key"], item["error"]["type"], item["error"]["detail"]) for item in items if item["status"] == "failed"])
    assert [item["key"] for item in items] == [item.get("key", item.get("image")) for item in sent(site)]
    assert_searchable(work, site)
    assert left_over(work.service.sightline) == []
    assert {host for _, host in site.asked} == {f"127.0.0.1:{site.port}"}, "no other address was asked"

    again = lines(work.client, {"key": "second", "image": site.address("/1.png"), "metadata": {"n": 2}})
    assert again.json()["num_unchanged"] == 1
    replaced = lines(work.client, {"key": "second", "image": site.address("/2.png")})
    assert replaced.json()["num_replaced"] == 1


def test_a_job_fetches_as_the_service_does(work: AtWork, site: Site) -> None:
    response = lines(work.client, *sent(site), when="later")
    assert response.status_code == 202, response.text
    done = work.ended(response.json()["job"])
    assert (done["state"], done["error"]) == ("done", None)
    assert (done["result"]["num_added"], done["result"]["num_failed"]) == (4, len(REFUSED) + 4)
    assert_refused([(each["key"], each["error"], each["detail"]) for each in done["result"]["failed"]])
    assert_searchable(work, site)
    assert left_over(work.service.sightline) == []


def send_to(port: int, *items: object) -> Any:
    """The JSON of an answer to lines of JSON."""
    connection = HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    try:
        connection.request("POST", "/v1/collections/default/items", "\n".join(map(json.dumps, items)), NDJSON)
        response = connection.getresponse()
        assert response.status == 200
        return json.loads(response.read())
    finally:
        connection.close()


@pytest.mark.slow
def test_sightline_serve_fetches_from_private_networks_only_where_it_is_told_to(
    tmp_path: Path, tiny_encoder_path: Path, site: Site
) -> None:
    store, settings = tmp_path / "store", {"SIGHTLINE_ENCODER": str(tiny_encoder_path), "SIGHTLINE_SERVICE_FETCH_URLS": "true"}
    picture = {"key": "a", "image": site.address("/0.png")}
    with served(store, root=tmp_path, settings=settings) as (_, port):
        assert ask(port, "PUT", "/v1/collections/default")["name"] == "default"
        (refused,) = send_to(port, picture)["items"]
        assert (refused["status"], refused["error"]["type"]) == ("failed", "UnfetchableUrl")
        assert site.asked == []
    with served(store, root=tmp_path, settings={**settings, **LIMITS}) as (_, port):
        (added,) = send_to(port, picture)["items"]
        assert added["status"] == "added"
    with open_store(store, create=False) as sightline:
        assert sightline.verify() == []
