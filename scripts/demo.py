"""Indexes real photographs, asks three questions and opens a page to search them with, through the very commands that a person
would type: `make demo`.

The photographs come inside scikit-image, in the public domain or free of known restrictions, so that nothing is fetched.
Everything goes under one folder (`.demo` by default), which may be deleted at any time; a second run finds it there. The page is
served where somebody is looking, which is where the output is a terminal, until Ctrl-C; elsewhere the demo ends and says how to.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path

from api.exit_codes import EXIT_CODE_BY_ERROR
from sightline.errors import EncoderMismatch

PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
)
"""The photographs among the files of `skimage.data`; the rest are drawings, test patterns and one with a licence of its own."""

QUESTIONS = ("a cat", "a cup of coffee", "a man taking a photograph")

DEFAULT_FOLDER = Path(__file__).resolve().parents[1] / ".demo"


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of the first command that fails, or 0."""
    parser = argparse.ArgumentParser(description="Index real photographs, ask three questions, open a page to search them with.")
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="where everything goes (default: .demo in the checkout)")
    folder: Path = parser.parse_args(arguments).folder.resolve()
    photographs, store, answers = folder / "photographs", folder / "store", folder / "answers"
    copy_photographs(photographs)
    answers.mkdir(exist_ok=True)

    commands = [["index", str(photographs)]]
    for question in QUESTIONS:
        sheet = answers / f"{question.replace(' ', '-')}.png"
        commands.append(["search", question, "-k", "3", "--sheet", str(sheet)])
    for command in commands:
        exit_code = sightline(*command, store=store)
        if exit_code == EXIT_CODE_BY_ERROR[EncoderMismatch]:  # Sightline was upgraded since the demo's last run
            shutil.rmtree(store)
            exit_code = sightline(*command, store=store)
        if exit_code != 0:
            return exit_code
    print(f"\nThe pictures are in {photographs}, the answers as pictures in {answers}.")
    print("Now your own: sightline index ~/Pictures && sightline search 'a dog on the beach'")
    if sys.stdout.isatty():
        return serve(store)
    print(f"A page to search them with: {shlex.join(['sightline', '--store', str(store), 'serve'])}, then open the address that it says")
    return 0


def copy_photographs(to_folder: Path) -> None:
    """Copies the photographs, with their times, so that indexing again finds them unchanged."""
    to_folder.mkdir(parents=True, exist_ok=True)
    for name in PHOTOGRAPHS:
        if not (to_folder / name).exists():
            with as_file(files("skimage.data") / name) as photograph:
                shutil.copy2(photograph, to_folder / name)


def sightline(*arguments: str, store: Path) -> int:
    """Shows one command and runs it beside this Python; its exit code."""
    print("\n$ " + shlex.join(["sightline", *arguments]), flush=True)
    return subprocess.run([program(), *arguments], env=environment(store), check=False).returncode


def serve(store: Path) -> int:
    """Serves the page until Ctrl-C, on a port that is free, and says where; 0, or the service's exit code where it ends by itself."""
    print("\nA page to search them with; open this address:\n\n$ sightline serve --port 0", flush=True)
    interrupted = False
    with subprocess.Popen([program(), "serve", "--port", "0"], env=environment(store)) as service:
        while True:
            try:
                exit_code = service.wait()
            except KeyboardInterrupt:  # the service has got it too, and ends when it has finished what it began
                interrupted = True
                continue
            return 0 if interrupted else exit_code


def program() -> Path:
    """The command beside this Python."""
    return Path(sys.executable).with_name("sightline")


def environment(store: Path) -> dict[str, str]:
    """The person's own settings stay out: the demo must neither write to their database nor need their models."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("SIGHTLINE_")}
    return others | {"SIGHTLINE_STORE": str(store)}


if __name__ == "__main__":
    sys.exit(main())
