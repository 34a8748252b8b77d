"""Jobs over shards, over manifests and for patches, from the request that queues them to the search that finds what they brought."""

import csv
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.api.http.jobs_at_work import AtWork, at_work, until, write_pictures

PICTURES_A_SHARD = 5
NUM_SEGMENTS, PICTURES_A_SEGMENT = 5, 32  # enough for a pause to come between two commits, and fewer than are merged


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "sources").mkdir()
    return tmp_path / "sources"


@pytest.fixture
def work(tmp_path: Path, root: Path, tiny_encoder_path: Path, fusion: Path) -> Iterator[AtWork]:
    with at_work(tmp_path / "store", encoder=tiny_encoder_path, source_roots=(root,), fusion=fusion, commit_items=4) as work:
        yield work


def picture(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((64, 48), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def write_shard(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def write_shards(folder: Path) -> str:
    """Two shards of captioned pictures, of which one is broken; their pattern."""
    for shard in range(2):
        members: dict[str, bytes] = {}
        for number in range(PICTURES_A_SHARD):
            members[f"{number:04}.png"] = picture(10 * shard + number)
            members[f"{number:04}.txt"] = f"picture {number} of shard {shard}".encode()
            members[f"{number:04}.json"] = json.dumps({"place": f"Rome {shard}"}).encode()
        if shard == 1:
            members["9999.png"] = b"no picture"
        write_shard(folder / f"shots-{shard:06}.tar", members)
    return str(folder / "shots-{000000..000001}.tar")


def hit_of(work: AtWork, key: str, *, collection: str, content: bytes) -> Any:
    """What a search for a picture finds of an item; the tiny encoder tells noise apart by less than what rows are rounded to."""
    path = f"/v1/collections/{collection}/search/upload"
    response = work.client.post(path, files={"image": ("any.png", content)}, data={"top_k": "100", "rerank_depth": "0"})
    assert response.status_code == 200, response.text
    (hit,) = (hit for hit in response.json()["hits"] if hit["key"] == key)
    assert hit["similarity"] == pytest.approx(1.0, abs=2e-3)  # rows are fp16
    assert work.client.get(f"/v1/collections/{collection}/items/{hit['item_id']}/original").content == content
    return hit


def test_shards_are_indexed_and_found(work: AtWork, root: Path) -> None:
    pattern = write_shards(root)
    done = work.ended(work.queue(kind="index", collection="shots", source=pattern, source_kind="webdataset"))

    assert (done["state"], done["error"]) == ("done", None)
    num_pictures = 2 * PICTURES_A_SHARD
    assert (done["result"]["new"], done["result"]["skipped"]) == (num_pictures, 1)
    assert (done["progress"]["num_done"], done["progress"]["num_to_do"]) == (num_pictures + 1, num_pictures + 1)
    assert set(work.items("shots")) == {f"shots-{shard:06}.tar/{number:04}.png" for shard in range(2) for number in range(PICTURES_A_SHARD)}
    (entry,) = work.client.get("/v1/ledger", params={"collection": "shots"}).json()["entries"]
    assert (entry["key"], entry["error_class"]) == ("shots-000001.tar/9999.png", "UnreadableImage")

    hit = hit_of(work, "shots-000001.tar/0003.png", collection="shots", content=picture(13))
    assert (hit["text"], hit["metadata"]) == ("picture 3 of shard 1", {"place": "Rome 1"})
    assert work.client.get(f"/v1/collections/shots/items/{hit['item_id']}/thumbnail").status_code == 200

    again = work.ended(work.queue(kind="index", collection="shots", source=pattern))
    assert (again["result"]["new"], again["result"]["unchanged"]) == (0, num_pictures)


def test_a_shard_that_is_not_there_is_the_sentence_of_a_failed_job(work: AtWork, root: Path) -> None:
    write_shards(root)
    failed = work.ended(work.queue(kind="index", collection="shots", source=str(root / "shots-{000000..000004}.tar")))
    assert failed["state"] == "failed"
    assert "shots-000002.tar" in failed["error"]


def write_manifest(path: Path) -> None:
    """Four rows, the last of which names nothing."""
    (path.parent / "pictures").mkdir()
    rows = [{"path": f"pictures/{number}.png", "text": f"caption {number}", "place": f"Rome {number}"} for number in range(4)]
    for row, number in zip(rows[:3], range(3), strict=False):
        (path.parent / row["path"]).write_bytes(picture(number))
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            writer = csv.DictWriter(file, ["path", "text", "place"])
            writer.writeheader()
            writer.writerows(rows)


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl"])
def test_a_manifest_is_indexed_and_found(work: AtWork, root: Path, name: str) -> None:
    write_manifest(root / name)
    done = work.ended(work.queue(kind="index", collection="listed", source=str(root / name), source_kind="manifest"))

    assert (done["state"], done["error"]) == ("done", None)
    assert (done["result"]["new"], done["result"]["skipped"]) == (3, 1)
    (entry,) = work.client.get("/v1/ledger", params={"collection": "listed"}).json()["entries"]
    assert entry["key"] == "pictures/3.png"
    hit = hit_of(work, "pictures/2.png", collection="listed", content=picture(2))
    assert (hit["text"], hit["metadata"]["place"]) == ("caption 2", "Rome 2")

    (root / "pictures" / "3.png").write_bytes(picture(3))
    (root / "pictures" / "0.png").write_bytes(picture(30))
    again = work.ended(work.queue(kind="index", collection="listed", source=str(root / name)))
    assert (again["result"]["new"], again["result"]["changed"], again["result"]["unchanged"]) == (1, 1, 2)
    hit_of(work, "pictures/0.png", collection="listed", content=picture(30))


def test_patches_are_added_and_the_second_look_reads_them(work: AtWork, root: Path) -> None:
    pictures = write_pictures(root / "pictures", num_pictures=12)
    indexed = work.ended(work.queue(kind="index", collection="photos", source=str(pictures), patches=False))
    assert indexed["result"]["new"] == 12
    query = {"text": "a red ball", "top_k": 12}
    before = work.client.post("/v1/collections/photos/search", json=query).json()
    assert {hit["match_probability"] for hit in before["hits"]} == {None}

    done = work.ended(work.queue(kind="patches", collection="photos"))

    assert (done["state"], done["error"]) == ("done", None)
    assert done["result"] == {"num_patched": 12, "num_had_patches": 0, "num_damaged": 0, "num_skipped": 0}
    assert (done["progress"]["num_done"], done["progress"]["num_to_do"]) == (12, 12)
    after = work.client.post("/v1/collections/photos/search", json=query).json()
    assert all(0 < hit["match_probability"] < 1 for hit in after["hits"])
    assert {hit["key"] for hit in after["hits"]} == {hit["key"] for hit in before["hits"]}
    explained = work.client.post("/v1/collections/photos/explain", json={"text": "a red ball", "item_id": after["hits"][0]["item_id"]})
    assert explained.status_code == 200, explained.text

    again = work.ended(work.queue(kind="patches", collection="photos"))
    assert again["result"] == {"num_patched": 0, "num_had_patches": 12, "num_damaged": 0, "num_skipped": 0}


def num_patched(work: AtWork, collection: str) -> int:
    return sum(each.num_images for each in work.service.sightline.statistics(collection=collection).patches)


def test_a_job_for_patches_is_paused_and_goes_on_where_it_was(tmp_path: Path, root: Path, tiny_encoder_path: Path, fusion: Path) -> None:
    """Each run leaves a segment, and each segment's patches are a commit."""
    with at_work(tmp_path / "store", encoder=tiny_encoder_path, source_roots=(root,), fusion=fusion, commit_items=1000) as work:
        for number in range(NUM_SEGMENTS):
            pictures = write_pictures(root / str(number), num_pictures=PICTURES_A_SEGMENT)
            work.service.sightline.index(pictures, collection="photos", patches=False)
        num_pictures = NUM_SEGMENTS * PICTURES_A_SEGMENT
        assert work.service.sightline.statistics(collection="photos").num_segments == NUM_SEGMENTS
        job = work.queue(kind="patches", collection="photos")
        until(lambda: num_patched(work, "photos"))

        assert work.client.post(f"/v1/jobs/{job['job_id']}/pause").json()["state"] == "paused"
        until(lambda: work.service.runner.process_id is None)
        num_kept = num_patched(work, "photos")
        assert 0 < num_kept < num_pictures
        assert work.service.sightline.verify() == []
        found = work.client.post("/v1/collections/photos/search", json={"text": "a red ball", "top_k": 50}).json()
        assert any(hit["match_probability"] is not None for hit in found["hits"])

        assert work.client.post(f"/v1/jobs/{job['job_id']}/resume").json()["state"] == "queued"
        done = work.ended(job)
        assert (done["state"], done["error"]) == ("done", None)
        assert done["result"] == {"num_patched": num_pictures - num_kept, "num_had_patches": num_kept, "num_damaged": 0, "num_skipped": 0}
        assert num_patched(work, "photos") == num_pictures


def test_indexing_stores_patches_at_once_where_it_is_not_told_otherwise(work: AtWork, root: Path) -> None:
    pictures = write_pictures(root / "pictures", num_pictures=5)
    work.ended(work.queue(kind="index", collection="photos", source=str(pictures)))
    found = work.client.post("/v1/collections/photos/search", json={"text": "a red ball", "top_k": 5}).json()
    assert all(0 < hit["match_probability"] < 1 for hit in found["hits"])
    patched = work.ended(work.queue(kind="patches", collection="photos"))
    assert patched["result"] == {"num_patched": 0, "num_had_patches": 5, "num_damaged": 0, "num_skipped": 0}


@pytest.mark.parametrize(
    ("name", "status"), [("../../x", 422), ("a/b", 422), ("/", 422), ("..", 400), (".", 400), (" a ", 400), ("a\u202eb", 400), ("", 422)]
)
def test_no_collection_is_made_that_no_address_could_hold(work: AtWork, root: Path, name: str, status: int) -> None:
    (root / "notes.txt").write_text("a red ball\n")
    refused = work.client.post("/v1/jobs", json={"kind": "index", "collection": name, "source": str(root / "notes.txt")})
    assert (refused.status_code, refused.headers["content-type"]) == (status, "application/problem+json")
    assert work.client.get("/v1/jobs").json()["jobs"] == []


def test_a_collection_with_a_slash_that_the_command_line_made_is_indexed_into(work: AtWork, root: Path) -> None:
    (root / "notes.txt").write_text("a red ball\n")
    work.service.sightline.create_collection("a/b")
    assert work.ended(work.queue(kind="index", collection="a/b", source=str(root / "notes.txt")))["state"] == "done"
