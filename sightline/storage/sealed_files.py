"""Files that are written once and sealed: durable when a writer says so, and refused once they are not what was written."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from errno import EDQUOT, EFBIG, ENOSPC
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.errors import CorruptSegment, OutOfSpace

_WORTH_TELLING_BYTES = 1_000_000
"""Less than this is not why a disk is full."""


class DamagedFile(CorruptSegment):
    """A file of a segment that is not what its manifest says; the message adds what to do, `reason` is the cause alone."""

    def __init__(self, path: Path, *, reason: str) -> None:
        super().__init__(f"{path} is damaged: {reason}; `sightline verify` lists all damage and what to do about it")
        self.path = path
        self.reason = reason


@dataclass(frozen=True, slots=True)
class FileSeal:
    """What a file must be."""

    size_bytes: int
    sha256: str


def map_file(path: Path, seal: FileSeal, *, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The file as an array over its memory map. Raises `DamagedFile` where its size is not that of the seal, FileNotFoundError."""
    size_bytes = path.stat().st_size
    if size_bytes != seal.size_bytes:
        raise DamagedFile(path, reason=f"it has {size_bytes:,} bytes and {seal.size_bytes:,} were written")
    assert size_bytes == int(np.prod(shape)) * dtype.itemsize
    # A plain array over the mapping: numpy's memmap class costs microseconds at every slice.
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", shape=shape))


def check_file(path: Path, seal: FileSeal) -> None:
    """Compare the checksum of a file, all of which is read. Raises `DamagedFile`."""
    if file_sha256(path) != seal.sha256:
        raise DamagedFile(path, reason="its checksum is not the one in its manifest: bytes have changed")


def file_sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def translated_disk_errors(folder: Path) -> Iterator[None]:
    """Turn a full disk, quota or file size limit into `OutOfSpace`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (ENOSPC, EDQUOT, EFBIG):
            raise
        raise OutOfSpace(f"no room left in {folder}: free some space and run again; what was committed is intact") from error


def write_synced(path: Path, content: bytes) -> FileSeal:
    """Write a file so that it is there whole or not at all, and on disk when this returns (its name: after `sync_folder`)."""
    unfinished = path.with_name(path.name + ".part")
    with unfinished.open("wb") as file:
        file.write(content)
        sync_and_close(file)
    unfinished.replace(path)
    return FileSeal(len(content), hashlib.sha256(content).hexdigest())


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    if os.name != "posix":  # elsewhere a folder can't be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_and_close(file: Any) -> None:
    """End a file that was written, with its content on disk."""
    file.flush()
    os.fsync(file.fileno())
    file.close()


def seal_existing(path: Path) -> FileSeal:
    """Put a file that was written already on disk, and seal it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return FileSeal(path.stat().st_size, file_sha256(path))


def require_room(folder: Path, needed_bytes: int, *, min_free_bytes: int) -> None:
    """Raises `OutOfSpace` where writing `needed_bytes` would leave less than `min_free_bytes` on the disk."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes >= needed_bytes + min_free_bytes:
        return
    wanted = []
    if needed_bytes >= _WORTH_TELLING_BYTES or not min_free_bytes:
        wanted.append(f"{needed_bytes / 1e6:,.1f} MB are needed")
    if min_free_bytes:
        wanted.append(f"{min_free_bytes / 1e6:,.1f} MB are to stay free (SIGHTLINE_MIN_FREE_BYTES)")
    raise OutOfSpace(
        f"{free_bytes / 1e6:,.1f} MB are free in {folder}; {' and '.join(wanted)}: make room and run again; what was committed is intact"
    )
