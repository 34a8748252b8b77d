"""Searching over HTTP gives what searching from Python gives."""

from starlette.testclient import TestClient

from api import Sightline


def test_words_find_what_the_library_finds(client: TestClient, sightline: Sightline) -> None:
    response = client.post("/v1/collections/default/search", json={"text": "red", "top_k": 3})

    assert response.status_code == 200, response.text
    found = [(hit["key"], hit["rank"]) for hit in response.json()["hits"]]
    assert found == [(hit.key, hit.rank) for hit in sightline.search("red", k=3)]


def test_an_item_finds_others_like_it(client: TestClient) -> None:
    hits = client.post("/v1/collections/default/search", json={"like": ["red.png"], "top_k": 10}).json()["hits"]
    assert len(hits) == 5
    assert "red.png" not in {hit["key"] for hit in hits}
