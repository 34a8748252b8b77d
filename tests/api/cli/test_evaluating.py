"""`sightline evaluate`: tables, JSON, run files, comparisons, and what it refuses."""

from pathlib import Path

import pytest
from PIL import Image

from api import evaluation
from api.cli.evaluating import DEFAULT_DEPTH
from api.cli.evaluations import milliseconds
from search.evaluation import Metric
from search.evaluation_files import read_run_file
from tests.api.cli.conftest import Run
from tests.api.conftest import COLOURS


@pytest.fixture
def captioned(tmp_path: Path) -> Path:
    """Twelve pictures with a caption each."""
    folder = tmp_path / "captioned"
    folder.mkdir()
    for number in range(12):
        colour = COLOURS[number % 6]
        Image.new("RGB", (32 + 8 * number, 32), colour).save(folder / f"{colour} {number}.png")
        (folder / f"{colour} {number}.txt").write_text(f"{colour} wall number {number}\n")
    return folder


def test_a_table_of_both_directions_and_what_was_measured(run: Run, captioned: Path, tmp_path: Path) -> None:
    outcome = run("evaluate", captioned)

    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0].split("  ")[-1].strip() == "ms a query"
    assert [line.split()[:2] for line in lines[2:4]] == [["text-to-image", "12"], ["image-to-text", "12"]]
    assert f"{captioned}/: 12 pictures, " in lines[-1]
    assert "judged by captions" in lines[-1]
    assert not (tmp_path / "store").exists()


def test_json_of_a_source(run: Run, captioned: Path, tiny_encoder_path: Path) -> None:
    found = run("evaluate", captioned, "--json").json

    assert set(found) == {
        "name", "encoder", "encoder_fingerprint", "judged_by", "num_pictures", "depth", "runs", "fusion_fingerprint", "rerankings",
        "comparisons", "skipped", "notes",
    }  # fmt: skip
    assert (found["encoder"], found["num_pictures"], found["depth"]) == (str(tiny_encoder_path), 12, 100)
    assert [each["name"] for each in found["runs"]] == ["text-to-image", "image-to-text"]
    for each in found["runs"]:
        assert set(each) == {
            "name", "num_queries", "num_candidates", "num_without_hit", "embed_ms", "search_ms", "rerank_ms", "plan", *Metric,
        }  # fmt: skip
        assert all(0 <= each[metric] <= 100 for metric in Metric)
    assert found["comparisons"] is None


def test_a_collection_is_measured_with_its_own_encoder(run: Run, captioned: Path) -> None:
    run("index", captioned, "-c", "walls")
    of_source, of_collection = run("evaluate", captioned, "--json").json, run("evaluate", "-c", "walls", "--json").json
    assert of_collection["name"] == "collection walls"
    assert of_collection["runs"][0]["num_queries"] == of_source["runs"][0]["num_queries"]
    assert of_collection["runs"][0]["plan"].startswith("images: exact")
    assert of_collection["runs"][1]["embed_ms"] == 0  # they are stored
    row = next(line for line in run("evaluate", "-c", "walls").out.splitlines() if line.startswith("image-to-text"))
    assert float(row.split()[-1]) > 0


@pytest.mark.parametrize(("duration_ms", "told"), [(0.0, "0"), (0.0213, "0.021"), (0.96, "0.96"), (1.0, "1.0"), (42.34, "42.3")])
def test_short_times_keep_two_digits(duration_ms: float, told: str) -> None:
    assert milliseconds(duration_ms) == told


def test_a_run_is_written_and_compared_with(run: Run, captioned: Path, tmp_path: Path) -> None:
    run_file = tmp_path / "first stage.trec"
    assert run("evaluate", captioned, "--run-file", run_file).code == 0
    assert {name: len(each.ranking_by_query) for name, each in read_run_file(run_file).items()} == {
        "text-to-image": 12,
        "image-to-text": 12,
    }

    outcome = run("evaluate", captioned, "--against", run_file)
    assert outcome.code == 0, outcome.err
    assert "95 % interval" in outcome.out
    assert "+0.0 to +0.0" in outcome.out
    compared = run("evaluate", captioned, "--against", run_file, "--json").json["comparisons"]
    assert [each["name"] for each in compared] == ["text-to-image", "image-to-text"]
    for each in compared:
        assert (each["num_queries"], each["num_groups"]) == (12, 12)
        assert [difference["metric"] for difference in each["differences"]] == list(Metric)
        assert all(difference["points"] == 0 and difference["uncertainty"]["p_value"] == 1 for difference in each["differences"])


def test_what_a_former_run_does_not_answer_is_told(run: Run, captioned: Path, tmp_path: Path) -> None:
    (tmp_path / "former.trec").write_text("red%200.png#1 Q0 red%200.png 1 0.9 bm25\n")
    outcome = run("evaluate", captioned, "--against", tmp_path / "former.trec")
    assert outcome.code == 0, outcome.err
    assert "the former run answers 1 of 12 queries" in outcome.err
    assert "1 independent query, too few for an interval" in outcome.err


def test_judgements_from_qrels_and_from_a_table(run: Run, captioned: Path, tmp_path: Path) -> None:
    (tmp_path / "qrels.txt").write_text("1 0 red%200.png 1\n1 0 red%206.png 1\n")
    (tmp_path / "queries.tsv").write_text("1\tred\n")
    (tmp_path / "judged.csv").write_text("query,relevant keys\nred,red 0.png,red 6.png\n")
    of_qrels = run("evaluate", captioned, "--qrels", tmp_path / "qrels.txt", "--queries", tmp_path / "queries.tsv", "--json").json
    of_table = run("evaluate", captioned, "--judgements", tmp_path / "judged.csv", "--json").json

    assert of_qrels["judged_by"] == of_table["judged_by"] == "judgements"
    (one,), (other,) = of_qrels["runs"], of_table["runs"]
    assert {metric: one[metric] for metric in Metric} == {metric: other[metric] for metric in Metric}


def test_unreadable_pictures_are_a_note(run: Run, captioned: Path) -> None:
    (captioned / "red 0.png").write_bytes(b"no picture")
    outcome = run("evaluate", captioned)
    assert outcome.code == 0
    assert "note: 1 input cannot be read, left out; red 0.png: " in outcome.err


def test_what_is_refused_and_with_which_code(run: Run, captioned: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.trec").write_text("no run\n")
    (tmp_path / "other.trec").write_text("q Q0 k 1 0.5 text-to-image\n")
    (photos / "red.txt").unlink()
    refused: list[tuple[int, str, list[object]]] = [
        (2, "name either a SOURCE or a --collection", []),
        (2, "name either a SOURCE or a --collection", [captioned, "-c", "walls"]),
        (2, "--kind says what a SOURCE is", ["-c", "walls", "--kind", "folder"]),
        (2, "--qrels and --queries belong together", [captioned, "--qrels", "q"]),
        (2, "two forms of one thing", [captioned, "--qrels", "q", "--queries", "t", "--judgements", "j"]),
        (10, "none of the 6 pictures of", [photos]),
        (10, "the depth of a run is 3", [captioned, "--depth", "3"]),
        (10, "bad.trec, line 1", [captioned, "--against", tmp_path / "bad.trec"]),
        (10, "nowhere.trec cannot be read", [captioned, "--against", tmp_path / "nowhere.trec"]),
        (10, "share no query", [captioned, "--against", tmp_path / "other.trec"]),
        (10, "there is no folder", [captioned, "--run-file", tmp_path / "nowhere" / "run.trec"]),
        (13, "does not exist", [tmp_path / "nowhere"]),
        (31, "there is no store", ["-c", "walls"]),
        (50, "", [captioned, "--encoder", tmp_path / "no-encoder"]),
    ]
    for code, sentence, arguments in refused:
        outcome = run("evaluate", *arguments)
        assert outcome.code == code, (arguments, outcome.err)
        assert sentence in " ".join(outcome.err.replace("│", " ").split()), (arguments, outcome.err)
        assert outcome.out == ""


def test_the_help_and_the_library_agree_on_the_depth() -> None:
    assert DEFAULT_DEPTH == evaluation.DEFAULT_DEPTH
