"""The service as a process of its own, for benchmarks and tests that ask it from outside."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from queue import Queue

START_S = 120.0
"""Loading a network and an index of a million rows takes seconds; on a busy machine more."""


@contextmanager
def serving(store: Path, *, settings: Mapping[str, str] | None = None) -> Iterator[tuple[int, "subprocess.Popen[str]"]]:
    """`sightline serve` over the store on a free port: that port, and the process, which is ended with the block."""
    environment = {**os.environ, **{f"SIGHTLINE_SERVICE_{name.upper()}": value for name, value in (settings or {}).items()}}
    command = [
        sys.executable,
        "-c",
        "import sys; from api.cli import main; sys.exit(main())",
        "serve",
        "--store",
        str(store),
        "--port",
        "0",
    ]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    ports: Queue[int | None] = Queue()
    reader = threading.Thread(target=_read, args=(process, ports), daemon=True)
    reader.start()
    try:
        port = ports.get(timeout=START_S)
        if port is None:
            raise RuntimeError(f"the service ended with status {process.wait()} before it served")
        _wait_until_ready(port)
        yield port, process
    finally:
        process.terminate()
        process.wait(timeout=60)
        reader.join()


def cpu_seconds(process: "subprocess.Popen[str]") -> float:
    """Processor time that the process has used, all its threads together. Linux alone."""
    fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _wait_until_ready(port: int) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        connection = HTTPConnection("127.0.0.1", port, timeout=START_S)
        connection.request("GET", "/readyz")
        status = connection.getresponse().status
        connection.close()
        if status == HTTPStatus.OK:
            return
        time.sleep(0.2)
    raise RuntimeError(f"the service was not ready after {START_S:.0f} s")


def _read(process: "subprocess.Popen[str]", ports: "Queue[int | None]") -> None:
    """Pass on what the service says, and the port from it."""
    assert process.stderr is not None
    with process.stderr as lines:
        for line in lines:
            found = re.search(r"serving at http://[^/]*:(\d+)/", line)
            if found:
                ports.put(int(found[1]))
            else:
                sys.stderr.write(line)
    ports.put(None)
