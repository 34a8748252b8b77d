"""`sightline search`: every way to ask and every form of answer."""

import os
import stat
from pathlib import Path

import pytest
from PIL import Image

from api.cli.indexing import KindName
from api.cli.options import DEFAULT_COLLECTION
from sightline import settings
from tests.api.cli.conftest import Run
from tests.api.conftest import COLOURS


def test_a_table_with_rank_similarity_file_and_caption_and_a_footer(run: Run, indexed: Path) -> None:
    # By a picture: what words find first, a network of random weights decides, and on each processor in another way.
    outcome = run("search", "--image", indexed / "red.png", "-k", "3")

    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["rank", "similarity", "file", "caption"]
    rows = lines[2:5]
    assert [row.split()[0] for row in rows] == ["1", "2", "3"]
    assert all(str(indexed) in row for row in rows)
    assert lines[-1].startswith("3 hits in ")
    assert "embedding" in lines[-1]
    assert lines[-1].endswith("images: exact over 6 rows")


def test_a_picture_finds_itself_first(run: Run, indexed: Path) -> None:
    hits = run("search", "--image", indexed / "blue.png", "-k", "1", "--json").json["hits"]
    assert [hit["key"] for hit in hits] == ["blue.png"]
    assert hits[0]["similarity"] == pytest.approx(1, abs=1e-2)  # fp16 rows, and networks in half precision on some machines


def test_words_need_no_quotation_marks(run: Run, indexed: Path) -> None:
    assert run("search", "a", "red", "wall", "--paths").out == run("search", "a red wall", "--paths").out


def test_json_has_every_field_of_the_answer(run: Run, indexed: Path) -> None:
    found = run("search", "--image", indexed / "red.png", "-k", "1", "--json").json

    assert set(found) == {"query", "collection", "hits", "plan", "notes", "timings", "reranked"}
    (hit,) = found["hits"]
    assert hit == {
        "rank": 1,
        "item_id": hit["item_id"],
        "key": "red.png",
        "location": str(indexed / "red.png"),
        "modality": "image",
        "similarity": hit["similarity"],
        "adjusted_similarity": None,
        "centred_similarity": None,
        "text": "a red wall",
        "metadata": {},
        "width": 64,
        "height": 48,
        "first_rank": None,
        "match_probability": None,
    }
    assert set(found["timings"]) == {"embed_ms", "retrieve_ms", "metadata_ms", "rerank_ms"}


def test_paths_are_one_a_line_and_nothing_else(run: Run, indexed: Path) -> None:
    outcome = run("search", "red", "-k", "100", "--paths")
    assert sorted(outcome.out.splitlines()) == sorted(str(indexed / f"{colour}.png") for colour in COLOURS)
    assert outcome.err == ""


def test_paths_may_end_in_zero_bytes_for_names_with_line_breaks(run: Run, photos: Path) -> None:
    Image.new("RGB", (8, 8), "purple").save(photos / "two\nlines.png")
    run("index", photos)
    paths = run("search", "red", "-k", "100", "-0").out.split("\0")
    assert str(photos / "two\nlines.png") in paths
    assert paths[-1] == ""


def test_a_name_cannot_steer_the_terminal(run: Run, photos: Path) -> None:
    Image.new("RGB", (8, 8), "purple").save(photos / "\x1b[31mred[bold].png")
    run("index", photos)
    out = run("search", "red", "-k", "100").out
    assert "\x1b" not in out
    assert "[31mred[bold].png" in out


def test_an_item_finds_its_like_without_itself(run: Run, indexed: Path) -> None:
    hits = run("search", "--like", "red.png", "--json").json["hits"]
    assert "red.png" not in {hit["key"] for hit in hits}
    assert len(hits) == len(COLOURS) - 1


def test_words_pictures_items_and_negatives_may_be_combined(run: Run, indexed: Path) -> None:
    outcome = run("search", "dog::2 beach", "-i", f"{indexed / 'red.png'}::0.5", "--like", "blue.png", "--not", "people", "--json")
    assert outcome.code == 0
    assert outcome.json["query"] == f"dog::2 beach [{indexed / 'red.png'}]::0.5 [like blue.png] people::-0.5"


def test_texts_are_found_on_their_own_or_merged_with_pictures(run: Run, indexed: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a red wall\na green meadow\n")
    run("index", tmp_path / "notes.txt", "--kind", "texts")

    texts = run("search", "meadow", "--modality", "text", "--json").json["hits"]
    assert {hit["text"] for hit in texts} == {"a red wall", "a green meadow"}
    assert texts[0]["centred_similarity"] is None

    merged = run("search", "meadow", "--json").json
    assert {hit["modality"] for hit in merged["hits"]} == {"image", "text"}
    assert "merged after centring" in merged["plan"]
    assert "similarity (centred)" in run("search", "meadow").out


def test_a_sheet_is_written(run: Run, indexed: Path, tmp_path: Path) -> None:
    outcome = run("search", "red", "--sheet", tmp_path / "out.png")
    assert outcome.code == 0
    with Image.open(tmp_path / "out.png") as sheet:
        assert sheet.width > 700


def test_open_starts_the_desktops_viewer_with_the_best_hit_or_the_sheet(
    run: Run, indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = tmp_path / "opened"
    os.mkfifo(opened)
    for opener in ("xdg-open", "open"):
        script = tmp_path / "bin" / opener
        script.parent.mkdir(exist_ok=True)
        script.write_text(f'#!/bin/sh\necho "$1" > "{opened}"\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")

    run("search", "--image", indexed / "red.png", "-k", "1", "--open")
    assert opened.read_text() == f"{indexed / 'red.png'}\n"
    run("search", "red", "--open", "--sheet", tmp_path / "out.png")
    assert opened.read_text() == f"{tmp_path / 'out.png'}\n"


def test_without_a_viewer_the_way_out_is_named(run: Run, indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = run("search", "red", "--open")
    assert outcome.code == 10
    assert "write a picture with --sheet out.png instead" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ([""], 12, "the query has no words"),
        (["   "], 12, "the query has no words"),
        ([], 12, "the query looks for nothing"),
        (["red", "-k", "0"], 12, "k is 0; it must be between 1 and 100,000"),
        (["red", "-k", "1000000000"], 12, "k is 1000000000"),
        (["red", "--collection", "defualt"], 32, "did you mean 'default'?"),
        (["--like", "purple.png"], 33, "purple.png"),
        (["--image", "nowhere.png"], 20, "nowhere.png: there is no such file"),
        (["red", "--device", "abacus"], 11, "SIGHTLINE_DEVICE"),
        (["red", "--store", "/nowhere/store"], 31, "there is no store in /nowhere/store"),
        (["red", "--sheet", "out.txt"], 10, "end the name in .png"),
        (["red", "--json", "--paths"], 2, "three forms of output"),
        (["red", "--modality", "video"], 2, "Invalid value for '--modality' / '-m': 'video' is neither 'image' nor 'text'"),
    ],
)
def test_bad_input_gets_a_sentence_and_its_code(run: Run, indexed: Path, arguments: list[str], code: int, sentence: str) -> None:
    outcome = run("search", *arguments)
    assert outcome.code == code
    assert sentence in outcome.err
    assert "Traceback" not in outcome.err
    if code != 2:
        assert outcome.err.startswith("sightline: ")
        assert outcome.err.count("\n") == 1


def test_in_a_store_without_a_collection_one_is_told_how_to_make_it(run: Run, indexed: Path) -> None:
    assert run("collections", "delete", "default", "--yes").code == 0
    outcome = run("search", "red")
    assert outcome.code == 32
    assert outcome.err == (
        "sightline: there is no collection 'default'; `sightline index FOLDER --collection default` makes it, "
        "`sightline collections` lists those there are\n"
    )


def test_a_folder_is_no_picture(run: Run, indexed: Path) -> None:
    outcome = run("search", "--image", indexed)
    assert (outcome.code, outcome.err) == (20, f"sightline: {indexed}: it is a folder; name one picture in it\n")


def test_whether_a_picture_can_be_read_is_not_typers_to_say(run: Run, indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would end with its own code, 2; `test_files_that_cannot_be_opened_are_named_with_their_cause` has the sentences."""
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    assert run("search", "--image", indexed / "red.png", "-k", "1").code == 0


def test_ten_thousand_words_are_answered_with_a_note(run: Run, indexed: Path) -> None:
    outcome = run("search", "word " * 10_000, "--paths")
    assert outcome.code == 0
    assert "sightline: note: the query has 10,000 words" in outcome.err
    assert "read only the beginning" in outcome.err


def test_the_collection_remembers_its_encoder_and_refuses_another(
    run: Run, indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGHTLINE_ENCODER", "an/encoder-that-does-not-exist")
    assert run("search", "red").code == 0

    from tests.tiny_checkpoint import write_tiny_checkpoint

    other = write_tiny_checkpoint(tmp_path / "other", seed=1)
    outcome = run("search", "red", "--encoder", other)
    assert outcome.code == 42
    assert "collection 'default' was embedded by" in outcome.err
    assert "leave --encoder away" in outcome.err


def test_names_that_are_spelled_twice_for_speed_are_equal() -> None:
    from typing import get_args

    from api.cli.searching import DEFAULT_TOP_K
    from indexer.sources import SourceKind
    from search import engine

    assert settings.DEFAULT_COLLECTION == DEFAULT_COLLECTION
    assert engine.DEFAULT_TOP_K == DEFAULT_TOP_K
    assert set(get_args(KindName)) == {kind.value for kind in SourceKind}
