"""What writing costs searches: `python -m benchmarks.service_writes --store FOLDER`.

The service of `benchmarks.service_load` is asked by a few clients, in turn while nothing writes and while a job of the service indexes
texts into another collection as fast as it can: a child process at low priority, as all jobs are. Printed are the percentiles of both and
their ratio; rounds of both kinds alternate, so that what else the machine does falls on both alike.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.http_load import HOST, Load, run_clients
from benchmarks.reporting import describe_machine, markdown_table, write_json
from benchmarks.service_load import asked
from benchmarks.service_process import serving
from benchmarks.service_store import open_million

_COLLECTION = "written"
_NUM_TEXTS = 1_000_000  # more than are indexed in the time: the job is cancelled
_START_S = 120.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description="Search latency of the service with and without a job that writes.")
    parser.add_argument("--store", type=Path, required=True, help="folder of the store of benchmarks.service_load")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=8.0, help="of one round (default: 8)")
    parser.add_argument("--rounds", type=int, default=2, help="of each kind (default: 2)")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args(arguments)
    open_million(options.store, num_rows=options.rows).close()
    figures = measure(options)
    print(f"{describe_machine()}\n{options.rows:,} rows, {options.clients} clients\n")
    print(markdown_table([{"while": name, **{key: f"{value:.1f}" for key, value in each.items()}} for name, each in figures.items()]))
    print(f"\np99 while a job writes / p99 without: {figures['a job writes']['p99 ms'] / figures['nothing writes']['p99 ms']:.2f}")
    write_json(options.json, benchmark="service_writes", figures=figures)
    return 0


def measure(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Figures by what else went on."""
    loads: dict[str, list[Load]] = {"nothing writes": [], "a job writes": []}
    with tempfile.TemporaryDirectory(prefix="service-writes-") as folder:
        texts = Path(folder) / "texts.txt"
        texts.write_text("\n".join(f"text number {number} of those that are written" for number in range(_NUM_TEXTS)), encoding="utf-8")
        with serving(options.store, settings={"source_roots": json.dumps([os.path.realpath(folder)])}) as (port, _):
            run_clients(port, asked(0), num_clients=options.clients, seconds=2)
            for number in range(options.rounds):
                loads["nothing writes"].append(run_clients(port, asked(number), num_clients=options.clients, seconds=options.seconds))
                job_id = _start_job(port, texts)
                loads["a job writes"].append(run_clients(port, asked(number), num_clients=options.clients, seconds=options.seconds))
                _end_job(port, job_id)
    return {name: _figures(each) for name, each in loads.items()}


def _figures(loads: Sequence[Load]) -> dict[str, float]:
    latencies = [latency for load in loads for latency in load.latencies_ms]
    p50_ms, p99_ms = np.percentile(latencies, [50, 99]).tolist()
    return {"searches/s": len(latencies) / sum(load.seconds for load in loads), "p50 ms": p50_ms, "p99 ms": p99_ms}


def _start_job(port: int, texts: Path) -> str:
    """Begun, and at work: some items are done."""
    job = _ask(port, "POST", "/v1/jobs", {"kind": "index", "collection": _COLLECTION, "source": str(texts), "source_kind": "texts"})
    found = job
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        found = _ask(port, "GET", f"/v1/jobs/{job['job_id']}")
        if found["state"] == "running" and (found["progress"] or {}).get("num_done"):
            return str(job["job_id"])
        if found["state"] not in ("queued", "running"):
            break
        time.sleep(0.2)
    raise SystemExit(f"the job did not come to work: {found}")


def _end_job(port: int, job_id: str) -> None:
    _ask(port, "POST", f"/v1/jobs/{job_id}/cancel")
    while _ask(port, "GET", f"/v1/jobs/{job_id}")["state"] == "running":
        time.sleep(0.2)


def _ask(port: int, method: str, path: str, body: object = None) -> Any:
    connection = HTTPConnection(HOST, port, timeout=60)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read() or b"null")
        if response.status >= 400:
            raise SystemExit(f"{method} {path}: {response.status}: {answer}")
        return answer
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
