"""`sightline hubness`: what is applied, what it says, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest

from sightline.encoders.checkpoint import save_query_banks
from sightline.encoders.query_bank import compressed_bank
from sightline.types import Modality
from tests.api.cli.conftest import Run
from tests.tiny_checkpoint import write_tiny_checkpoint


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    path = tmp_path / "queries.txt"
    path.write_text("a red wall\n\na dog\nthe beach\n")
    return path


def test_without_an_option_it_says_what_is_taken_off(run: Run, indexed: Path) -> None:
    outcome = run("hubness", "default")
    assert (outcome.code, outcome.out) == (0, "default: not taken off\n")
    assert run("hubness", "default", "--json").json == []


def test_a_bank_of_queries_is_applied_told_and_left(run: Run, indexed: Path, queries: Path) -> None:
    outcome = run("hubness", "default", "--queries", queries)
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines() == [
        "images: 0.5 of the bias taken off, by a bank of 3 queries (3 texts of queries.txt); 6 images biased",
        "  nothing to measure with: too few captions that the bank does not hold",
    ]
    found = run("search", "red", "--modality", "image", "--json").json
    assert found["plan"] == "images: exact over 6 rows, 0.5 of the hubness bias taken off"
    adjusted = [hit["adjusted_similarity"] for hit in found["hits"]]
    assert adjusted == sorted(adjusted, reverse=True)
    assert all(hit["adjusted_similarity"] != hit["similarity"] for hit in found["hits"])
    told = "images: 0.5 of the bias taken off, by a bank of 3 queries (3 texts of queries.txt)"
    assert run("hubness", "default").out == f"default: {told}\n"
    assert told in run("collections", "show", "default").out
    (bank,) = run("collections", "show", "default", "--json").json["statistics"]["banks"]
    assert (bank["modality"], bank["strength"], bank["num_queries"]) == ("image", 0.5, 3)
    assert run("verify").code == 0

    assert run("hubness", "default", "--off").out == "default: not taken off\n"
    assert {hit["adjusted_similarity"] for hit in run("search", "red", "--json").json["hits"]} == {None}


def test_captions_of_the_collection_make_a_bank(run: Run, indexed: Path) -> None:
    outcome = run("hubness", "default", "--captions", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["collection"] == "default"
    (bank,) = outcome.json["banks"]
    assert bank == {
        "modality": "image",
        "origin": "1 caption",
        "num_queries": 1,
        "strength": 0.5,
        "fitted": None,
        "num_items": 6,
    }


def test_a_new_collection_is_biased_by_the_bank_of_its_encoder(run: Run, photos: Path, tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "banked")
    rows = np.random.default_rng(0).standard_normal((4, 24), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    save_query_banks(folder, {Modality.IMAGE: compressed_bank(rows, num_centroids=4, factor=20.0, strength=0.25)})

    assert run("index", photos, "--encoder", folder).code == 0
    assert run("hubness", "default").out.startswith("default: images: 0.25 of the bias taken off, by a bank of 4 queries (of ")
    assert "0.25 of the hubness bias taken off" in run("search", "red").out
    assert run("hubness", "default", "--off").code == 0
    assert run("hubness", "default", "--encoder-bank").out.startswith("images: 0.25 of the bias taken off")


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["defualt", "--captions"], 32, "did you mean 'default'?"),
        (["default", "--encoder-bank"], 10, "brings no bank of queries"),
        (["default", "--queries", "nowhere.txt"], 13, "nowhere.txt does not exist"),
        (["default", "--captions", "--off"], 2, "choose one"),
    ],
)
def test_bad_input_gets_a_sentence_and_its_code(run: Run, indexed: Path, arguments: list[str], code: int, sentence: str) -> None:
    outcome = run("hubness", *arguments)
    assert outcome.code == code
    assert sentence in outcome.err
    assert "Traceback" not in outcome.err


def test_lines_that_are_no_query_get_a_note(run: Run, indexed: Path, tmp_path: Path) -> None:
    (tmp_path / "queries.jsonl").write_text('{"text": "red"}\nno json\n')
    outcome = run("hubness", "default", "--queries", tmp_path / "queries.jsonl")
    assert outcome.code == 0
    assert "sightline: note: 1 line of the file is no query and was left out" in outcome.err
