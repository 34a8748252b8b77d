"""The pages say what the code does: settings, commands, options, examples, links."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from PIL import Image

from api.cli.app import app
from api.http.problems import STATUS_BY_ERROR
from api.http.settings import ServiceSettings
from sightline.settings import Settings, default_store

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = (ROOT / "README.md").read_text()


def commands_in(page: str) -> Iterator[list[str]]:
    """The words of each `sightline ...` and `make ...` in code, one command at a time, without comments."""
    blocks = re.findall(r"```console\n(.*?)```", page, flags=re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page, flags=re.DOTALL))
    for line in [*lines, *spans]:
        for part in re.split(r" && | \| ", line):
            if part.startswith(("sightline ", "make ")) and "COMMAND" not in part:
                yield shlex.split(part, comments=True)


def parse(arguments: list[str]) -> None:
    """Parses a command line as `sightline` would, without running it; fails on what doesn't exist.

    A command that is only mentioned, with nothing after its name, need not be complete.
    """
    command = typer.main.get_command(app)
    rest = [argument for argument in arguments if argument != "--help"]
    while rest and (members := getattr(command, "commands", None)):
        context = command.make_context("sightline", rest)
        rest = [*context._protected_args, *context.args]
        if rest:
            assert rest[0] in members, f"there is no command {' '.join(arguments)!r}"
            command, rest = members[rest[0]], rest[1:]
    if rest:
        command.make_context("sightline", rest)


def test_settings_are_documented_as_they_are() -> None:
    rows = re.findall(r"^\| `(SIGHTLINE_\w+)` \| (.*?) \| (.*?) \|$", (ROOT / "docs" / "settings.md").read_text(), flags=re.MULTILINE)
    home_relative = f"`~/{default_store().relative_to(Path.home()).as_posix()}`"
    expected = [
        (
            f"SIGHTLINE_{name.upper()}",
            home_relative if name == "store" else "none" if field.default is None else f"`{field.default}`",
            field.description,
        )
        for name, field in Settings.model_fields.items()
    ]
    assert rows == expected


def test_settings_of_the_service_are_documented_as_they_are() -> None:
    page = (ROOT / "docs" / "service.md").read_text()
    rows = re.findall(r"^\| `(SIGHTLINE_SERVICE_\w+)` \| (.*?) \| (.*?) \|$", page, flags=re.MULTILINE)
    expected = [
        (f"SIGHTLINE_SERVICE_{name.upper()}", "none" if field.default in (None, ()) else f"`{field.default}`", field.description)
        for name, field in ServiceSettings.model_fields.items()
    ]
    assert rows == expected


def test_problems_of_the_service_are_documented_as_they_are() -> None:
    page = (ROOT / "docs" / "service.md").read_text()
    rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \| (.*?) \|$", page, flags=re.MULTILINE)
    assert rows == [(str(int(status)), error.__name__, (error.__doc__ or "").splitlines()[0]) for error, status in STATUS_BY_ERROR.items()]


def test_the_page_of_commands_is_what_the_help_says(tmp_path: Path) -> None:
    page = tmp_path / "commands.md"
    write = ["api.cli.app", "utils", "docs", "--name", "sightline", "--title", "Commands", "--output", str(page)]
    subprocess.run([Path(sys.executable).with_name("typer"), *write], cwd=ROOT, check=True, capture_output=True)
    assert page.read_text() == (ROOT / "docs" / "commands.md").read_text(), "`make fix` writes docs/commands.md anew"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "commands.md"], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_in_the_pages_exist_with_their_options(page: Path) -> None:
    for words in commands_in(page.read_text()):
        if words[0] == "sightline":
            parse(words[1:])


def test_make_targets_in_the_pages_exist_and_help_lists_each() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    assert phony is not None
    targets = set(phony[1].split())
    assert set(re.findall(r'^\t@echo "make ([a-z-]+) ', makefile, flags=re.MULTILINE)) == targets - {"help"}
    for page in PAGES:
        assert {words[1] for words in commands_in(page.read_text()) if words[0] == "make"} <= targets, page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert missing == []


def test_decisions_are_numbered_in_order_and_keep_to_a_page() -> None:
    decisions = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [int(path.name[:4]) for path in decisions] == list(range(1, len(decisions) + 1))
    for path in decisions:
        lines = path.read_text().splitlines()
        assert lines[0].startswith(f"# {path.name[:4]}: ")
        assert len(lines) <= 60, path


def test_the_python_example_of_the_readme_runs(
    tmp_path: Path, tiny_encoder_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 48), "red").save(tmp_path / "photos" / "red.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIGHTLINE_ENCODER", str(tiny_encoder_path))

    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})

    assert "red.png" in capsys.readouterr().out
