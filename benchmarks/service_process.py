"""The service as a process of its own, for benchmarks and tests that ask it from outside."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import Queue

START_S = 120.0
"""Loading a network and an index of a million rows takes seconds; on a busy machine more."""


@contextmanager
def serving(store: Path, *, settings: Mapping[str, str] | None = None) -> Iterator[tuple[int, "subprocess.Popen[str]"]]:
    """`sightline serve` over the store on a free port: that port, and the process, which is ended with the block."""
    environment = {**os.environ, **{f"SIGHTLINE_SERVICE_{name.upper()}": value for name, value in (settings or {}).items()}}
    command = [sys.executable, "-c", "from api.cli import main; main()", "serve", "--store", str(store), "--port", "0"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    ports: Queue[int | None] = Queue()
    threading.Thread(target=_read, args=(process, ports), daemon=True).start()
    try:
        port = ports.get(timeout=START_S)
        if port is None:
            raise RuntimeError(f"the service ended with status {process.wait()} before it served")
        yield port, process
    finally:
        process.terminate()
        process.wait(timeout=60)


def _read(process: "subprocess.Popen[str]", ports: "Queue[int | None]") -> None:
    """Pass on what the service says, and the port from it."""
    assert process.stderr is not None
    for line in process.stderr:
        found = re.search(r"serving at http://[^/]*:(\d+)/", line)
        if found:
            ports.put(int(found[1]))
        else:
            sys.stderr.write(line)
    ports.put(None)
