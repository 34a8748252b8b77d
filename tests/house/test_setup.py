"""What a newcomer meets first: the making of the environment, and the demo."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


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


@pytest.mark.slow
def test_the_demo_finds_the_cat_the_coffee_and_the_photographer_and_does_so_again(tmp_path: Path) -> None:
    for _ in range(2):
        demo = run(sys.executable, "scripts/demo.py", "--folder", tmp_path)
        assert demo.returncode == 0, demo.stdout + demo.stderr
        assert best_matches(demo.stdout) == ["chelsea.png", "coffee.png", "camera.png"]
    assert {path.name for path in (tmp_path / "answers").iterdir()} == {"a-cat.png", "a-cup-of-coffee.png", "a-man-taking-a-photograph.png"}
