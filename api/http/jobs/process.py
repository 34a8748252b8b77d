"""The process of a job as the service sees it: started, listened to, told to stop."""

import json
import os
import selectors
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import api
from api.http.jobs.specs import Order
from sightline.types import JsonObject

_CHILD = "api.http.jobs.child"
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""A job leaves the second core to the searches."""

_READ_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Told:
    """A line of the process."""

    what: str  # progress, done, failed or interrupted
    value: object


class JobProcess:
    """One process, in a group and session of its own, so that a Ctrl-C for the service is none for it."""

    def __init__(self, order: Order) -> None:
        root = str(Path(api.__file__).parents[1])
        paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", _CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **_ONE_THREAD, "PYTHONPATH": paths},
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._process.stdout, selectors.EVENT_READ)
        self._unread = b""
        self.has_ended = False
        try:
            self._process.stdin.write(order.model_dump_json().encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it died already, which the next reading finds

    @property
    def process_id(self) -> int:
        """The system's."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Negative: the signal that ended it; None while it lives."""
        return self._process.poll()

    def read(self, *, timeout_s: float) -> list[Told]:
        """What it has told, waiting for something until `timeout_s`; `has_ended` is true once there will be no more."""
        assert self._process.stdout is not None
        if not self._selector.select(timeout_s):
            return []
        read = os.read(self._process.stdout.fileno(), _READ_BYTES)
        if not read:
            self.has_ended = True
        *lines, self._unread = (self._unread + read).split(b"\n")
        return [Told(what, value) for line in lines for what, value in _object(line).items()]

    def interrupt(self) -> None:
        """Have it commit what is whole and stop."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End it and what it started, now; quiet where it has ended."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End it if it still lives, and give everything back."""
        self.kill()
        self._process.wait()
        self._selector.close()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


def _object(line: bytes) -> JsonObject:
    told: JsonObject = json.loads(line)
    return told
