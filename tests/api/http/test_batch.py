"""Many searches in one call: each gets what it gets alone, and their words are embedded together."""

import json
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from api import open_store
from api.http.app import create_app
from api.http.service import Service
from api.http.settings import load_service_settings
from search.together import TextsTogether
from sightline.encoders.composed import ComposedEncoder
from sightline.types import Embeddings
from tests.histogram_encoder import HistogramEncoder

BATCH = "/v1/search/batch"


def test_each_search_gets_what_it_gets_alone(client: TestClient) -> None:
    searches: list[dict[str, object]] = [
        {"text": "red"},
        {"text": "blue green", "top_k": 2},
        {"like": ["white.png"]},
        {"text": "red", "modality": "image"},
    ]
    response = client.post(BATCH, json={"searches": [{"collection": "default"} | each for each in searches]})

    assert response.status_code == 200, response.text
    for search, found in zip(searches, response.json()["answers"], strict=True):
        alone = client.post("/v1/collections/default/search", json=search).json()
        assert (found["status"], found["problem"]) == (200, None)
        assert found["answer"]["hits"] == alone["hits"]
        assert found["answer"]["next_cursor"] == alone["next_cursor"]


def test_each_search_with_a_second_look_gets_what_it_gets_alone(fused_client: TestClient) -> None:
    """The second look reads the tokens of each one's words, and the ids of the tokens."""
    searches: list[dict[str, object]] = [
        {"text": "a red ball"},
        {"text": "two blue cubes on the grass beside a long wooden table"},
        {"text": "a red ball", "without": ["the grass"]},
        {"text": "x", "min_match": 0.001},
    ]
    response = fused_client.post(BATCH, json={"searches": [{"collection": "default"} | each for each in searches]})

    assert response.status_code == 200, response.text
    for search, found in zip(searches, response.json()["answers"], strict=True):
        alone = fused_client.post("/v1/collections/default/search", json=search).json()
        assert (found["status"], found["problem"]) == (200, None)
        assert alone["reranked"] is not None
        assert found["answer"]["reranked"] == alone["reranked"]
        together = {hit["key"]: hit["match_probability"] for hit in found["answer"]["hits"]}
        assert together == pytest.approx({hit["key"]: hit["match_probability"] for hit in alone["hits"]}, abs=1e-4)


def test_one_that_goes_wrong_leaves_the_others(client: TestClient) -> None:
    searches: list[dict[str, object]] = [
        {"collection": "default", "text": "red"},
        {"collection": "nothing", "text": "red"},
        {"collection": "default", "text": "   "},
        {"collection": "default", "like": ["no.png"]},
        {"collection": "default", "text": "red", "cursor": "AAAA"},
        {"collection": "default"},
        {"collection": "default", "image": "AAAA"},
        {"collection": "\udcff", "text": "red"},
        {"collection": "default", "text": "blue"},
    ]
    response = client.post(BATCH, content=json.dumps({"searches": searches}), headers={"Content-Type": "application/json"})

    answers = response.json()["answers"]
    assert [each["status"] for each in answers] == [200, 404, 422, 404, 422, 422, 422, 404, 200]
    kinds = [None if each["problem"] is None else each["problem"]["type"] for each in answers]
    assert kinds[1:5] == ["CollectionNotFound", "InvalidQuery", "ItemNotFound", "InvalidRequest"]
    assert answers[-1]["answer"]["hits"][0]["key"] == "blue.png"


@pytest.mark.parametrize(
    "body", [{}, {"searches": []}, {"searches": [{"text": "red"}]}, {"searches": [{"collection": "default", "text": "red"}] * 65}]
)
def test_a_batch_that_is_none_is_refused(client: TestClient, body: dict[str, object]) -> None:
    assert client.post(BATCH, json=body).status_code == 422


class CountingEncoder(HistogramEncoder):
    """Remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[str]] = []

    def embed_texts(self, texts: object) -> Embeddings:
        self.calls.append(list(texts))  # type: ignore[call-overload]
        return super().embed_texts(texts)  # type: ignore[arg-type]


def test_known_texts_take_one_pass() -> None:
    encoder = CountingEncoder()
    together = TextsTogether(encoder, ["red", "blue", "red"])  # type: ignore[arg-type]  # it has no tokens, which nobody asks for

    np.testing.assert_array_equal(together.embed_texts(["blue"]), HistogramEncoder().embed_texts(["blue"]))
    np.testing.assert_array_equal(together.embed_texts(["red", "blue"]), HistogramEncoder().embed_texts(["red", "blue"]))
    assert encoder.calls == [["red", "blue"]]
    np.testing.assert_array_equal(together.embed_texts(["green"]), HistogramEncoder().embed_texts(["green"]))
    assert encoder.calls == [["red", "blue"], ["green"]]


def test_tokens_of_known_texts_are_those_of_each_alone(tiny_encoder: ComposedEncoder) -> None:
    texts = ["a dog", "a much longer text about a cat on a roof", "x"]
    together = TextsTogether(tiny_encoder, texts)
    for text in texts:
        embeddings, tokens = together.embed_texts_with_tokens([text])
        alone_embeddings, alone = tiny_encoder.embed_texts_with_tokens([text])
        np.testing.assert_allclose(embeddings, alone_embeddings, atol=1e-5)
        assert tokens.hidden_states.shape == alone.hidden_states.shape
        np.testing.assert_allclose(tokens.hidden_states, alone.hidden_states, atol=1e-4)
        assert tokens.num_tokens.tolist() == alone.num_tokens.tolist()


def test_a_batch_embeds_in_one_pass(tmp_path: Path, photos: Path) -> None:
    encoder = CountingEncoder()
    with open_store(tmp_path / "counted", encoder=encoder) as sightline:
        sightline.index(photos)
        encoder.calls.clear()
        with TestClient(create_app(Service(sightline, load_service_settings())), client=("127.0.0.1", 50_000)) as client:
            encoder.calls.clear()  # what warming asked
            words = ["red", "green", "blue", "red white"]
            client.post(BATCH, json={"searches": [{"collection": "default", "text": word} for word in words]})

    assert [call for call in encoder.calls if "red white" in call] == [words]
    assert not [call for call in encoder.calls if call in (["red"], ["green"], ["blue"])]
