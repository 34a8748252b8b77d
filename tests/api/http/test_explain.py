"""Explanations over HTTP are those of the library; pictures that are sent are matched as files are."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from api import Sightline
from tests.api.tiny_fusion import WORDS

EXPLAIN = "/v1/collections/default/explain"


def first_hit(client: TestClient) -> tuple[int, str]:
    hit = client.get("/v1/collections/default/search", params={"q": WORDS}).json()["hits"][0]
    return hit["item_id"], hit["key"]


def test_maps_are_those_of_the_library(fused_client: TestClient, fused: Sightline) -> None:
    item_id, key = first_hit(fused_client)
    expected = fused.explain(key, WORDS)

    response = fused_client.post(EXPLAIN, json={"text": WORDS, "item_id": item_id})

    assert response.status_code == 200, response.text
    body = response.json()
    assert (body["key"], body["width"], body["height"], body["ranks"]) == (key, 7, 7, None)
    assert [word["text"] for word in body["words"]] == WORDS.split()
    np.testing.assert_allclose(body["match_probability"], expected.match.match_probability, atol=1e-5)
    np.testing.assert_allclose(body["similarity"], expected.similarity, atol=1e-3)
    np.testing.assert_allclose(sum(word["weight"] for word in body["words"]), 1.0, atol=1e-5)
    for sent, word in zip(body["words"], expected.match.words, strict=True):
        np.testing.assert_allclose(sent["relevance"], word.relevance, atol=2e-5)
    assert body["highest"] >= max(max(row) for word in body["words"] for row in word["relevance"]) - 1e-5
    assert 0 <= body["seen"]["left"] < body["seen"]["right"] <= 1


def test_ranks_are_said_where_they_are_asked_for(fused_client: TestClient, fused: Sightline) -> None:
    item_id, key = first_hit(fused_client)
    expected = fused.explain(key, WORDS)

    ranks = fused_client.post(EXPLAIN, json={"text": WORDS, "item_id": item_id, "ranks": True}).json()["ranks"]

    assert (ranks["rank"], ranks["first_rank"], ranks["num_candidates"]) == (1, expected.first_rank, 12)
    assert ranks["reranked"] == {"depth": 12, "num_read": 12}
    assert ranks["timings"]["total_ms"] > 0


@pytest.mark.parametrize("way", ["accept", "address"])
def test_a_heat_map_is_a_png(fused_client: TestClient, pictures: Path, way: str) -> None:
    item_id, _ = first_hit(fused_client)
    if way == "accept":
        response = fused_client.post(EXPLAIN, json={"text": WORDS, "item_id": item_id}, headers={"Accept": "image/png"})
    else:
        response = fused_client.get(EXPLAIN + ".png", params={"q": WORDS, "item_id": item_id, "ranks": True})

    assert (response.status_code, response.headers["content-type"]) == (200, "image/png")
    with Image.open(io.BytesIO(response.content)) as drawn:
        assert drawn.format == "PNG"
        assert drawn.width > 1000


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"text": WORDS, "item_id": 9999}, 404, "ItemNotFound"),
        ({"text": " ", "item_id": 1}, 422, "InvalidQuery"),
        ({"text": WORDS, "item_id": "x"}, 422, "InvalidRequest"),
        ({"text": WORDS}, 422, "InvalidRequest"),
        ({"text": WORDS, "item_id": 2**70}, 422, "InvalidRequest"),
    ],
)
def test_what_cannot_be_explained_is_said(fused_client: TestClient, body: dict[str, object], status: int, kind: str) -> None:
    response = fused_client.post(EXPLAIN, json=body)
    assert (response.status_code, response.json()["type"]) == (status, kind)


def test_without_a_fusion_encoder_nothing_explains(client: TestClient) -> None:
    response = client.post(EXPLAIN, json={"text": "red", "item_id": 1})
    assert response.status_code == 422
    assert "no fusion encoder" in response.json()["detail"]


def test_a_picture_that_is_sent_is_matched_as_its_file_is(fused_client: TestClient, fused: Sightline, pictures: Path) -> None:
    file = pictures / "03.png"
    texts = [WORDS, "a cat"]
    item = next(hit for hit in fused.search(WORDS, k=12) if hit.key == "03.png")
    assert item.match_probability is not None

    for collection in ({}, {"collection": "default"}):
        image = base64.urlsafe_b64encode(file.read_bytes()).decode()
        response = fused_client.post("/v1/match", json={"image": image, "texts": texts, **collection})
        assert response.status_code == 200, response.text
        body = response.json()
        assert [each["text"] for each in body["matches"]] == texts
        assert (body["width"], body["height"]) == (64, 64)
        np.testing.assert_allclose(body["matches"][0]["similarity"], item.similarity, atol=2e-3)
        np.testing.assert_allclose(body["matches"][0]["match_probability"], item.match_probability, atol=0.02)  # patches are stored as int8
        assert len(body["matches"][0]["explanation"]["words"]) == len(WORDS.split())


def test_without_maps_the_figures_are_sent(client: TestClient) -> None:
    file = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(file, "PNG")
    image = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    found = client.post("/v1/match", json={"image": image, "texts": ["red", "blue"], "explain": False}).json()

    assert found["matches"][0]["similarity"] > found["matches"][1]["similarity"]
    assert [each["explanation"] for each in found["matches"]] == [None, None]
    assert "similarity is all there is" in found["notes"][0]


@pytest.mark.parametrize(
    "body",
    [
        {"image": "", "texts": ["a"]},
        {"image": "AAAA", "texts": ["a"]},
        {"image": "AAAA", "texts": []},
        {"image": "AAAA", "texts": [""]},
        {"image": "AAAA", "texts": ["a"] * 65},
        {"texts": ["a"]},
    ],
)
def test_what_cannot_be_matched_is_refused(client: TestClient, body: dict[str, object]) -> None:
    response = client.post("/v1/match", json=body)
    assert response.status_code == 422, response.text


def test_a_collection_that_is_not_there_is_said(client: TestClient) -> None:
    response = client.post("/v1/match", json={"image": "AAAA", "texts": ["a"], "collection": "nothing"})
    assert response.status_code in (404, 422)
