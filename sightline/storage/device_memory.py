"""The memory of a GPU that rows may take: asked once, shared by all collections, free again with the last snapshot that used it.

torch is imported, and CUDA asked, for the first segment that is large enough to be worth it, and only where there is a driver: most
commands search nothing, and most machines have no GPU.
"""

from __future__ import annotations

import ctypes
import logging
import sys
import threading
from typing import TYPE_CHECKING
from weakref import WeakSet

from sightline.storage.index_plan import DEVICE_MEMORY_SHARE, DEVICE_MIN_ROWS, belongs_on_device
from sightline.storage.segment_rows import SegmentRows

if TYPE_CHECKING:
    from sightline.storage.device_index import DeviceIndex

logger = logging.getLogger(__name__)


def device_memory(name: str) -> DeviceMemory | None:
    """For `auto`, `cpu`, `cuda` or `mps`, the word that says where networks run: None where the processor is to search.

    An Apple GPU shares the processor's memory, whose bandwidth is what bounds a search on either. Where CUDA is named and there is none
    the processor searches as well; that it is missing is said by the network that has to run there.
    """
    return DeviceMemory("cuda") if name in ("auto", "cuda") else None


class DeviceMemory:
    """Which segments are held on one torch device. Thread-safe; may be shared by stores."""

    def __init__(self, device: str, *, budget_bytes: int | None = None, min_rows: int = DEVICE_MIN_ROWS) -> None:
        self._device = device
        self._budget_bytes = budget_bytes  # None: a share of what is free when it is first needed
        self._min_rows = min_rows
        self._indexes: WeakSet[DeviceIndex] = WeakSet()
        self._lock = threading.Lock()

    def load(self, rows: SegmentRows) -> DeviceIndex | None:
        """`rows` on the device, one segment at a time; None where they are too few or would take more than is left.

        Raises `MemoryError` where others have taken the room that there was.
        """
        if len(rows) < self._min_rows:
            return None
        with self._lock:
            if self._budget_bytes is None:
                self._budget_bytes = _free_share_bytes(self._device)
            left_bytes = self._budget_bytes - sum(index.memory_bytes for index in self._indexes)
            if not belongs_on_device(len(rows), rows.index_dim, left_bytes=left_bytes, min_rows=self._min_rows):
                return None
            from sightline.storage.device_index import DeviceIndex  # and with it torch

            index = DeviceIndex(rows, self._device)
            self._indexes.add(index)
        return index


def _free_share_bytes(device: str) -> int:
    """What rows may take of a CUDA device; 0 where there is none."""
    if not _has_driver():
        return 0
    from sightline.storage.device_index import free_bytes

    budget_bytes = int(DEVICE_MEMORY_SHARE * free_bytes(device))
    logger.info("rows may take %.2f GB of device %s", budget_bytes / 1e9, device)
    return budget_bytes


def _has_driver() -> bool:
    """Whether NVIDIA's driver is installed; torch says the same after a second or two, which its import takes."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True
