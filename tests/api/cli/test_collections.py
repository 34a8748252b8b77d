"""`sightline collections`: list, show, rename, delete."""

import os
import pty
from pathlib import Path

import numpy as np
import pytest

from sightline.storage.patches import ItemPatches, PatchFormat, quantised_batch
from sightline.storage.store import Store
from tests.api.cli.conftest import Run


def test_the_list_has_names_numbers_and_encoders(run: Run, indexed: Path, tiny_encoder_path: Path) -> None:
    outcome = run("collections")
    assert outcome.code == 0
    row = outcome.out.splitlines()[2].split()
    assert row[:3] == ["default", "6", "0"]
    assert str(tiny_encoder_path) in row


def test_an_empty_store_says_what_to_do(run: Run, indexed: Path) -> None:
    run("collections", "delete", "default", "--yes")
    assert run("collections").out == "there are no collections yet; `sightline index FOLDER` makes one\n"


def test_one_collection_in_full(run: Run, indexed: Path) -> None:
    out = run("collections", "show", "default").out
    assert "images" in out
    assert "fingerprint" in out
    assert "1 (exact)" in out
    shown = run("collections", "show", "default", "--json").json
    assert shown["collection"]["name"] == "default"
    assert shown["statistics"]["num_items_by_modality"] == {"image": 6}


def test_how_many_pictures_have_patches_and_what_they_take(run: Run, indexed: Path, tmp_path: Path) -> None:
    assert "none" in next(line for line in run("collections", "show", "default").out.splitlines() if "patches" in line)
    with Store.open(tmp_path / "store") as store, store.writer() as writer:
        cid = store.collection("default").collection_id
        (segment,) = store.snapshot(cid).segments
        patch_format, ids = PatchFormat("fa57", 7, 7, 256), segment.files.item_ids[:4]
        patches = quantised_batch(np.ones((4, 49, 256), dtype=np.float32), patch_format)
        writer.add_patches(cid, segment, patch_format, [ItemPatches(ids, patches)])
    line = next(line for line in run("collections", "show", "default").out.splitlines() if "patches" in line)
    assert line.split("patches")[1].strip() == "4 images, 12.6 kB an image, of the fusion encoder fa57"
    assert "12.6 kB" in run("collections").out
    (found,) = run("collections", "--json").json[0]["statistics"]["patches"]
    assert found == {"fusion_fingerprint": "fa57", "num_images": 4, "bytes_per_image": 12_646}


def test_a_renamed_collection_is_found_under_its_new_name(run: Run, indexed: Path) -> None:
    assert run("collections", "rename", "default", "holidays").out == "collection default is now called holidays\n"
    assert run("search", "red", "-c", "holidays").code == 0
    assert run("search", "red").code == 32


def test_a_name_that_is_taken_is_refused(run: Run, indexed: Path) -> None:
    run("index", indexed, "-c", "other")
    outcome = run("collections", "rename", "other", "default")
    assert outcome.code == 41
    assert "'default'" in outcome.err


def test_what_a_collection_holds_is_said_where_it_is_listed(run: Run, indexed: Path) -> None:
    assert "description" not in run("collections").out
    assert run("collections", "describe", "default", "Six colours").out == "collection default: Six colours\n"
    assert "Six colours" in run("collections").out
    assert "Six colours" in run("collections", "show", "default").out
    assert run("collections", "--json").json[0]["collection"]["description"] == "Six colours"
    assert run("collections", "describe", "default", "").out == "collection default: nothing is said of it any more\n"
    assert "description" not in run("collections", "show", "default").out
    outcome = run("collections", "describe", "default", "two\nlines")
    assert outcome.code == 10
    assert "in one line" in outcome.err


def test_deleting_wants_a_yes_where_nobody_can_be_asked(run: Run, indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path(os.devnull).open() as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        outcome = run("collections", "delete", "default")
    assert outcome.code == 10
    assert "say --yes" in outcome.err
    assert run("search", "red").code == 0


@pytest.mark.parametrize(("answer", "is_deleted"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_a_person_is_asked_first(run: Run, indexed: Path, monkeypatch: pytest.MonkeyPatch, answer: str, is_deleted: bool) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, answer.encode())
    with os.fdopen(theirs) as keyboard:
        monkeypatch.setattr("sys.stdin", keyboard)
        outcome = run("collections", "delete", "default")
    os.close(ours)
    assert outcome.code == 0
    assert "Delete collection default with 6 items?" in outcome.err
    assert ("nothing was deleted" in outcome.out) is not is_deleted
    assert (run("search", "red").code == 32) is is_deleted


def test_deleting_leaves_the_files(run: Run, indexed: Path) -> None:
    assert "deleted collection default (6 items)" in run("collections", "delete", "default", "--yes").out
    assert len(list(indexed.glob("*.png"))) == 6


@pytest.mark.parametrize("command", [["show"], ["delete", "--yes"], ["rename", "--", "new"], ["describe", "new"]])
def test_an_unknown_name_gives_the_nearest(run: Run, indexed: Path, command: list[str]) -> None:
    outcome = run("collections", command[0], "defaults", *command[1:])
    assert outcome.code == 32
    assert "did you mean 'default'?" in outcome.err


def test_the_store_may_be_named_anywhere(run: Run, indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTLINE_STORE", str(tmp_path / "elsewhere"))
    store = tmp_path / "store"
    assert run("collections").code == 31
    for arguments in (
        ["--store", store, "collections"],
        ["collections", "--store", store],
        ["collections", "--store", store, "show", "default"],
        ["collections", "show", "default", "--store", store],
        ["--store", tmp_path / "nowhere", "collections", "show", "default", "--store", store],
    ):
        outcome = run(*arguments)
        assert outcome.code == 0, outcome.err
        assert "default" in outcome.out
