"""Where the command line writes: tables that fit a terminal and are never cut in a pipe, names that cannot steer the terminal."""

import dataclasses
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 10_000
"""Columns where there is no terminal: nothing is cut, and a table is only as wide as its longest cells."""


class PipeConsole(Console):
    """A console that lets a broken pipe rise to where all errors are caught; rich would exit at once, with code 1."""

    def on_broken_pipe(self) -> NoReturn:
        """Called by rich while it handles the error."""
        raise BrokenPipeError


def stdout_console() -> PipeConsole:
    """For what was asked for."""
    console = PipeConsole(highlight=False, markup=False)
    return console if console.is_terminal else PipeConsole(highlight=False, markup=False, width=PIPE_WIDTH)


def stderr_console() -> PipeConsole:
    """For progress, notes and questions, which must not end in a pipe."""
    return PipeConsole(highlight=False, markup=False, stderr=True)


def new_table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """A table with a line under its head and none elsewhere; columns in `right` are numbers."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=column in right, overflow="fold")
    return table


def cell(value: object) -> Text:
    """A value as table text: a dash where there is none, thousands separated, times to the second, nothing taken for markup."""
    match value:
        case None:
            return Text("-")
        case bool():
            return Text("yes" if value else "no")
        case int():
            return Text(f"{value:,}")
        case datetime():
            return Text(value.astimezone().strftime("%Y-%m-%d %H:%M:%S"))
        case _:
            return Text(printable(str(value)))


def printable(text: str) -> str:
    """The text with everything replaced that would move the cursor, colour the terminal or cannot be encoded."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def shortened(text: str, *, num_characters: int) -> str:
    """The text on one line, with an ellipsis at the end where it is longer than `num_characters`."""
    line = " ".join(text.split())
    return line if len(line) <= num_characters else f"{line[: num_characters - 1].rstrip()}…"


def human_bytes(size_bytes: int) -> str:
    """1234567 -> `1.2 MB`, in powers of a thousand."""
    size = float(size_bytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def write_json(value: Any) -> None:
    """One JSON document on standard output; dataclasses become objects, times ISO 8601, other values their text."""
    json.dump(value, sys.stdout, default=_as_json, ensure_ascii=True, indent=2)
    sys.stdout.write("\n")


def _as_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return value.decode("latin-1") if isinstance(value, bytes) else str(value) if isinstance(value, Path) else repr(value)
