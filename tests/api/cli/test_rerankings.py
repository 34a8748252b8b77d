"""`sightline evaluate` with a second look: tables, JSON, run files, the curve, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search.evaluation import Metric
from search.evaluation_files import read_run_file
from tests.api.cli.conftest import Run
from tests.tiny_checkpoint import WORDS, write_tiny_checkpoint

NAMES = ["text-to-image", "text-to-image-reranked", "image-to-text", "image-to-text-reranked"]
NUM_PICTURES = 12


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy pictures with a caption each."""
    folder = tmp_path_factory.mktemp("captioned")
    generator = np.random.default_rng(0)
    for number in range(NUM_PICTURES):
        pixels = generator.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64), Image.Resampling.NEAREST).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(" ".join(generator.choice(WORDS, size=4, replace=False)) + "\n")
    return folder


def test_tables_stand_side_by_side(run: Run, captioned: Path, fusion: Path) -> None:
    outcome = run("evaluate", captioned, "--fusion", fusion)

    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert [line.split()[0] for line in lines[2:6]] == NAMES
    (second_look,) = [number for number, line in enumerate(lines) if line.startswith("second look, hit rate@1")]
    assert [line.split()[:3] for line in lines[second_look + 2 :][:2]] == [["text-to-image", "64", "0.02"], ["image-to-text", "64", "0.05"]]
    (curve,) = [number for number, line in enumerate(lines) if line.startswith("rerank depth")]
    assert [line.split()[0] for line in lines[curve + 2 :][:3]] == ["4", "8", "12"]
    assert [line.split()[:4] for line in lines if "95 % interval" in line] == [
        ["text-to-image-reranked", "first", "stage", "reranked"],
        ["image-to-text-reranked", "first", "stage", "reranked"],
    ]
    assert ", fusion encoder " in lines[-1]


def test_json_has_the_figures_the_curve_and_the_difference(run: Run, captioned: Path, fusion: Path) -> None:
    found = run("evaluate", captioned, "--fusion", fusion, "--rerank-depth", 5, "--json").json

    assert [each["name"] for each in found["runs"]] == NAMES
    assert [each["rerank_ms"] > 0 for each in found["runs"]] == [False, True, False, True]
    assert len(found["fusion_fingerprint"]) == 64
    for each, name in zip(found["rerankings"], ("text-to-image", "image-to-text"), strict=True):
        assert set(each) == {
            "name", "first", "depth", "logit_weight", "num_pairs", "pairs_per_s", "rerank_ms", "metric", "first_percent",
            "by_logit_percent", "reranked_percent", "ceiling_percent", "headroom_captured", "comparison", "curve",
        }  # fmt: skip
        assert (each["name"], each["first"], each["depth"]) == (f"{name}-reranked", name, 5)
        assert each["num_pairs"] == 5 * NUM_PICTURES
        assert each["metric"] == "hit_rate_at_1"
        assert [point["depth"] for point in each["curve"]] == [4, 5]
        assert each["curve"][-1] == {"depth": 5, "percent": each["reranked_percent"], "ceiling": each["ceiling_percent"]}
        difference = each["comparison"]["differences"][0]
        assert (difference["metric"], difference["former"]) == (Metric.HIT_RATE_AT_1, each["first_percent"])
        assert difference["uncertainty"]["low"] <= difference["points"] <= difference["uncertainty"]["high"]


def test_the_curve_is_drawn_from_a_source_and_from_a_collection(run: Run, captioned: Path, fusion: Path, tmp_path: Path) -> None:
    outcome = run("evaluate", captioned, "--fusion", fusion, "--rerank-depth", 4, "--curve", tmp_path / "source.png", "--json")
    assert outcome.code == 0, outcome.err
    assert [point["depth"] for point in outcome.json["rerankings"][0]["curve"]] == [4, 8, 12]
    assert run("index", captioned, "--fusion", fusion).code == 0
    assert run("evaluate", "-c", "default", "--fusion", fusion, "--curve", tmp_path / "collection.png").code == 0
    for name in ("source", "collection"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.size == (1600, 1000)


def test_reranked_runs_are_written_and_compared_with(run: Run, captioned: Path, fusion: Path, tmp_path: Path) -> None:
    both, alone = tmp_path / "both.trec", tmp_path / "alone.trec"
    assert run("evaluate", captioned, "--fusion", fusion, "--run-file", both).code == 0
    assert run("evaluate", captioned, "--fusion", fusion, "--no-rerank", "--run-file", alone).code == 0

    assert {line.split()[5] for line in both.read_text().splitlines()} == set(NAMES)
    kept = read_run_file(both)
    assert list(kept) == NAMES
    assert {name: len(each.ranking_by_query) for name, each in kept.items()} == dict.fromkeys(NAMES, NUM_PICTURES)
    assert list(read_run_file(alone)) == [NAMES[0], NAMES[2]]
    with_both = run("evaluate", captioned, "--fusion", fusion, "--against", both, "--json").json["comparisons"]
    assert [each["name"] for each in with_both] == NAMES
    assert all(difference["points"] == 0 for each in with_both for difference in each["differences"])
    with_alone = run("evaluate", captioned, "--fusion", fusion, "--against", alone, "--json").json["comparisons"]
    assert [each["name"] for each in with_alone] == [NAMES[0], NAMES[2]]


def test_without_the_second_look_nothing_of_it_is_told(run: Run, captioned: Path, fusion: Path) -> None:
    for arguments in (["--no-rerank"], []):  # told not to; and with no fusion encoder
        outcome = run("evaluate", captioned, *arguments)
        assert outcome.code == 0, outcome.err
        assert "rerank" not in outcome.out
        assert ", no second look, " in outcome.out
    found = run("evaluate", captioned, "--json").json
    assert (found["rerankings"], found["fusion_fingerprint"]) == ([], None)


def test_a_collection_without_patches_is_measured_and_a_note_says_what_is_missing(run: Run, captioned: Path, fusion: Path) -> None:
    assert run("index", captioned, "--no-patches").code == 0
    outcome = run("evaluate", "-c", "default", "--fusion", fusion)
    assert outcome.code == 0
    assert "text-to-image" in outcome.out
    assert "note: no picture in collection default has patches for the second look" in outcome.err
    assert "`sightline patches default` adds them" in outcome.err


def test_what_is_refused_and_with_which_code(run: Run, captioned: Path, fusion: Path, tmp_path: Path) -> None:
    other = write_tiny_checkpoint(tmp_path / "other", seed=1)
    assert run("index", captioned, "--no-patches").code == 0
    with_fusion: list[object] = [captioned, "--fusion", fusion]
    refused: list[tuple[int, str, list[object]]] = [
        (2, "--no-rerank and how to rerank exclude each other", [captioned, "--no-rerank", "--rerank-depth", "8"]),
        (2, "--no-rerank and how to rerank exclude each other", [captioned, "--no-rerank", "--curve", "out.png"]),
        (12, "rerank_depth is 0; it must be between 1 and 10,000", [*with_fusion, "--rerank-depth", "0"]),
        (12, "rerank_depth is -3", [*with_fusion, "--rerank-depth", "-3"]),
        (12, "rerank_depth is 10001", [*with_fusion, "--rerank-depth", "10001"]),
        (10, "'.txt' is no format that a curve can be written in", [*with_fusion, "--curve", tmp_path / "curve.txt"]),
        (10, "the curve cannot be written", [*with_fusion, "--curve", tmp_path / "nowhere" / "curve.png"]),
        (50, "so there is no curve over rerank depths", [captioned, "--curve", tmp_path / "curve.png"]),
        (34, "so there is no curve over rerank depths", ["-c", "default", "--fusion", fusion, "--curve", tmp_path / "curve.png"]),
        (42, "train one for it with `sightline train fusion`", [*with_fusion, "--encoder", other]),
        (51, "holds no fusion encoder: its card, fusion.json, is missing", [captioned, "--fusion", tmp_path]),
    ]
    for code, sentence, arguments in refused:
        outcome = run("evaluate", *arguments)
        assert outcome.code == code, (arguments, outcome.err)
        assert sentence in " ".join(outcome.err.replace("│", " ").split()), (arguments, outcome.err)
        assert outcome.out == ""
