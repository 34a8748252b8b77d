"""Answers as tables: the last figure of a row is the one that the rows are ordered by."""

import dataclasses
from pathlib import Path

import pytest

from api.cli.answers import print_answer
from search.engine import Hit
from tests.api.test_contact_sheet import answer, hit


def columns(capsys: pytest.CaptureFixture[str], *hits: Hit) -> tuple[list[str], list[list[str]]]:
    print_answer(answer(*hits))
    head, _, *rows = capsys.readouterr().out.splitlines()
    return head.split("   "), [row.split() for row in rows[: len(hits)]]


def test_one_figure_where_there_is_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    head, rows = columns(capsys, hit(1, tmp_path / "a.png"), hit(2, tmp_path / "b.png"))
    assert [title.strip() for title in head[:2]] == ["rank", "similarity"]
    assert [row[1] for row in rows] == ["0.990", "0.980"]


def test_the_cosine_and_what_it_is_less_its_bias(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    hits = [
        dataclasses.replace(hit(1, tmp_path / "a.png"), similarity=0.3, adjusted_similarity=0.25),
        dataclasses.replace(hit(2, tmp_path / "b.png"), similarity=0.4, adjusted_similarity=0.1),
    ]
    head, rows = columns(capsys, *hits)
    assert [title.strip() for title in head[:3]] == ["rank", "similarity", "less bias"]
    assert [row[1:3] for row in rows] == [["0.300", "0.250"], ["0.400", "0.100"]]


def test_a_merged_ranking_shows_what_it_is_ordered_by(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    hits = [
        dataclasses.replace(hit(rank, tmp_path / f"{rank}.png"), similarity=0.1 * rank, centred_similarity=0.5 / rank) for rank in (1, 2)
    ]
    head, rows = columns(capsys, *hits)
    assert "similarity (centred)" in [title.strip() for title in head]
    assert [row[1] for row in rows] == ["0.500", "0.250"]
