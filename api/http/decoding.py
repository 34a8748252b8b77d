"""Pictures that strangers send, decoded in processes that may die of them without taking more than the one request.

A decoder is C code that reads what anybody may have made: it can crash, hang, or ask for all the memory that there is. The processes live
on from picture to picture, because starting one takes a tenth of a second; one that died or had to be ended is replaced later.
"""

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from PIL import Image

import sightline
from sightline.encoders.decoding_child import REQUEST, RESPONSE
from sightline.encoders.image_input import DecodedImage
from sightline.errors import ImageTooLarge, Overloaded, UnreadableImage

logger = logging.getLogger(__name__)

DEFAULT_SIDE = 768
"""Pixels that the shorter side keeps: twice what the largest of the usual encoders read (384), so that little is lost by resizing twice."""

_CHILD = "sightline.encoders.decoding_child"
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR")
"""Of the environment; the rest may hold what a picture should never get to see, such as a database's password."""


class _Died(Exception):
    """The process ended before it had answered."""


@dataclass(frozen=True, slots=True)
class DecodingLimits:
    """What one picture may take."""

    max_pixels: int = 100_000_000
    memory_bytes: int = 2_500_000_000  # beside what the process has when it begins
    timeout_s: float = 20.0


class PictureDecoder:
    """Decodes pictures, a few at once. Thread-safe; starts nothing before it is asked, and ends what it started when closed or gone."""

    def __init__(self, limits: DecodingLimits, *, num_processes: int = 2) -> None:
        self._limits = limits
        self._free = threading.BoundedSemaphore(num_processes)
        self._idle: list[_Process] = []
        self._started: set[_Process] = set()
        self._lock = threading.Lock()
        self._end = weakref.finalize(self, _end_all, self._started)

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Of the processes that there are."""
        with self._lock:
            return tuple(each.process_id for each in self._started)

    def close(self) -> None:
        """End the processes."""
        self._end()

    def decode(self, content: bytes, *, name: str = "the picture", side: int = DEFAULT_SIDE) -> DecodedImage:
        """The picture upright in RGB, made smaller where its shorter side has more than `side` pixels.

        Raises `UnreadableImage` and `ImageTooLarge` by `name`, also for one that ended the process or took too long, and `Overloaded` where
        no process gets free in time.
        """
        if not content:
            raise UnreadableImage(name, reason="it is empty")
        with self._process() as process:
            try:
                return process.decode(content, name=name, side=side, limits=self._limits)
            except _Died as error:
                reason = f"decoding it took longer than {self._limits.timeout_s:g} s" if process.is_late else "decoding it failed badly"
                logger.warning("a decoding process ended: %s (%s)", reason, process.how_it_ended())
                raise UnreadableImage(name, reason=f"{reason}; save it anew with another program, or smaller") from error

    @contextmanager
    def _process(self) -> "Iterator[_Process]":
        """One for this caller alone, started where none is idle; one that fails is not used again."""
        if not self._free.acquire(timeout=self._limits.timeout_s):
            raise Overloaded("more pictures are being decoded than can be in time; try again in a moment")
        try:
            process = self._taken()
            try:
                yield process
            except UnreadableImage:
                self._give_back(process)
                raise
            except BaseException:
                self._give_up(process)
                raise
            else:
                self._give_back(process)
        finally:
            self._free.release()

    def _taken(self) -> "_Process":
        with self._lock:
            while self._idle:
                process = self._idle.pop()
                if process.is_alive:
                    return process
                self._started.discard(process)
                process.end()
        process = _Process(memory_bytes=self._limits.memory_bytes)
        with self._lock:
            self._started.add(process)
        return process

    def _give_back(self, process: "_Process") -> None:
        if process.is_spent:
            self._give_up(process)
            return
        with self._lock:
            self._idle.append(process)

    def _give_up(self, process: "_Process") -> None:
        with self._lock:
            self._started.discard(process)
        process.end()


class _Process:
    """One process; one caller at a time."""

    def __init__(self, *, memory_bytes: int) -> None:
        command = [sys.executable, "-P", "-m", _CHILD, str(memory_bytes)]
        passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        root = str(Path(sightline.__file__).parent.parent)
        self._popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=passed_on | {"PYTHONPATH": root, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C at a terminal is for the service, which finishes what it began
        )
        self.is_late = False
        self.is_spent = False  # it died, or may be out of step

    @property
    def process_id(self) -> int:
        """Of the operating system."""
        return self._popen.pid

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._popen.poll() is None

    def decode(self, content: bytes, *, name: str, side: int, limits: DecodingLimits) -> DecodedImage:
        """Raises `_Died`, `UnreadableImage`, `ImageTooLarge`."""
        clock = threading.Timer(limits.timeout_s, self._kill_late)
        clock.daemon = True
        clock.start()
        try:
            return self._asked(content, name=name, side=side, max_pixels=limits.max_pixels)
        finally:
            clock.cancel()

    def end(self) -> None:
        """Kill it, and wait until it is gone."""
        self._popen.kill()
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._popen.wait()

    def how_it_ended(self) -> str:
        """For the log."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout=1.0)
        return f"exit status {self._popen.returncode}"

    def _asked(self, content: bytes, *, name: str, side: int, max_pixels: int) -> DecodedImage:
        requests, responses = self._popen.stdin, self._popen.stdout
        assert requests is not None
        assert responses is not None
        self.is_spent = True  # until all of the answer is here
        try:
            requests.write(REQUEST.pack(len(content), max_pixels, side))
            requests.write(content)
            requests.flush()
            (num_bytes,) = RESPONSE.unpack(_read(responses, RESPONSE.size))
            said = json.loads(_read(responses, num_bytes))
            size = tuple(said.get("size", (0, 0)))
            pixels = _read(responses, 3 * size[0] * size[1])
        except OSError as error:
            raise _Died from error
        self.is_spent = False
        if "reason" in said:
            # What follows the semicolon names a setting of the command line.
            kind, reason = (
                (ImageTooLarge, said["reason"].split("; SIGHTLINE")[0]) if said["is_too_large"] else (UnreadableImage, said["reason"])
            )
            raise kind(name, reason=reason)
        width, height = said["original"]
        if width * height == 1:
            raise UnreadableImage(name, reason="it is a single pixel, which shows nothing")
        return DecodedImage(Image.frombytes("RGB", size, pixels), width, height)

    def _kill_late(self) -> None:
        self.is_late = True
        self._popen.kill()


def _read(responses: IO[bytes], num_bytes: int) -> bytes:
    content = responses.read(num_bytes)
    if len(content) < num_bytes:
        raise _Died
    return content


def _end_all(started: set[_Process]) -> None:
    for process in list(started):
        process.end()
    started.clear()
