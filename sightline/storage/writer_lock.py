"""The lock that makes one writer a store: a file lock in its folder, and an advisory lock where the catalogue is PostgreSQL.

The file lock is the kernel's (`flock`), so a killed process leaves none behind. The advisory lock is for writers on other machines; it
belongs to the connection that the writer writes on, so that a writer that loses it can't commit.
"""

import fcntl
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection, func, select
from sqlalchemy.exc import SQLAlchemyError

from sightline.errors import StoreBusy

LOCK_FILE = "writer.lock"
JOBS_LOCK_FILE = "jobs.lock"
"""Held by the one service of a store that runs its jobs."""

UPLOADS_LOCK_FILE = "uploads.lock"
"""Held by all services of a store that take uploads, together."""

logger = logging.getLogger(__name__)

_ADVISORY_KEY = int.from_bytes(b"sightlin")
_POLL_S = 0.02


def this_process() -> str:
    """Who we are, for the other's message."""
    return f"process {os.getpid()} on {socket.gethostname()}"


@contextmanager
def writer_lock(folder: Path, *, wait_s: float) -> Iterator[None]:
    """Hold the folder's lock. Raises `StoreBusy`, naming the holder, when it is not free within `wait_s`."""
    with (folder / LOCK_FILE).open("ab+", buffering=0) as file:
        if not _wait_for(lambda: _try_flock(file), wait_s=wait_s):
            file.seek(0)
            raise busy(folder, file.read().decode(errors="replace").strip() or "another process")
        with suppress(OSError):  # a disk without room for a name: it is the lock that counts, and a writer may be about to make room
            file.truncate(0)
            file.write(this_process().encode())
        yield
        with suppress(OSError):
            file.truncate(0)


@contextmanager
def held_alone(path: Path) -> Iterator[bool]:
    """Hold a lock file for as long as the context lasts; false where somebody else does."""
    with path.open("a", encoding="utf-8") as file:
        yield _try_flock(file)


@contextmanager
def held_with_others(path: Path, *, if_alone: Callable[[], None]) -> Iterator[None]:
    """Hold a lock file for as long as the context lasts, with any number of others.

    Who finds nobody there calls `if_alone` first, and whoever comes meanwhile waits for that.
    """
    with path.open("a", encoding="utf-8") as file:
        if _try_flock(file):
            if_alone()
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def is_locked(folder: Path) -> bool:
    """Whether a writer is at work in this folder now."""
    try:
        with (folder / LOCK_FILE).open("a", encoding="utf-8") as file:
            return not _try_flock(file)
    except FileNotFoundError:
        return False


def take_advisory_lock(connection: Connection, *, wait_s: float) -> bool:
    """PostgreSQL's lock, held until the connection closes; False when it is not free within `wait_s`."""

    def try_lock() -> bool:
        taken = bool(connection.scalar(select(func.pg_try_advisory_lock(_ADVISORY_KEY))))
        connection.commit()
        return taken

    return _wait_for(try_lock, wait_s=wait_s)


def give_back_advisory_lock(connection: Connection) -> None:
    """Releases it now. A session that is closed keeps it until the server has noticed, and the next writer would be told that it is busy.

    A connection that is broken has lost its session, or will: nothing is raised for it.
    """
    try:
        connection.rollback()  # of whatever an error left open
        connection.scalar(select(func.pg_advisory_unlock(_ADVISORY_KEY)))
        connection.commit()
    except SQLAlchemyError as error:
        logger.debug("the advisory lock goes with its session: %s", error)


def busy(folder: Path, holder: str) -> StoreBusy:
    """The error that names who writes."""
    return StoreBusy(f"the store {folder} is being written by {holder}: wait until that has finished, or stop it")


def _try_flock(file: IO[Any]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_for(attempt: Callable[[], bool], *, wait_s: float) -> bool:
    deadline = time.monotonic() + wait_s
    while not attempt():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True
