"""The command line as a person runs it: in this process for speed, in one of its own where signals and pipes are the matter."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from api.cli import main
from sightline.logs import LOGGER_ROOTS

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def loggers_as_before() -> Iterator[None]:
    """Commands configure logging for their process, which here is that of all tests."""
    before = {name: (logging.getLogger(name).level, list(logging.getLogger(name).handlers)) for name in LOGGER_ROOTS}
    yield
    for name, (level, handlers) in before.items():
        logging.getLogger(name).setLevel(level)
        logging.getLogger(name).handlers[:] = handlers


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, tiny_encoder_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of the test's own, and no terminal to fit into."""
    for name in [name for name in os.environ if name.startswith("SIGHTLINE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SIGHTLINE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("SIGHTLINE_ENCODER", str(tiny_encoder_path))
    monkeypatch.setenv("SIGHTLINE_DEVICE", "cpu")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs `sightline` with the arguments and gives its exit code and what it wrote."""

    def run(*arguments: object) -> Outcome:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def indexed(run: Run, photos: Path) -> Path:
    """The photos, in the default collection."""
    outcome = run("index", photos)
    assert outcome.code == 0, outcome.err
    return photos


def start(*arguments: object, **environment: str) -> subprocess.Popen[bytes]:
    """`sightline` as a process of its own."""
    command = [sys.executable, "-c", "import sys; from api.cli import main; sys.exit(main())", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
