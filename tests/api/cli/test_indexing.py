"""`sightline index`: what it says, on a terminal and elsewhere, and what it refuses."""

import io
import os
import signal
import time
from pathlib import Path

import pytest
from PIL import Image
from rich.progress import Progress as RichProgress
from rich.progress import TextColumn

from api import open_store
from api.cli.console import PipeConsole
from api.cli.progress import Bar, Lines, describe_duration, describe_rate
from indexer.progress import PlannedWork, Progress
from sightline.errors import NotFound
from tests.api.cli.conftest import Run, start

NUM_PHOTOS = 400  # enough that the process is still at it when it is interrupted
HALF_WAY = Progress(num_done=50, num_to_do=100, num_embedded=48, num_skipped=2, elapsed_s=10)


def num_indexed(store: Path) -> int:
    """What another process has committed so far."""
    try:
        with open_store(store, create=False) as sightline:
            return sum(sightline.statistics().num_items_by_modality.values())
    except NotFound:
        return 0


def test_a_report_with_counts_and_rate(run: Run, photos: Path) -> None:
    outcome = run("index", photos)
    assert outcome.code == 0
    assert outcome.out.startswith(f"{photos}/ -> collection default: 6 new, 0 unchanged; ")
    assert " a second)" in outcome.out


def test_without_a_terminal_progress_is_plain_lines_on_stderr(run: Run, photos: Path) -> None:
    outcome = run("index", photos)
    assert outcome.err == "6 of 6 inputs to read, 0 unchanged\n"


def test_indexing_again_finds_everything_unchanged(run: Run, indexed: Path) -> None:
    assert "0 new, 6 unchanged" in run("index", indexed).out


def test_gone_items_are_told_and_pruned_when_asked_for(run: Run, indexed: Path) -> None:
    (indexed / "blue.png").unlink()

    told = run("index", indexed).out
    assert "1 gone" in told
    assert "--prune deletes what is gone" in told
    assert "1 pruned" in run("index", indexed, "--prune").out
    assert "1 gone" not in run("index", indexed).out


def test_skipped_inputs_are_told_with_their_cause_and_retried_when_asked_for(run: Run, indexed: Path) -> None:
    (indexed / "text.jpg").write_text("I am no picture")

    first = run("index", indexed)
    assert first.code == 0
    assert "1 skipped" in first.out
    assert "skipped text.jpg: " in first.out
    assert "it holds text, not a picture" in first.out
    again = run("index", indexed).out
    assert "skipped before and unchanged since: 1 input; --retry-skipped tries again" in again
    assert "it holds text" in run("index", indexed, "--retry-skipped").out


def test_a_report_as_json(run: Run, photos: Path) -> None:
    report = run("index", photos, "--json").json
    assert report["counts"]["new"] == 6
    assert report["collection"] == "default"


def test_items_of_a_manifest_with_an_unreadable_row_are_kept_and_the_report_says_so(run: Run, photos: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "photos.csv"
    manifest.write_text("path,caption\nphotos/red.png,a\nphotos/blue.png,b\nphotos/green.png,c\n")
    run("index", manifest)
    manifest.write_text('path,caption\nphotos/red.png,a\nphotos/blue.png,"b\n')

    outcome = run("index", manifest, "--prune")

    assert outcome.code == 0
    assert "pruned" not in outcome.out
    sentence = "2 items of the collection may be in the part of the source that could not be read, and are kept, with --prune too"
    assert sentence in outcome.out
    assert run("index", manifest, "--json").json["num_hidden"] == 2


def test_other_kinds_of_source_and_other_collections(run: Run, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "photos.csv").write_text("path,caption,year\nphotos/red.png,a wall,1999\n")
    (tmp_path / "notes.txt").write_text("a thought\nanother\n")
    assert "1 new" in run("index", tmp_path / "photos.csv", "--collection", "listed").out
    assert "2 new" in run("index", tmp_path / "notes.txt", "--kind", "texts", "-c", "notes").out
    hit = run("search", "wall", "-c", "listed", "--json").json["hits"][0]
    assert (hit["text"], hit["metadata"], hit["location"]) == ("a wall", {"year": "1999"}, str(photos / "red.png"))


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["nowhere"], 13, "nowhere does not exist"),
        (["empty"], 13, "empty"),
        (["photos", "--kind", "haiku"], 2, "haiku"),
        ([], 2, "SOURCE"),
        (["photos", "--encoder", "nowhere/at-all"], 50, "nowhere/at-all"),
        (["photos", "--collection", " "], 10, "is no name for a collection"),
    ],
)
def test_bad_input_gets_a_sentence_and_its_code(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, sentence: str
) -> None:
    monkeypatch.chdir(photos.parent)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (photos.parent / "empty").mkdir()
    outcome = run("index", *arguments)
    assert outcome.code == code, outcome.err
    assert sentence in " ".join(outcome.err.split())
    assert "Traceback" not in outcome.err


def test_an_encoder_other_than_the_collections_is_refused(run: Run, indexed: Path, tmp_path: Path) -> None:
    from tests.tiny_checkpoint import write_tiny_checkpoint

    outcome = run("index", indexed, "--encoder", write_tiny_checkpoint(tmp_path / "other", seed=1))
    assert outcome.code == 42
    assert "index into a new collection with --collection NAME" in outcome.err


def test_a_store_that_another_process_writes_to_is_busy(run: Run, indexed: Path, tmp_path: Path) -> None:
    with open_store(tmp_path / "store") as other, other._store.writer():
        outcome = run("index", indexed)
    assert outcome.code == 43
    assert str(os.getpid()) in outcome.err


def test_ctrl_c_keeps_what_was_committed_and_says_so_in_one_line(run: Run, tmp_path: Path) -> None:
    photos = tmp_path / "many"
    photos.mkdir()
    for number in range(NUM_PHOTOS):
        Image.new("RGB", (640, 480), (number % 256, 7 * number % 256, 50)).save(photos / f"{number:03}.png")
    process = start("index", photos, SIGHTLINE_COMMIT_ITEMS="10", SIGHTLINE_BATCH_IMAGES="5")
    try:
        while not num_indexed(tmp_path / "store"):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)  # between two looks at what the other process has committed
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()

    assert process.returncode == 130
    (line,) = [line for line in err.decode().splitlines() if line.startswith("sightline: ")]
    assert "items of this run indexed and searchable; the same command goes on from there and reads again what was not committed" in line
    assert run("runs", "--json").json[0]["state"] == "interrupted"
    num_kept = num_indexed(tmp_path / "store")
    assert f" {num_kept} items" in line
    assert 0 < num_kept < NUM_PHOTOS
    assert f"{num_kept} unchanged" in run("index", photos).out


def test_a_bar_shows_what_was_done_the_rate_the_time_left_and_what_was_skipped() -> None:
    console = PipeConsole(file=io.StringIO(), force_terminal=True, width=120)
    with RichProgress(TextColumn("{task.description} {task.completed}/{task.total} {task.fields[note]}"), console=console) as rich_progress:
        bar = Bar(rich_progress)
        bar.surveyed(1_000)
        bar.planned(PlannedWork(num_inputs=120, num_to_do=100, num_unchanged=20, num_gone=0, num_passed_over=0))
        bar.advanced(HALF_WAY)
        bar.committed(40)
    assert isinstance(console.file, io.StringIO)
    assert "indexing 50/100 5 a second, 0:10 left, 2 skipped" in console.file.getvalue()
    assert bar.num_committed == 40


def test_lines_come_at_once_and_then_now_and_then() -> None:
    console = PipeConsole(file=io.StringIO())
    lines = Lines(console)
    lines.planned(PlannedWork(num_inputs=120, num_to_do=100, num_unchanged=20, num_gone=0, num_passed_over=0))
    for _ in range(50):
        lines.advanced(HALF_WAY)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "100 of 120 inputs to read, 20 unchanged\n"


@pytest.mark.parametrize(("duration_s", "text"), [(0, "0:00"), (7.4, "0:07"), (220, "3:40"), (3723, "1:02:03")])
def test_durations_read_like_a_clock(duration_s: float, text: str) -> None:
    assert describe_duration(duration_s) == text


def test_without_a_rate_there_is_no_time_left() -> None:
    start = Progress(num_done=0, num_to_do=100, num_embedded=0, num_skipped=0, elapsed_s=0)
    assert describe_rate(start) == "0 a second, 0 skipped"
