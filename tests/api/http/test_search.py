"""Searching over HTTP gives what searching from Python gives, page by page."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from api import Sightline
from tests.histogram_encoder import HistogramEncoder

SEARCH = "/v1/collections/default/search"


def found(response: Any) -> list[str]:
    assert response.status_code == 200, response.text
    return [hit["key"] for hit in response.json()["hits"]]


def refused(response: Any) -> str:
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"
    return str(response.json()["detail"])


def picture(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(file, "PNG")
    return file.getvalue()


def test_words_find_what_the_library_finds(client: TestClient, sightline: Sightline) -> None:
    response = client.post(SEARCH, json={"text": "red", "top_k": 3})

    assert response.status_code == 200, response.text
    hits = [(hit["key"], hit["rank"]) for hit in response.json()["hits"]]
    assert hits == [(hit.key, hit.rank) for hit in sightline.search("red", k=3)]


def test_an_address_finds_what_a_body_finds(client: TestClient) -> None:
    by_address = client.get(SEARCH, params={"q": "red::2 green", "without": "blue", "like": "white.png", "modality": "image", "top_k": 4})
    body = {"text": "red::2 green", "without": ["blue"], "like": ["white.png"], "modality": "image", "top_k": 4}
    by_body = client.post(SEARCH, json=body)

    assert found(by_address) == found(by_body)
    assert by_address.json()["hits"] == by_body.json()["hits"]


def test_an_item_finds_others_like_it_by_key_and_by_id(client: TestClient) -> None:
    by_key = found(client.post(SEARCH, json={"like": ["red.png"], "top_k": 10}))
    assert len(by_key) == 5
    assert "red.png" not in by_key
    first = client.post(SEARCH, json={"text": "red"}).json()["hits"][0]
    assert first["key"] == "red.png"
    assert found(client.post(SEARCH, json={"like_ids": [first["item_id"]]})) == by_key
    assert found(client.get(SEARCH, params={"like_id": first["item_id"]})) == by_key


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_a_picture_in_base64_finds_itself(client: TestClient, photos: Path, encode: Any) -> None:
    text = encode((photos / "green.png").read_bytes()).decode()
    for spelling in (text, text.rstrip("="), f"data:image/png;base64,{text}"):
        assert found(client.post(SEARCH, json={"image": spelling, "top_k": 2}))[0] == "green.png"


def test_an_upload_finds_itself_and_pages_on(client: TestClient, photos: Path) -> None:
    content = (photos / "blue.png").read_bytes()
    first = client.post(SEARCH + "/upload", files={"image": ("x.png", content, "image/png")}, data={"top_k": "4"})
    assert found(first)[0] == "blue.png"
    fields = {"top_k": "4", "cursor": first.json()["next_cursor"]}
    second = client.post(SEARCH + "/upload", files={"image": ("y.png", content, "image/png")}, data=fields)

    assert len(found(second)) == 2
    assert not set(found(first)) & set(found(second))
    other = client.post(SEARCH + "/upload", files={"image": ("y.png", picture("white"), "image/png")}, data=fields)
    assert "belongs to another search" in refused(other)


def test_an_embedding_finds_what_its_words_find(client: TestClient) -> None:
    embedding = (HistogramEncoder().embed_texts(["blue"])[0] * np.float32(0.01)).tolist()
    assert found(client.post(SEARCH, json={"embedding": embedding})) == found(client.post(SEARCH, json={"text": "blue"}))


def test_pages_are_the_whole_answer_whatever_is_added_between_them(client: TestClient, sightline: Sightline, photos: Path) -> None:
    whole = found(client.post(SEARCH, json={"text": "red green", "top_k": 100}))
    page = client.get(SEARCH, params={"q": "red green", "top_k": 2})
    pages = [found(page)]
    while page.json()["next_cursor"] is not None:
        number = len(pages)
        Image.new("RGB", (64, 48), (255, 0, number)).save(photos / f"new-{number}.png")  # red: among the first
        if number == 1:
            (photos / f"{whole[-1]}").unlink()
        sightline.index(photos, prune=True)
        page = client.get(SEARCH, params={"q": "red green", "top_k": 2, "cursor": page.json()["next_cursor"]})
        pages.append(found(page))
        assert page.json()["hits"] == [] or page.json()["hits"][0]["rank"] == 2 * number + 1

    assert [key for keys in pages for key in keys] == whole[:-1]
    assert "new-1.png" in found(client.get(SEARCH, params={"q": "red green", "top_k": 100}))


def test_an_altered_cursor_is_refused_wherever_it_was_altered(client: TestClient) -> None:
    cursor = client.get(SEARCH, params={"q": "red", "top_k": 2}).json()["next_cursor"]
    assert len(found(client.get(SEARCH, params={"q": "red", "top_k": 2, "cursor": cursor}))) == 2

    for place in range(len(cursor)):
        altered = cursor[:place] + ("A" if cursor[place] != "A" else "B") + cursor[place + 1 :]
        assert "cursor" in refused(client.get(SEARCH, params={"q": "red", "top_k": 2, "cursor": altered}))
    for altered in (cursor[:-3], cursor + "AAAA", "", "=", "A", "é", cursor + "="):
        assert "cursor" in refused(client.get(SEARCH, params={"q": "red", "top_k": 2, "cursor": altered}))


@pytest.mark.parametrize("other", [{"q": "green"}, {"modality": "text"}, {"rerank_depth": 5}, {"like": "red.png"}, {"min_match": 0.5}])
def test_a_cursor_belongs_to_its_search(client: TestClient, other: dict[str, object]) -> None:
    cursor = client.get(SEARCH, params={"q": "red", "top_k": 2}).json()["next_cursor"]
    assert "belongs to another search" in refused(client.get(SEARCH, params={"q": "red", "cursor": cursor} | other))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "looks for nothing"),
        ({"text": "red", "min_match": 0.5, "rerank_depth": 0}, "min_match needs the second look"),
        ({"text": "red", "min_match": 2}, "less than or equal to 1"),
        ({"text": "red", "top_k": 1001}, "less than or equal to 1000"),
        ({"text": "red", "rerank_deadline_ms": 0}, "greater than 0"),
        ({"text": "red", "colour": "red"}, "Extra inputs"),
        ({"without": ["red"]}, "looks for nothing"),
        ({"text": "red::0"}, "weight"),
        ({"text": "red", "modality": "sound"}, "modality"),
        ({"image": "%%%%"}, "not base64"),
        ({"image": "data:text/plain;base64,AAAA"}, "no picture in base64"),
        ({"image": base64.b64encode(b"hello").decode()}, "text, not a picture"),
        ({"embedding": [1.0, 2.0]}, "has 2 numbers, and those of the collection have 64"),
        ({"embedding": [0.0] * 64}, "all zeros"),
        ({"embedding": ["a"]}, "embedding.0"),
        ({"like_ids": [-1]}, "like_ids.0"),
        ({"like_ids": ["red.png"]}, "like_ids.0"),
        ({"like_ids": ["1"]}, "like_ids.0"),
        ({"like_ids": [True]}, "like_ids.0"),
        ({"like_ids": [1.0]}, "like_ids.0"),
        ({"embedding": [True, 0.5]}, "embedding.0"),
        ({"embedding": ["0.5"]}, "embedding.0"),
        ({"text": "\ud800"}, "hex escape"),
        ({"cursor": "AAAA", "text": "red"}, "cursor"),
    ],
)
def test_what_cannot_be_answered_is_said_in_a_sentence(client: TestClient, body: dict[str, object], said: str) -> None:
    assert said in refused(client.post(SEARCH, content=json.dumps(body), headers={"content-type": "application/json"}))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["min_match", "rerank_deadline_ms", "embedding"])
def test_a_number_that_is_none_is_refused(client: TestClient, number: str, field: str) -> None:
    value = f"[{number}]" if field == "embedding" else number
    response = client.post(SEARCH, content=f'{{"text": "red", "{field}": {value}}}', headers={"content-type": "application/json"})
    assert field in refused(response)


@pytest.mark.parametrize("body", [{"like": ["no.png"]}, {"like": ["\0"]}, {"like_ids": [2**63 - 1]}])
def test_items_that_are_not_there_are_not_found(client: TestClient, body: dict[str, object]) -> None:
    response = client.post(SEARCH, content=json.dumps(body), headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["type"]) == (404, "ItemNotFound")


@pytest.mark.parametrize("depth", [100, 100_000])
def test_json_that_is_deep_costs_its_request(client: TestClient, depth: int) -> None:
    response = client.post(SEARCH, content="[" * depth, headers={"content-type": "application/json"})
    assert 400 <= response.status_code < 500, response.text


def test_ten_megabytes_of_json_cost_their_request(client: TestClient) -> None:
    many = client.post(SEARCH, json={"text": "red " * 2_600_000})
    assert 400 <= many.status_code < 500
    numbers = client.post(SEARCH, json={"embedding": [0.5] * 2_000_000})
    assert 400 <= numbers.status_code < 500
    assert found(client.post(SEARCH, json={"text": "red", "top_k": 1})) == ["red.png"]


# Starlette leaves the temporary file of a part that ends too early to the garbage collector, which closes it.
@pytest.mark.filterwarnings("ignore:Exception ignored in.*SpooledTemporaryFile:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:Unclosed file.*SpooledTemporaryFile:ResourceWarning")
def test_an_upload_cut_short_is_refused(client: TestClient) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    whole = head + picture("red") + b"\r\n--x--\r\n"
    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert found(client.post(SEARCH + "/upload", content=whole, headers=headers))[0] == "red.png"
    for length in (0, 5, len(head), len(whole) - 40):
        response = client.post(SEARCH + "/upload", content=whole[:length], headers=headers)
        assert 400 <= response.status_code < 500, (length, response.text)


def test_a_field_that_a_form_does_not_take_is_refused(client: TestClient, photos: Path) -> None:
    picture = ("red.png", (photos / "red.png").read_bytes(), "image/png")
    misspelt = client.post(f"{SEARCH}/upload", files={"image": picture}, data={"topk": "3"})
    assert (misspelt.status_code, misspelt.json()["detail"]) == (422, "body.topk: Extra inputs are not permitted")
    second = client.post(f"{SEARCH}/upload", files={"image": picture, "other": picture})
    assert (second.status_code, second.json()["detail"]) == (422, "body.other: Extra inputs are not permitted")
    none = client.post(f"{SEARCH}/upload", files={"picture": picture})
    assert none.status_code == 422


@pytest.mark.parametrize("by", ["body", "address"])
def test_a_depth_beyond_the_collection_is_noted_where_it_was_asked_for(fused_client: TestClient, by: str) -> None:
    def notes(**asked: int) -> list[str]:
        if by == "body":
            found = fused_client.post(SEARCH, json={"text": "red", **asked}).json()
        else:
            found = fused_client.get(SEARCH, params={"q": "red", **{name: str(number) for name, number in asked.items()}}).json()
        assert found["reranked"] is not None
        return [note for note in found["notes"] if "rerank_depth" in note]

    num_pictures = fused_client.get("/v1/collections/default").json()["num_items"]["image"]
    assert notes(rerank_depth=500) == [f"there are {num_pictures} candidates for the second look to read; rerank_depth asked for 500"]
    assert notes(rerank_depth=num_pictures) == []
    assert notes() == []
