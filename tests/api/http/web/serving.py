"""The real service in a process of its own, as `sightline serve` starts it."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

START_DEADLINE_S = 180.0
"""Of a process that imports torch, on a machine with other things to do."""

STOP_DEADLINE_S = 60.0

_ADDRESS = re.compile(r"serving at (http://\S+?)/ ")


def sightline(*arguments: str | Path, store: Path) -> subprocess.CompletedProcess[str]:
    """Runs one command beside this Python."""
    return subprocess.run(_command(*arguments, store=store), capture_output=True, text=True, check=True, env=_environment({}))


@contextmanager
def served(store: Path, *, settings: Mapping[str, str] | None = None) -> Iterator[str]:
    """The address of a service over the store, which ends with the block; `settings` are environment variables."""
    with subprocess.Popen(
        _command("serve", "--port", "0", store=store), stderr=subprocess.PIPE, text=True, env=_environment(settings or {})
    ) as process:
        guard = threading.Timer(START_DEADLINE_S, process.kill)
        guard.start()
        try:
            yield _address_of(process)
        finally:
            guard.cancel()
            process.terminate()
            process.wait(STOP_DEADLINE_S)


def _address_of(process: subprocess.Popen[str]) -> str:
    """Reads until the line that says where it serves; what is logged afterwards is read by a thread, so that no pipe fills up."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        found = _ADDRESS.search(line)
        if found is not None:
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return found[1]
    raise AssertionError(f"the service did not start: {''.join(said)}")


def _command(*arguments: str | Path, store: Path) -> list[str | Path]:
    return [Path(sys.executable).with_name("sightline"), "--store", store, *arguments]


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("SIGHTLINE_")} | dict(settings)
