"""Jobs of the service that are killed at random moments, beside undisturbed ones: the same items, and what the kills cost.

    python benchmarks/jobs_killed.py --texts 100000 --pictures 2000 --encoder FOLDER

For each source the whole service is killed with SIGKILL, and with it its job, or the process of the job alone, in turn; each time at a
random share of the items. At the end keys, contents and texts of all items are compared with those that `sightline index` leaves in a store
of its own, every file is verified, and each item's embedding is compared with the undisturbed one. Needs no network.
"""

import argparse
import json
import os
import random
import signal
import tempfile
import time
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from api import open_store
from benchmarks.service_process import serving
from sightline.settings import Settings

POLL_S = 0.05
COMMITS = 20
"""Of a job, at least: the moments of the kills are told by what is committed."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A source and how it is disturbed."""

    name: str
    source: Path
    num_items: int


def main() -> None:
    """Print a line for each source, and fail where items differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--pictures", type=int, default=2_000)
    parser.add_argument("--encoder", default="sightline-mini", help="a folder, for a smaller one")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["SIGHTLINE_ENCODER"] = options.encoder
    with tempfile.TemporaryDirectory(prefix="sightline-jobs-") as folder:
        scenarios = [
            Scenario("texts", _texts(Path(folder) / "notes.txt", options.texts), options.texts),
            Scenario("pictures", _pictures(Path(folder) / "pictures", options.pictures), options.pictures),
        ]
        for scenario in scenarios:
            _compare(scenario, Path(folder), num_kills=options.kills, generator=random.Random(options.seed))


def _compare(scenario: Scenario, folder: Path, *, num_kills: int, generator: random.Random) -> None:
    undisturbed, killed = folder / f"{scenario.name}-undisturbed", folder / f"{scenario.name}-killed"
    started_s = time.monotonic()
    with open_store(undisturbed, settings=Settings(store=undisturbed)) as sightline:
        sightline.index(scenario.source)
    undisturbed_s = time.monotonic() - started_s
    moments = sorted(generator.uniform(0, 0.8) for _ in range(num_kills))
    started_s = time.monotonic()
    whom = _run_killed(scenario, killed, root=folder, moments=moments)
    killed_s = time.monotonic() - started_s
    expected, found = _items(undisturbed), _items(killed)
    difference = _largest_difference(undisturbed, killed)
    shares = ", ".join(f"{share:.0%} ({who})" for share, who in zip(moments, whom, strict=True))
    print(
        f"{scenario.name}: {len(found):,} of {len(expected):,} items, same: {found == expected}; killed at {shares}; "
        f"undisturbed {undisturbed_s:.1f} s, killed {killed_s:.1f} s with every start; largest difference of a component {difference:.1e}"
    )
    if found != expected:
        raise SystemExit(1)


def _run_killed(scenario: Scenario, store: Path, *, root: Path, moments: list[float]) -> list[str]:
    """Index as a job, killing service and job's process in turn; returns which were killed."""
    settings = {"source_roots": json.dumps([str(root)])}
    os.environ["SIGHTLINE_COMMIT_ITEMS"] = str(max(1, scenario.num_items // COMMITS))
    job_id, whom, waiting = None, [], list(moments)
    while True:
        with serving(store, settings=settings) as (port, process):
            if job_id is None:
                job_id = _ask(port, "POST", "/v1/jobs", {"kind": "index", "collection": "default", "source": str(scenario.source)})[
                    "job_id"
                ]
            while waiting:
                state = _wait_for(port, job_id, num_items=int(waiting[0] * scenario.num_items))
                waiting.pop(0)
                if state != "running":
                    whom.append(f"too late, {state}")
                elif len(whom) % 2:
                    _kill_child_of(process.pid)
                    whom.append("its process")
                else:
                    process.send_signal(signal.SIGKILL)
                    whom.append("the service")
                    break
            else:
                _wait_for_end(port, job_id)
                return whom


def _wait_for(port: int, job_id: str, *, num_items: int) -> str:
    """Until so many items are searchable and the job runs, or it has ended; its state."""
    while True:
        state: str = _ask(port, "GET", f"/v1/jobs/{job_id}")["state"]
        found = sum(_ask(port, "GET", "/v1/collections/default").get("num_items", {}).values())
        if (state == "running" and found >= num_items) or state in ("done", "failed"):
            return state
        time.sleep(POLL_S)


def _wait_for_end(port: int, job_id: str) -> None:
    while (job := _ask(port, "GET", f"/v1/jobs/{job_id}"))["state"] != "done":
        if job["state"] == "failed":
            raise SystemExit(f"the job failed: {job['error']}")
        time.sleep(POLL_S)


def _kill_child_of(process_id: int) -> None:
    """Kill the process of the job: the child of the service that runs the module. Linux alone."""
    children = Path(f"/proc/{process_id}/task").glob("*/children")
    for child in {int(found) for file in children for found in file.read_text(encoding="ascii").split()}:
        if b"api.http.jobs.child" in Path(f"/proc/{child}/cmdline").read_bytes():
            os.kill(child, signal.SIGKILL)
            return


def _ask(port: int, method: str, path: str, body: object = None) -> Any:
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def _items(store: Path) -> dict[str, tuple[str, str | None]]:
    """Content hash and text by key, of a store that is verified."""
    with open_store(store, create=False, settings=Settings(store=store)) as sightline:
        findings = sightline.verify()
        if findings:
            raise SystemExit(f"{store} is damaged: {findings[:3]}")
        record = sightline.collection("default")
        return {item.key: (item.content_hash, item.text) for item in sightline.store.listing.items(record.collection_id, limit=10_000_000)}


def _largest_difference(one: Path, other: Path) -> float:
    """Of any component of an item's embeddings in two stores."""
    embeddings = [_embeddings(store) for store in (one, other)]
    return max(float(np.abs(embeddings[0][key] - embeddings[1][key]).max()) for key in embeddings[0])


def _embeddings(store: Path) -> dict[str, Any]:
    with open_store(store, create=False, settings=Settings(store=store)) as sightline:
        record = sightline.collection("default")
        key_by_id = {item.item_id: item.key for item in sightline.store.listing.items(record.collection_id, limit=10_000_000)}
        snapshot = sightline.store.snapshot(record.collection_id)
        ids = list(key_by_id)
        found = snapshot.embeddings(np.array(ids, dtype=np.int64))
        return {key_by_id[item_id]: row for item_id, row in zip(ids, found, strict=True)}


def _texts(path: Path, num_texts: int) -> Path:
    path.write_text("".join(f"a red ball and {number} cubes on the beach\n" for number in range(num_texts)), encoding="utf-8")
    return path


def _pictures(folder: Path, num_pictures: int) -> Path:
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(num_pictures):
        pixels = generator.integers(0, 256, (15, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((320, 240), Image.Resampling.BICUBIC).save(folder / f"{number:05}.jpg", quality=85)
    return folder


if __name__ == "__main__":
    main()
