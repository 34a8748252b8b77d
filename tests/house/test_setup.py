"""What a newcomer meets first: the making of the environment, and the demo."""

import os
import pty
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEMO_DEADLINE_S = 300.0


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def test_a_missing_python_is_said_in_one_sentence(tmp_path: Path) -> None:
    made = run("scripts/make-venv", "python-that-is-not-there", tmp_path / "venv")
    assert made.returncode == 1
    assert "Python 3.11 or newer; there is no 'python-that-is-not-there'" in made.stderr
    assert not (tmp_path / "venv").exists()


def test_an_old_python_is_said_in_one_sentence(tmp_path: Path) -> None:
    old = tmp_path / "old-python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2" && exit 0\nexit 1\n')
    old.chmod(0o755)
    made = run("scripts/make-venv", old, tmp_path / "venv")
    assert made.returncode == 1
    assert f"Python 3.11 or newer; '{old}' is Python 3.9.2" in made.stderr


def test_an_environment_is_made(tmp_path: Path) -> None:
    made = run("scripts/make-venv", sys.executable, tmp_path / "venv")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "venv" / "bin" / "python").exists()


def best_matches(output: str) -> list[str]:
    """The first photograph named below each question."""
    return [re.findall(r"\w+\.(?:png|jpg)", answer.partition("\n")[2])[0] for answer in output.split("$ sightline search ")[1:]]


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.mark.slow
def test_the_demo_finds_the_cat_the_coffee_and_the_photographer_and_does_so_again(demo_folder: Path) -> None:
    for _ in range(2):
        demo = run(sys.executable, "scripts/demo.py", "--folder", demo_folder)
        assert demo.returncode == 0, demo.stdout + demo.stderr
        assert best_matches(demo.stdout) == ["chelsea.png", "coffee.png", "camera.png"]
        assert f"sightline --store {demo_folder}/store serve" in demo.stdout.splitlines()[-1]
    answers = {path.name for path in (demo_folder / "answers").iterdir()}
    assert answers == {"a-cat.png", "a-cup-of-coffee.png", "a-man-taking-a-photograph.png"}


@pytest.mark.slow
def test_before_a_terminal_the_demo_ends_with_the_page_until_it_is_interrupted(demo_folder: Path) -> None:
    terminal, its_other_end = pty.openpty()
    demo = subprocess.Popen(
        [sys.executable, "scripts/demo.py", "--folder", demo_folder],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=its_other_end,
        stderr=its_other_end,
        start_new_session=True,
    )
    os.close(its_other_end)
    guard = threading.Timer(DEMO_DEADLINE_S, demo.kill)
    guard.start()
    try:
        address = None
        with os.fdopen(terminal, encoding="utf-8", errors="replace") as shown:
            for line in shown:
                found = re.search(r"serving at (http://\S+/) ", line)
                if found is not None:
                    address = found[1]
                    break
            assert address is not None
            with urllib.request.urlopen(address, timeout=DEMO_DEADLINE_S) as page:
                assert b"<title>Sightline</title>" in page.read()
            os.killpg(demo.pid, signal.SIGINT)  # as Ctrl-C does: to all that run there
            assert demo.wait(DEMO_DEADLINE_S) == 0
    finally:
        guard.cancel()
        if demo.poll() is None:
            os.killpg(demo.pid, signal.SIGKILL)
