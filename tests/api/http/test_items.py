"""Items over HTTP: their pages, their pictures in whole and in part, and their end."""

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from api import Sightline
from api.http.ranges import ByteSpan, requested_span

ITEMS = "/v1/collections/default/items"


def item_id_of(client: TestClient, key: str) -> int:
    item_id_by_key: dict[str, int] = {item["key"]: item["item_id"] for item in client.get(ITEMS).json()["items"]}
    return item_id_by_key[key]


def test_pages_hold_every_item_once(client: TestClient) -> None:
    keys, after = [], None
    for _ in range(3):
        page = client.get(ITEMS, params={"limit": 2, **({} if after is None else {"after": after})}).json()
        keys += [item["key"] for item in page["items"]]
        after = page["next_after"]

    assert after is None
    assert sorted(keys) == sorted(f"{colour}.png" for colour in ("red", "green", "blue", "yellow", "black", "white"))


def test_an_item_tells_what_is_known_of_it(client: TestClient) -> None:
    item = client.get(f"{ITEMS}/{item_id_of(client, 'red.png')}").json()
    assert (item["key"], item["text"], item["width"], item["height"]) == ("red.png", "a red wall", 64, 48)


@pytest.mark.parametrize("item_id", ["999999", "9223372036854775807"])
def test_an_item_that_is_not_there(client: TestClient, item_id: str) -> None:
    for path in ("", "/thumbnail", "/original"):
        response = client.get(f"{ITEMS}/{item_id}{path}")
        assert (response.status_code, response.json()["type"]) == (404, "ItemNotFound")


@pytest.mark.parametrize("item_id", ["-1", "red.png", "9223372036854775808", "1e3", "..%2f..%2fetc%2fpasswd", "NaN"])
def test_what_is_no_id(client: TestClient, item_id: str) -> None:
    assert client.get(f"{ITEMS}/{item_id}/original").status_code in (404, 422)
    assert client.delete(f"{ITEMS}/{item_id}").status_code in (404, 405, 422)


@pytest.mark.parametrize(("as_format", "expected"), [("jpeg", "JPEG"), ("webp", "WEBP")])
def test_a_thumbnail_keeps_the_pictures_shape(client: TestClient, as_format: str, expected: str) -> None:
    response = client.get(f"{ITEMS}/{item_id_of(client, 'red.png')}/thumbnail", params={"size": 32, "format": as_format})

    assert response.headers["content-type"] == f"image/{as_format}"
    picture = Image.open(io.BytesIO(response.content))
    assert (picture.format, picture.size) == (expected, (32, 24))


def test_a_thumbnail_is_upright_and_not_enlarged(client: TestClient, sightline: Sightline, photos: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.new("RGB", (60, 20), "red").save(photos / "lying.jpg", exif=exif)
    sightline.index(photos)

    response = client.get(f"{ITEMS}/{item_id_of(client, 'lying.jpg')}/thumbnail")

    assert Image.open(io.BytesIO(response.content)).size == (20, 60)


@pytest.mark.parametrize("path", ["thumbnail", "original"])
def test_who_has_a_picture_is_not_sent_it_again(client: TestClient, path: str) -> None:
    url = f"{ITEMS}/{item_id_of(client, 'red.png')}/{path}"
    first = client.get(url)
    again = client.get(url, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])


def test_a_thumbnail_of_another_size_is_another(client: TestClient) -> None:
    url = f"{ITEMS}/{item_id_of(client, 'red.png')}/thumbnail"
    assert client.get(url, params={"size": 20}).headers["etag"] != client.get(url, params={"size": 30}).headers["etag"]


def test_the_original_is_the_file(client: TestClient, photos: Path) -> None:
    response = client.get(f"{ITEMS}/{item_id_of(client, 'red.png')}/original")

    assert response.content == (photos / "red.png").read_bytes()
    assert response.headers["content-type"] == "image/png"
    assert response.headers["content-disposition"] == "inline"
    assert response.headers["x-content-type-options"] == "nosniff"


def test_a_part_of_the_original(client: TestClient, photos: Path) -> None:
    content = (photos / "red.png").read_bytes()
    url = f"{ITEMS}/{item_id_of(client, 'red.png')}/original"

    part = client.get(url, headers={"Range": "bytes=5-14"})
    assert (part.status_code, part.content) == (206, content[5:15])
    assert part.headers["content-range"] == f"bytes 5-14/{len(content)}"
    assert client.get(url, headers={"Range": "bytes=5-14", "If-Range": '"other"'}).content == content
    behind = client.get(url, headers={"Range": f"bytes={len(content)}-"})
    assert (behind.status_code, behind.headers["content-range"]) == (416, f"bytes */{len(content)}")
    assert behind.json()["status"] == 416


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-0", ByteSpan(0, 1)),
        ("bytes=90-", ByteSpan(90, 100)),
        ("bytes=90-500", ByteSpan(90, 100)),
        ("bytes=-10", ByteSpan(90, 100)),
        ("bytes=-500", ByteSpan(0, 100)),
        ("bytes=5-4", None),
        ("bytes=0-1,5-6", None),
        ("bytes=-", None),
        ("lines=1-2", None),
    ],
)
def test_ranges(header: str | None, expected: ByteSpan | None) -> None:
    assert requested_span(header, num_bytes=100) == expected


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=-0", "bytes=999999999999999999-"])
def test_ranges_behind_the_end(header: str) -> None:
    with pytest.raises(ValueError, match=r"bytes|end"):
        requested_span(header, num_bytes=100)


def test_a_file_that_vanished(client: TestClient, photos: Path) -> None:
    item_id = item_id_of(client, "red.png")
    (photos / "red.png").unlink()
    for path in ("thumbnail", "original"):
        response = client.get(f"{ITEMS}/{item_id}/{path}")
        assert response.status_code == 404
        assert "not there any more" in response.json()["detail"]


def test_a_file_that_is_a_picture_no_more_is_not_sent(client: TestClient, photos: Path) -> None:
    item_id = item_id_of(client, "red.png")
    (photos / "red.png").write_text("<script>alert(1)</script>")
    for path in ("thumbnail", "original"):
        assert client.get(f"{ITEMS}/{item_id}/{path}").status_code == 422


def test_pictures_inside_a_shard(client: TestClient, sightline: Sightline, photos: Path, tmp_path: Path) -> None:
    shard = tmp_path / "train-0.tar"
    with tarfile.open(shard, "w") as tar:
        for name in ("red.png", "green.png"):
            tar.add(photos / name, arcname=f"deep/er/{name}")
    sightline.index(shard)

    url = f"{ITEMS}/{item_id_of(client, 'train-0.tar/deep/er/green.png')}"
    content = (photos / "green.png").read_bytes()
    assert client.get(f"{url}/original").content == content
    assert client.get(f"{url}/original", headers={"Range": "bytes=-4"}).content == content[-4:]
    assert Image.open(io.BytesIO(client.get(f"{url}/thumbnail").content)).size == (48, 64)
    shard.write_bytes(b"no tar any more")
    assert client.get(f"{url}/original").status_code == 404


def test_a_text_has_no_picture(client: TestClient, sightline: Sightline, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a red ball\n")
    sightline.index(tmp_path / "notes.txt")
    assert client.get(f"{ITEMS}/{item_id_of(client, 'notes.txt:1')}/original").status_code == 422


def test_deleting(client: TestClient, photos: Path) -> None:
    red, green, blue = (item_id_of(client, f"{colour}.png") for colour in ("red", "green", "blue"))

    assert client.post(f"{ITEMS}/delete", json={"item_ids": [green, 10**6]}).status_code == 404
    assert client.get(f"{ITEMS}/{green}").status_code == 200
    assert client.post(f"{ITEMS}/delete", json={"item_ids": [green, blue]}).json() == {"num_deleted": 2}
    assert client.delete(f"{ITEMS}/{red}").json() == {"num_deleted": 1}
    assert {item["key"] for item in client.get(ITEMS).json()["items"]} == {"yellow.png", "black.png", "white.png"}
    assert (photos / "red.png").exists()


def test_a_deletion_while_another_process_writes(client: TestClient, sightline: Sightline) -> None:
    with sightline.store.writer():
        response = client.delete(f"{ITEMS}/{item_id_of(client, 'red.png')}")
    assert (response.status_code, response.json()["type"]) == (409, "StoreBusy")


@pytest.mark.parametrize("item_id", [True, "1", 1.5, -1, 2**63, None, [1]])
def test_what_is_no_number_of_an_item_deletes_none(client: TestClient, item_id: object) -> None:
    refused = client.post("/v1/collections/default/items/delete", json={"item_ids": [item_id]})
    assert (refused.status_code, refused.json()["type"]) == (422, "InvalidRequest")
    assert len(client.get("/v1/collections/default/items").json()["items"]) == 6
