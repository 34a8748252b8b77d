"""Memory does not grow with the number of pictures."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.indexer.corpus import write_picture

resource = pytest.importorskip("resource", reason="needs the resource module, which Windows does not have")

_ROOT = Path(__file__).parents[2]
_PEAK = """
import resource, sys
from tests.indexer.index_folder import main
main(*sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def _peak_bytes(store_folder: Path, photos: Path) -> int:
    command = [sys.executable, "-c", _PEAK, str(store_folder), str(photos)]
    output = subprocess.run(
        command, cwd=_ROOT, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ).stdout
    return int(output.splitlines()[-1]) * (1 if sys.platform == "darwin" else 1024)


def test_peak_memory_is_flat_in_the_number_of_pictures(tmp_path: Path) -> None:
    """Ten times as many pictures of 2.4 MB each, decoded: held all at once, they would be 500 MB more."""
    for name, count in (("few", 25), ("many", 250)):
        picture = write_picture(tmp_path / name / "0.png", side=900)
        for serial in range(1, count):
            (tmp_path / name / f"{serial}.png").hardlink_to(picture)

    few, many = (_peak_bytes(tmp_path / f"store-{name}", tmp_path / name) for name in ("few", "many"))

    assert many - few < 15_000_000  # what an allocator and a database's cache may differ by
