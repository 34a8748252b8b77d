"""Text search over HTTP under load: `python -m benchmarks.service_load --store FOLDER`.

`sightline serve` runs over a million vectors of 512 (`benchmarks.service_store`, made in the folder the first time) with sightline-mini,
twice: as it is, and with batches of one text. Clients in this process ask both in turn, rounds of a few seconds each, so that what else
the machine does falls on both alike. Every request has words that were not asked before in its round; there is no second look, since such
a store has no patches. Then: what HTTP and metadata take on top of the engine's own time with one client, and many more clients than have
places.

`--second-look` asks for one of the first 64 instead, in a store of so many pictures (`--rows`), indexed with their patches.
"""

import argparse
import itertools
import json
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.http_load import Asked, Load, run_clients
from benchmarks.reporting import describe_machine, markdown_table, write_json
from benchmarks.service_process import cpu_seconds, serving
from benchmarks.service_store import COLLECTION, open_million, open_pictures
from search.rerank import DEFAULT_DEPTH

PATH = f"/v1/collections/{COLLECTION}/search"
NUM_ROWS = 1_000_000
NUM_PICTURES = 2_000
_WARM_UP_S = 2.0

Served = tuple[int, "subprocess.Popen[str]"]
"""A service's port and its process."""

_WHO = ("a dog", "two children", "an old man", "a woman in a red dress", "a cat", "three friends", "a football player", "a brown horse")
_DOES = ("running", "sleeping", "looking at the camera", "jumping", "sitting", "eating", "standing", "playing")
_WHERE = ("on the beach", "in the snow", "in a garden", "on a street at night", "in the kitchen", "by a lake", "in a forest", "in the rain")
_WITH = ("", "with a ball", "with an umbrella", "with a blue hat", "next to a bicycle", "under a tree", "in front of a house", "with food")


@dataclass(frozen=True, slots=True)
class Round:
    """Figures of so many clients of one service."""

    service: str
    num_clients: int
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float  # processor time of the service for each answer with 200, refused requests' included
    num_by_status: dict[int, int]

    @classmethod
    def of(cls, service: str, num_clients: int, loads: Sequence[Load], *, cpu_s: float) -> "Round":
        """Of several rounds together."""
        latencies = [latency for load in loads for latency in load.latencies_ms] or [float("nan")]
        statuses: dict[int, int] = {}
        for status, number in (pair for load in loads for pair in load.num_by_status.items()):
            statuses[status] = statuses.get(status, 0) + number
        per_second = sum(len(load.latencies_ms) for load in loads) / sum(load.seconds for load in loads)
        p50_ms, p99_ms = np.percentile(latencies, [50, 99]).tolist()
        return cls(service, num_clients, per_second, p50_ms, p99_ms, 1000 * cpu_s / len(latencies), statuses)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description="Text search over HTTP under load, with batching and without.")
    parser.add_argument("--store", type=Path, required=True, help="folder of the store, some 3 GB; made where it is not there")
    parser.add_argument("--second-look", action="store_true", help="with a second look at the first candidates, over pictures")
    parser.add_argument("--rows", type=int, help="items of the store (default: 1,000,000, and 2,000 pictures for a second look)")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--seconds", type=float, default=4.0, help="of one round (default: 4)")
    parser.add_argument("--rounds", type=int, default=2, help="of each service and number of clients (default: 2)")
    parser.add_argument("--overload-clients", type=int, default=400, help="clients that are too many; 0 leaves that out (default: 400)")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args(arguments)
    options.rows = options.rows or (NUM_PICTURES if options.second_look else NUM_ROWS)
    (open_pictures if options.second_look else open_million)(options.store, num_rows=options.rows).close()
    rounds, on_top_ms, overload = measure(options)
    what = f"pictures, second look at {DEFAULT_DEPTH}" if options.second_look else "rows"
    print(f"{describe_machine()}\n{options.rows:,} {what}, rounds of {options.seconds:g} s, {options.rounds} of each\n")
    print(markdown_table(_table(rounds)))
    print(f"\nHTTP and metadata on top of the engine's own time, one client: p50 {on_top_ms[0]:.2f} ms, p95 {on_top_ms[1]:.2f} ms")
    for one in overload:
        times = f"p50 {one.p50_ms:.0f} ms, p99 {one.p99_ms:.0f} ms"
        print(f"{one.num_clients} clients: {one.per_second:.0f} answers/s, {times}; answers by status {one.num_by_status}")
    figures = {"rounds": [asdict(one) for one in rounds], "on_top_ms": on_top_ms, "overload": [asdict(one) for one in overload]}
    write_json(options.json, benchmark="service_load", figures=figures)
    return 0


def measure(options: argparse.Namespace) -> tuple[list[Round], tuple[float, float], list[Round]]:
    """Rounds of both services in turn, p50 and p95 on top of the engine with one client, and the rounds of overload."""
    settings_by_service = {"batched": {}, "unbatched": {"max_batch": "1"}}
    with ExitStack() as stack:
        services = {name: stack.enter_context(serving(options.store, settings=each)) for name, each in settings_by_service.items()}
        for service in services.values():
            _loaded(service, 0, options, num_clients=4, seconds=_WARM_UP_S)
        rounds = [one for num in options.clients for one in _rounds(services, num, options)]
        alone, _ = _loaded(services["batched"], 1, options, num_clients=1, seconds=options.seconds)
        p50, p95 = np.percentile(alone.on_top_ms, [50, 95]).tolist()
        overload = []
        if options.overload_clients:
            for num_clients in (options.overload_clients // 2, options.overload_clients):
                load, cpu_s = _loaded(services["batched"], 2, options, num_clients=num_clients, seconds=2 * options.seconds)
                overload.append(Round.of("batched", num_clients, [load], cpu_s=cpu_s))
    return rounds, (p50, p95), overload


def _rounds(services: Mapping[str, Served], num_clients: int, options: argparse.Namespace) -> list[Round]:
    measured: dict[str, list[tuple[Load, float]]] = {name: [] for name in services}
    for number in range(options.rounds):
        for name in sorted(services, reverse=bool(number % 2)):
            measured[name].append(_loaded(services[name], number, options, num_clients=num_clients, seconds=options.seconds))
    rounds = []
    for name, pairs in measured.items():
        rounds.append(Round.of(name, num_clients, [load for load, _ in pairs], cpu_s=sum(cpu_s for _, cpu_s in pairs)))
    sys.stderr.write("; ".join(f"{r.service} {r.num_clients}: {r.per_second:.0f}/s p99 {r.p99_ms:.0f}" for r in rounds) + "\n")
    return rounds


def _loaded(service: Served, seed: int, options: argparse.Namespace, *, num_clients: int, seconds: float) -> tuple[Load, float]:
    """What clients saw, and seconds of processor time that the service took."""
    port, process = service
    before_s = cpu_seconds(process)
    depth = DEFAULT_DEPTH if options.second_look else 0
    load = run_clients(port, asked(seed, depth=depth), num_clients=num_clients, seconds=seconds)
    return load, cpu_seconds(process) - before_s


def asked(seed: int, *, depth: int = 0) -> Asked:
    """4,096 searches in some order, with a second look at so many candidates."""
    texts = [" ".join(filter(None, words)) for words in itertools.product(_WHO, _DOES, _WHERE, _WITH)]
    random.Random(seed).shuffle(texts)
    return Asked(PATH, [json.dumps({"text": text, "top_k": 10, "rerank_depth": depth}).encode() for text in texts])


def _table(rounds: Sequence[Round]) -> list[dict[str, object]]:
    """One row for each number of clients."""
    by_key = {(one.service, one.num_clients): one for one in rounds}
    rows = []
    for num_clients in dict.fromkeys(one.num_clients for one in rounds):
        batched, unbatched = by_key["batched", num_clients], by_key["unbatched", num_clients]
        rows.append(
            {
                "clients": num_clients,
                "unbatched/s": f"{unbatched.per_second:.0f}",
                "p50 ms": f"{unbatched.p50_ms:.0f}",
                "p99 ms": f"{unbatched.p99_ms:.0f}",
                "CPU ms": f"{unbatched.cpu_ms:.1f}",
                "batched/s": f"{batched.per_second:.0f}",
                "p50": f"{batched.p50_ms:.0f}",
                "p99": f"{batched.p99_ms:.0f}",
                "CPU": f"{batched.cpu_ms:.1f}",
                "times": f"{batched.per_second / unbatched.per_second:.2f}",
            }
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())
