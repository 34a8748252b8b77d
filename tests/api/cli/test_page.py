"""docs/cli.md says what the code does."""

import dataclasses
import re

import typer

from api.cli.app import app
from search.engine import Answer, Hit
from tests.api.cli.conftest import ROOT

PAGE = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")


def options_of_search() -> set[str]:
    command = typer.main.get_command(app)
    context = command.make_context("sightline", ["search"])
    search = getattr(command, "commands")["search"]  # noqa: B009  # typer hands out a group without saying so
    return {option for parameter in search.get_params(context) for option in parameter.opts}


def test_the_table_of_a_hit_has_its_fields_in_order() -> None:
    section = PAGE.partition("| field of a hit |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE) == [field.name for field in dataclasses.fields(Hit)]


def test_the_other_fields_of_the_answer_are_named() -> None:
    (sentence,) = re.findall(r"Beside `hits` the object has (.*)\.", PAGE)
    # Where the next page begins is a cursor over HTTP and nothing that the command line writes, and so is the number it belongs to.
    assert {"hits", "next_place", "collection_id", *re.findall(r"`(\w+)`", sentence)} == {
        field.name for field in dataclasses.fields(Answer)
    }


def test_every_way_to_ask_and_every_form_of_answer_is_an_option() -> None:
    ways = {"--image", "--like", "--not", "--modality", "--json", "--paths", "-0", "--sheet", "--open"}
    assert ways <= options_of_search()
    assert all(f"`{way}" in PAGE or f" {way} " in PAGE for way in ways)
