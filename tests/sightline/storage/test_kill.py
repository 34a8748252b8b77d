"""`kill -9` at any point leaves the old state or the new one, and nothing that the next writer does not sweep."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[3]


_STRIDE = 4
"""Every fourth step, the first by database, in CI; `kill_at_every_step` with a stride of 1 takes them all."""


def _kill_at_steps(folder: Path, scenario: str, database_url: str | None) -> int:
    # One thread, because threads don't survive a fork.
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    arguments = [str(folder), scenario, "0" if database_url is None else "2", str(_STRIDE), *([database_url] if database_url else [])]
    command = [sys.executable, "-m", "tests.sightline.storage.kill_at_every_step", *arguments]
    done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["commit", "compact", "rebias", "patch"])
def test_a_writer_killed_before_its_steps_loses_nothing(tmp_path: Path, database_url: str | None, scenario: str) -> None:
    assert _kill_at_steps(tmp_path / "store", scenario, database_url) > 30


@pytest.mark.slow
def test_an_opening_killed_before_its_steps_is_made_good_by_the_next(tmp_path: Path) -> None:
    assert _kill_at_steps(tmp_path, "open", None) > 30
