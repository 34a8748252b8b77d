"""How a command starts (quickly) and ends (with one line and a code), in processes of its own."""

import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from api.cli.guard import run_guarded
from api.cli.session import collector_paused
from api.exit_codes import ExitCode
from sightline import __version__
from sightline.errors import OutOfSpace
from tests.api.cli.conftest import ROOT, Run, start

HELP_AT_MOST_S = 0.5  # of processor time; it takes about 0.25 s
HEAVY = ("torch", "transformers", "faiss", "sqlalchemy", "pydantic_settings", "pyarrow")


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = f"""
import sys, time
from api.cli import main
assert main(["--help"]) == 0
heavy = [name for name in {HEAVY!r} if name in sys.modules]
assert not heavy, heavy
assert time.process_time() < {HELP_AT_MOST_S}, time.process_time()
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE)


def test_a_query_by_an_item_loads_no_network(indexed: Path) -> None:
    code = """
import sys
from api.cli import main
assert main(["search", "--like", "red.png", "--paths"]) == 0
heavy = [name for name in ("torch", "transformers", "pyarrow") if name in sys.modules]
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.PIPE)


def test_importing_faiss_is_no_part_of_a_query_s_time(indexed: Path) -> None:
    code = """
import sys
import search.engine
from api.cli import main

class Clock(search.engine.Stopwatch):
    def __init__(self):
        assert "faiss" in sys.modules
        super().__init__()

search.engine.Stopwatch = Clock
assert main(["search", "--like", "red.png", "--paths"]) == 0
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.PIPE)


def test_the_collector_goes_on_after_a_pause_as_it_was() -> None:
    assert gc.isenabled()
    with collector_paused():
        assert not gc.isenabled()
        with collector_paused():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_the_version(run: Run) -> None:
    assert run("--version").out == f"sightline {__version__}\n"


@pytest.mark.parametrize("arguments", [["serch"], ["search", "--colour"], ["collections", "shw"]])
def test_a_usage_error_has_code_2_and_no_traceback(run: Run, arguments: list[str]) -> None:
    outcome = run(*arguments)
    assert outcome.code == 2
    assert "Usage: sightline" in outcome.err
    assert "Traceback" not in outcome.err


def test_a_setting_that_cannot_be_used_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTLINE_BATCH_IMAGES", "many")
    outcome = run("collections")
    assert outcome.code == 11
    assert outcome.err.startswith("sightline: SIGHTLINE_BATCH_IMAGES='many'")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["search", "--like", "red.png", "--paths"], ExitCode.BROKEN_PIPE),
        (["search", "--like", "red.png", "--json"], ExitCode.BROKEN_PIPE),
        (["search", "--like", "red.png"], ExitCode.BROKEN_PIPE),
        (["runs"], ExitCode.BROKEN_PIPE),
        (["--help"], 1),  # typer's own, before any command of ours has begun
    ],
)
def test_a_broken_pipe_ends_silently(indexed: Path, arguments: list[str], code: int) -> None:
    process = start(*arguments)
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, b"")


def raises(error: BaseException) -> int:
    def command() -> None:
        raise error

    return run_guarded(command)


def test_a_domain_error_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert raises(OutOfSpace("the disk\n is full")) == 64
    assert capfd.readouterr().err == "sightline: the disk is full\n"


def test_a_bug_says_how_to_see_the_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    assert raises(ZeroDivisionError("division by zero\nand more")) == ExitCode.UNEXPECTED
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("sightline: unexpected ZeroDivisionError: division by zero (")
    assert "SIGHTLINE_DEBUG=1" in line


def test_the_traceback_comes_when_asked_for(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTLINE_DEBUG", "1")
    for error in (ZeroDivisionError("division by zero"), OutOfSpace("the disk is full"), KeyboardInterrupt()):
        raises(error)
        assert "Traceback" in capfd.readouterr().err


def test_an_interrupt_is_one_line_that_says_what_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    assert raises(KeyboardInterrupt()) == 130
    assert capfd.readouterr().err == "sightline: stopped; everything that was committed is kept\n"
    assert raises(KeyboardInterrupt("stopped; 5 items are kept")) == 130
    assert capfd.readouterr().err == "sightline: stopped; 5 items are kept\n"


def test_logs_go_to_stderr_when_asked_for(indexed: Path) -> None:
    began = time.monotonic()
    process = start("-v", "search", "--like", "red.png", "--paths")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, time.monotonic() - began
    assert b"INFO search.engine: answered '[like red.png]' over collection default: 5 hits" in err
    assert b"INFO" not in out
