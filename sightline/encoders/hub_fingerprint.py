"""The fingerprint of a Hugging Face model: a digest of every byte that decides its embeddings.

Weights are gigabytes, so the digest of each large file is remembered in the user's cache folder, keyed by what the file system changes
whenever the file changes. It is a cache: losing it costs seconds.
"""

import hashlib
import json
import logging
import os
import time
from pathlib import Path

from sightline.encoders.hub_files import ModelFiles

logger = logging.getLogger(__name__)

PIPELINE_VERSION = 1
"""Raised when our own part (truncation, padding, lower case, pooling) changes what a model's embeddings are."""

REMEMBERED_SIZE_BYTES = 8_000_000
"""Smaller files are digested faster than a remembered digest is looked up and checked."""

SETTLED_AFTER_NS = 2_000_000_000
"""A file changed less than so long ago may change again within the clock's tick; its digest is not remembered (FAT ticks every 2 s)."""


def model_fingerprint(files: ModelFiles, *, cache_folder: Path | None = None) -> str:
    """Hex digest of the model's configuration, image processor, tokeniser and weights.

    The same files give the same fingerprint wherever they lie. The first time it reads every byte (about a second a gigabyte);
    `cache_folder` is by default `sightline/digests` in the user's cache folder.
    """
    cache = default_digest_cache() if cache_folder is None else cache_folder
    digest = hashlib.sha256(f"hub encoder {PIPELINE_VERSION}\n".encode())
    for name in files.file_names:
        digest.update(f"{name} {_file_digest(files.folder / name, cache_folder=cache)}\n".encode())
    return digest.hexdigest()


def default_digest_cache() -> Path:
    """Where digests of large files are remembered."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sightline" / "digests"


def _file_digest(path: Path, *, cache_folder: Path) -> str:
    real = path.resolve()  # in the hub's cache a link to a blob
    with real.open("rb") as file:
        state = os.fstat(file.fileno())
        if state.st_size < REMEMBERED_SIZE_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()
        identity = [str(real), state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns]
        remembered = cache_folder / f"{hashlib.sha256(json.dumps(identity).encode()).hexdigest()}.sha256"
        known = _recall(remembered)
        if known is not None:
            return known
        started_s = time.monotonic()
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        logger.info("%s: %d bytes digested in %.1f s", real, state.st_size, time.monotonic() - started_s)
        is_unchanged = os.fstat(file.fileno()).st_mtime_ns == state.st_mtime_ns
    if is_unchanged and time.time_ns() - state.st_mtime_ns > SETTLED_AFTER_NS:
        _remember(remembered, digest)
    return digest


def _recall(remembered: Path) -> str | None:
    try:
        digest = remembered.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None
    return digest if len(digest) == hashlib.sha256().digest_size * 2 else None


def _remember(remembered: Path, digest: str) -> None:
    temporary = remembered.with_suffix(f".{os.getpid()}.partial")
    try:
        remembered.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(digest, encoding="ascii")
        temporary.replace(remembered)
    except OSError as error:  # a read-only home only costs the time of another reading
        logger.debug("%s: the digest is not remembered: %s", remembered, error)
