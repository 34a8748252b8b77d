"""Skips the tests whose marker asks for something this machine doesn't have, and says what it was.

A pytest plugin, loaded by `tests/conftest.py`. Nothing is skipped silently: pytest prints every reason at the end.
"""

import os
import shutil
from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
"""The research data beside the checkout, for tests marked `shared`."""

HUB_VARIABLE = "SIGHTLINE_TEST_HUB"


def missing(need: str) -> str | None:
    """What is missing for tests with the marker `need`, or None if all is there."""
    match need:
        case "chromium" if not (shutil.which("chromium") or shutil.which("chromium-browser")):
            return "needs Chromium on PATH"
        case "gpu" if not has_cuda():
            return "needs a CUDA device"
        case "hub" if os.environ.get(HUB_VARIABLE) != "1":
            return f"needs the network; {HUB_VARIABLE}=1 runs it"
        case "shared" if not SHARED_DATA.is_dir():
            return "needs the research data in ../shared/data"
        case _:
            return None


def has_cuda() -> bool:
    """Whether torch sees a CUDA device; imports torch only when a test asks."""
    import torch

    return torch.cuda.is_available()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips before any fixture is built."""
    for marker in item.iter_markers():
        reason = missing(marker.name)
        if reason is not None:
            pytest.skip(reason)
