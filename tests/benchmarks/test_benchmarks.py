import json
import sys
from pathlib import Path

import pytest

from benchmarks import indexing, indexing_memory, reranking, search_latency
from benchmarks.photographs import write_photographs
from benchmarks.reporting import markdown_table
from sightline.encoders.image_input import decode_image


def written(path: Path, benchmark: str) -> object:
    report = json.loads(path.read_text())
    assert report["benchmark"] == benchmark
    assert {"processor", "cores", "memory", "torch"} <= report["machine"].keys()
    return report["figures"]


def test_a_table_has_a_line_for_names_a_line_of_dashes_and_a_line_for_each_row() -> None:
    assert markdown_table([{"rows": "10", "p50": 1.5}, {"rows": "20", "p50": 2}]).splitlines() == [
        "| rows | p50 |",
        "|---|---:|",
        "| 10 | 1.5 |",
        "| 20 | 2 |",
    ]


def test_photographs_are_different_and_cost_a_decoder_what_real_ones_do(tmp_path: Path) -> None:
    first, second = write_photographs(tmp_path, 2)
    assert first.read_bytes() != second.read_bytes()
    decoded = decode_image(first, name="first", max_pixels=10**6, target_side=None)
    assert (decoded.width, decoded.height) == (1000, 750)
    assert 0.2 < first.stat().st_size / (decoded.width * decoded.height) < 0.4  # bytes a pixel


def test_indexing_is_measured_beside_the_loop_the_network_and_decoding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "indexing.json"
    size = ["--num-pictures", "6", "--loop-pictures", "2", "--batch-images", "2", "--rounds", "1"]
    assert indexing.main(["--encoder", "sightline-mini", *size, "--scratch", str(tmp_path), "--json", str(report)]) == 0
    assert "| sightline-mini |" in capsys.readouterr().out
    figures = written(report, "indexing")
    assert isinstance(figures, dict)
    (rates,) = figures["sightline-mini"]
    assert all(rate > 0 for rate in rates.values())


def test_answers_of_engine_and_faiss_are_the_same_while_they_are_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "search_latency.json"
    size = ["--rows", "300", "600", "--queries", "5", "--commit-items", "200"]
    assert search_latency.main([*size, "--scratch", str(tmp_path), "--json", str(report)]) == 0
    assert "| 600 | exact |" in capsys.readouterr().out
    figures = written(report, "search_latency")
    assert isinstance(figures, list)
    assert [one["num_rows"] for one in figures] == [300, 600]
    assert all(one["engine_recall"] == one["faiss_recall"] == 1 for one in figures)


def test_a_second_look_is_measured_beside_reading_the_pictures_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "reranking.json"
    size = ["--num-pictures", "6", "--depth", "4", "--queries", "2", "--anew-queries", "1"]
    assert reranking.main([*size, "--scratch", str(tmp_path), "--json", str(report)]) == 0
    assert "| decoded and encoded anew |" in capsys.readouterr().out
    figures = written(report, "reranking")
    assert isinstance(figures, list)
    assert [(row["queries"], row["times faster than anew"] > 0) for row in figures] == [(2, True), (1, True), (2, True)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: peak memory is read from /proc")
def test_memory_is_measured_in_processes_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "indexing_memory.json"
    assert indexing_memory.main(["--num-pictures", "2", "--times", "2", "--scratch", str(tmp_path), "--json", str(report)]) == 0
    figures = written(report, "indexing_memory")
    assert isinstance(figures, list)
    assert [(one["what"], one["num_pictures"]) for one in figures] == [("index", 4), ("plain loop", 4)]
    assert all(one["peak_bytes"] >= one["before_bytes"] for one in figures)
