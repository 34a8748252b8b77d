"""Every error has an exit code of its own, and the page prints the table that the code has."""

import re
from collections.abc import Iterator
from pathlib import Path

from api.exit_codes import EXIT_CODE_BY_ERROR, ExitCode, exit_code_of
from sightline import errors
from sightline.errors import CollectionNotFound, InvalidQuery, SightlineError

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "exit-codes.md").read_text(encoding="utf-8")


def all_errors(root: type[SightlineError]) -> Iterator[type[SightlineError]]:
    yield root
    for child in root.__subclasses__():
        yield from all_errors(child)


def test_every_class_of_the_tree_is_in_the_table_and_nothing_else() -> None:
    of_the_module = {error for error in all_errors(SightlineError) if error.__module__ == errors.__name__}
    assert set(EXIT_CODE_BY_ERROR) == of_the_module
    assert len(of_the_module) > 20


def test_every_class_is_drawn_in_the_tree_of_the_docstring() -> None:
    drawn = re.findall(r"^[\s│├└─]*(\w+)", errors.__doc__ or "", flags=re.MULTILINE)
    assert {error.__name__ for error in EXIT_CODE_BY_ERROR} <= set(drawn)


def test_no_two_outcomes_share_a_code() -> None:
    codes = [*EXIT_CODE_BY_ERROR.values(), *ExitCode]
    assert len(codes) == len(set(codes))
    assert all(0 <= code <= 255 for code in codes)


def test_a_class_has_its_own_code_and_an_unknown_one_that_of_its_base() -> None:
    class InvalidHaiku(InvalidQuery):
        pass

    assert exit_code_of(CollectionNotFound("x")) == 32
    assert exit_code_of(InvalidHaiku("too short")) == 12


def test_the_page_prints_the_table() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| (.+) \|$", PAGE, flags=re.MULTILINE)
    expected = [(str(code), error.__name__, (error.__doc__ or "").partition("\n")[0]) for error, code in EXIT_CODE_BY_ERROR.items()]
    assert rows == expected


def test_the_page_prints_the_other_codes() -> None:
    rows = re.findall(r"^\| (\d+) \| ([^`|]+) \|$", PAGE, flags=re.MULTILINE)
    assert [int(code) for code, _ in rows] == [code.value for code in ExitCode]
