"""A real process that indexes, killed or interrupted at any moment: run again, it ends as if it had never been stopped."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from sightline.storage.records import RunState
from sightline.storage.store import Store
from sightline.types import Modality
from tests.histogram_encoder import HistogramEncoder
from tests.indexer.corpus import COLOURS, index, items_by_key, write_picture, write_pictures
from tests.indexer.index_folder import INTERRUPTED

NUM_PICTURES = 150
MOST_ATTEMPTS = 4  # for each stop that is wanted
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class _End:
    """How a process ended."""

    returncode: int
    indexing_s: float  # since it began to


def _start(store_folder: Path, photos: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-W", "error", "-m", "tests.indexer.index_folder", str(store_folder), str(photos)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stdout is not None
    assert process.stdout.readline() == "indexing\n"
    return process


def _run_to_the_end(store_folder: Path, photos: Path) -> _End:
    with _start(store_folder, photos) as process:
        started = time.monotonic()
        return _End(process.wait(timeout=120), time.monotonic() - started)


def _stop(store_folder: Path, photos: Path, *, after_s: float, by: signal.Signals) -> _End:
    """Sends the signal `after_s` into the indexing, unless that is over by then."""
    with _start(store_folder, photos) as process:
        started = time.monotonic()
        try:
            process.wait(timeout=after_s)
        except subprocess.TimeoutExpired:
            process.send_signal(by)
        return _End(process.wait(timeout=120), time.monotonic() - started)


@pytest.fixture
def photos_with_history(photos: Path) -> Path:
    """Pictures to be indexed, of which some have a broken neighbour."""
    write_pictures(photos, NUM_PICTURES)
    for serial in range(3):
        (photos / f"broken{serial}.jpg").write_text("not a picture")
    return photos


def _contents(store_folder: Path) -> dict[str, tuple[str, int, int, str | None]]:
    """What the items are, without what differs between two runs that are equal (ids and times)."""
    with Store.open(store_folder, create=False) as store:
        items = items_by_key(store)  # asserts that no key is there twice
        return {key: (item.content_hash, item.size_bytes, item.mtime_ns, item.text) for key, item in items.items()}


def _assert_sound(store_folder: Path) -> None:
    """Every item has one row with its own embedding, nothing lies about, and a search over everything finds each item once."""
    with Store.open(store_folder, create=False) as store:
        assert store.verify() == []
        record = store.collection("photos")
        items = items_by_key(store)
        item_ids = np.array([item.item_id for item in items.values()])
        snapshot = store.snapshot(record.collection_id)
        assert snapshot.num_items(Modality.IMAGE) == len(items)
        stored = snapshot.embeddings(item_ids)
        encoder = HistogramEncoder()
        for key, embedding in zip(items, stored, strict=True):
            colour = COLOURS[int(Path(key).stem) % len(COLOURS)]
            assert float(encoder.embed_texts([colour])[0] @ embedding) > 0.9
        found = snapshot.search(stored[:1], len(items) + 10, modality=Modality.IMAGE)[0]
        assert sorted(candidate.item_id for candidate in found) == sorted(item_ids.tolist())


def _states(store_folder: Path) -> list[RunState]:
    with Store.open(store_folder, create=False) as store:
        return [run.state for run in store.runs()]


@pytest.mark.parametrize(
    ("by", "num_stops"),
    [(signal.SIGKILL, 18), (signal.SIGINT, 8)],
    ids=["kill -9", "Ctrl-C"],
)
def test_stopped_at_random_moments_and_run_again_it_ends_as_if_never_stopped(
    tmp_path: Path, photos_with_history: Path, by: signal.Signals, num_stops: int
) -> None:
    undisturbed = _run_to_the_end(tmp_path / "undisturbed", photos_with_history)
    assert undisturbed.returncode == 0
    chance = random.Random(num_stops)
    num_stopped = 0
    store_folder = tmp_path / "stopped0"

    for attempt in range(MOST_ATTEMPTS * num_stops):  # where the first run was slow, many of the others are through before they are stopped
        if attempt >= num_stops and num_stopped >= num_stops // 2:
            break
        end = _stop(store_folder, photos_with_history, after_s=chance.uniform(0, undisturbed.indexing_s), by=by)
        assert end.returncode in (0, INTERRUPTED, -by)  # Python itself dies of a SIGINT that comes while it shuts down
        num_stopped += end.returncode != 0
        if end.returncode == 0:  # got through: go on with a store of its own, so that there is something to be stopped in
            assert _contents(store_folder) == _contents(tmp_path / "undisturbed")
            _assert_sound(store_folder)
            store_folder = tmp_path / f"stopped{attempt + 1}"

    assert _run_to_the_end(store_folder, photos_with_history).returncode == 0
    assert _contents(store_folder) == _contents(tmp_path / "undisturbed")
    _assert_sound(store_folder)
    states = _states(store_folder)
    assert states[0] is RunState.FINISHED
    assert RunState.RUNNING not in states
    assert num_stopped >= num_stops // 2


def test_killed_while_it_replaces_moves_and_prunes(tmp_path: Path, photos: Path) -> None:
    """The second run of a folder in which much has happened, killed many times over."""
    write_pictures(photos, NUM_PICTURES)
    with Store.open(tmp_path / "store") as store:
        index(store, photos)
    for serial, path in enumerate(sorted(photos.rglob("*.png"))):
        match serial % 4:
            case 0:
                number = int(path.stem)
                write_picture(path, COLOURS[number % len(COLOURS)], serial=number + 5000, side=32)
            case 1:
                (photos / "moved").mkdir(exist_ok=True)
                path.rename(photos / "moved" / path.name)
            case 2:
                path.unlink()
    chance = random.Random(3)

    for _ in range(8):
        _stop(tmp_path / "store", photos, after_s=chance.uniform(0, 0.25), by=signal.SIGKILL)

    assert _run_to_the_end(tmp_path / "store", photos).returncode == 0
    assert _run_to_the_end(tmp_path / "fresh", photos).returncode == 0
    assert _contents(tmp_path / "store") == _contents(tmp_path / "fresh")
    _assert_sound(tmp_path / "store")


def test_ctrl_c_commits_what_is_embedded_and_leaves_an_interrupted_run(tmp_path: Path, photos: Path) -> None:
    write_pictures(photos, NUM_PICTURES)

    with _start(tmp_path / "store", photos) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "committed\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == INTERRUPTED

    with Store.open(tmp_path / "store") as store:
        (run,) = store.runs()
        assert run.state is RunState.INTERRUPTED
        assert run.counts.new == len(items_by_key(store)) < NUM_PICTURES
