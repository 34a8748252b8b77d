"""Other services' clients find what they expect: the fields that they read, with our own numbers in them."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from api import Sightline
from tests.api.tiny_fusion import WORDS
from tests.histogram_encoder import HistogramEncoder


def data_uri(colour: str) -> str:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def test_texts_and_pictures_are_embedded_in_the_order_given(client: TestClient) -> None:
    body = client.post("/v1/embeddings", json={"model": "histogram", "input": ["red", data_uri("red"), "blue wall"]}).json()

    assert (body["object"], body["model"]) == ("list", "histogram")
    assert [(each["object"], each["index"]) for each in body["data"]] == [("embedding", 0), ("embedding", 1), ("embedding", 2)]
    rows = np.array([each["embedding"] for each in body["data"]])
    np.testing.assert_allclose(rows[[0, 2]], HistogramEncoder().embed_texts(["red", "blue wall"]), atol=1e-6)
    assert rows[1] @ rows[0] > 0.9
    assert body["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


def test_one_text_is_a_list_of_one_and_base64_is_the_same_numbers(client: TestClient) -> None:
    as_floats = client.post("/v1/embeddings", json={"model": "histogram", "input": "red"}).json()["data"]
    as_base64 = client.post("/v1/embeddings", json={"model": "histogram", "input": "red", "encoding_format": "base64", "user": "x"}).json()[
        "data"
    ]

    decoded = np.frombuffer(base64.b64decode(as_base64[0]["embedding"]), dtype="<f4")
    np.testing.assert_array_equal(decoded, np.array(as_floats[0]["embedding"], dtype=np.float32))


def test_many_texts_take_several_passes(client: TestClient) -> None:
    texts = [f"red {number}" for number in range(150)]
    body = client.post("/v1/embeddings", json={"model": "histogram", "input": texts}).json()
    np.testing.assert_allclose([each["embedding"] for each in body["data"]], HistogramEncoder().embed_texts(texts), atol=1e-6)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"model": "gpt-4", "input": "red"}, 404),
        ({"input": "red"}, 422),
        ({"model": "histogram"}, 422),
        ({"model": "histogram", "input": []}, 422),
        ({"model": "histogram", "input": ""}, 422),
        ({"model": "histogram", "input": [1, 2, 3]}, 422),
        ({"model": "histogram", "input": ["red"] * 2049}, 422),
        ({"model": "histogram", "input": "red", "dimensions": 3}, 422),
        ({"model": "histogram", "input": "red", "encoding_format": "hex"}, 422),
        ({"model": "histogram", "input": "data:image/png;base64,AAAA"}, 422),
        ({"model": "histogram", "input": "data:image/png;base64,%%"}, 422),
    ],
)
def test_what_cannot_be_embedded_is_refused(client: TestClient, body: dict[str, object], status: int) -> None:
    response = client.post("/v1/embeddings", json=body)
    assert response.status_code == status, response.text
    assert response.json()["detail"]


def test_its_own_number_of_dimensions_may_be_asked_for(client: TestClient) -> None:
    assert client.post("/v1/embeddings", json={"model": "histogram", "input": "red", "dimensions": 64}).status_code == 200


def test_models_are_the_encoders_of_the_collections(client: TestClient, sightline: Sightline) -> None:
    body = client.get("/v1/models").json()
    created = int(sightline.collection("default").created_at.timestamp())
    assert body == {"object": "list", "data": [{"id": "histogram", "object": "model", "created": created, "owned_by": "sightline"}]}
    assert client.get("/v1/models/histogram").json() == body["data"][0]
    assert client.get("/v1/models/org/name").status_code == 404


@pytest.mark.parametrize("version", ["1", "2"])
def test_documents_come_back_in_the_order_of_their_relevance(client: TestClient, version: str) -> None:
    documents = ["blue", {"text": "red red blue"}, "red", "red"]
    response = client.post(f"/v{version}/rerank", json={"model": "histogram", "query": "red", "documents": documents})

    assert response.status_code == 200, response.text
    body = response.json()
    assert [each["index"] for each in body["results"]] == [2, 3, 1, 0]  # equal ones in the order in which they came
    scores = [each["relevance_score"] for each in body["results"]]
    np.testing.assert_allclose(scores[::3], [1.0, 0.5], atol=1e-6)
    assert all("document" not in each for each in body["results"])
    assert body["meta"] == {"api_version": {"version": version}, "billed_units": {"search_units": 1}}
    assert body["id"]


def test_so_many_come_back_as_are_asked_for_and_with_them_what_they_say(client: TestClient) -> None:
    documents = ["blue", {"text": "red"}, {"image": data_uri("red")}]
    body = client.post("/v1/rerank", json={"query": "red", "documents": documents, "top_n": 2, "return_documents": True}).json()

    assert [each["index"] for each in body["results"]] == [1, 2]
    assert [each["document"] for each in body["results"]] == [{"text": "red"}, {"image": documents[2]["image"]}]  # type: ignore[index]


def test_pictures_are_as_relevant_as_they_match(fused_client: TestClient, fused: Sightline) -> None:
    hits = fused.search(WORDS, k=4)
    images = ["data:image/png;base64," + base64.b64encode(Path(hit.location).read_bytes()).decode() for hit in hits]
    documents = [{"image": image} for image in reversed(images)]

    body = fused_client.post("/v2/rerank", json={"query": WORDS, "documents": documents}).json()

    by_index = {each["index"]: each["relevance_score"] for each in body["results"]}
    expected = [hit.match_probability for hit in hits]
    np.testing.assert_allclose([by_index[3 - place] for place in range(4)], expected, atol=0.02)  # type: ignore[arg-type]  # int8 patches


@pytest.mark.parametrize(
    "body",
    [
        {"query": "red", "documents": []},
        {"query": "", "documents": ["a"]},
        {"query": "red", "documents": [""]},
        {"query": "red", "documents": [{}]},
        {"query": "red", "documents": [{"text": "a", "image": "b"}]},
        {"query": "red", "documents": [{"image": "data:image/png;base64,AAAA"}]},
        {"query": "red", "documents": ["a"], "top_n": 0},
        {"query": "red", "documents": ["a"] * 1001},
        {"query": "red", "documents": [3]},
    ],
)
def test_what_cannot_be_reranked_is_refused(client: TestClient, body: dict[str, object]) -> None:
    response = client.post("/v1/rerank", json=body)
    assert response.status_code == 422, response.text
