"""Queries as people type them, and what is refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.query import (
    MAX_QUERY_CHARACTERS,
    MAX_QUERY_WORDS,
    MAX_TOP_K,
    LikeItem,
    Picture,
    Query,
    Words,
    checked_top_k,
    parse_query,
    split_weight,
    split_weighted,
)
from sightline.errors import InvalidQuery
from sightline.types import Modality


@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        ("a dog on the beach", [("a dog on the beach", 1.0)]),
        ("  a   dog ", [("a   dog", 1.0)]),
        ("dog::2", [("dog", 2.0)]),
        ("a dog::2 people::-0.5 beach", [("a dog", 2.0), ("people", -0.5), ("beach", 1.0)]),
        ("dog::.5 cat::+3.", [("dog", 0.5), ("cat", 3.0)]),
        ("std::vector in C++", [("std::vector in C++", 1.0)]),
        ("dog::2x", [("dog::2x", 1.0)]),
        ("at 12:30", [("at 12:30", 1.0)]),
        ("::2", [("", 2.0)]),
        ("", [("", 1.0)]),
    ],
)
def test_weights_follow_two_colons(typed: str, parts: list[tuple[str, float]]) -> None:
    assert split_weighted(typed) == parts


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("dog.jpg", ("dog.jpg", 1.0)),
        ("my dog.jpg::0.5", ("my dog.jpg", 0.5)),
        ("a::2 b.jpg", ("a::2 b.jpg", 1.0)),
        ("notes.txt:12", ("notes.txt:12", 1.0)),
    ],
)
def test_only_the_end_of_a_name_is_a_weight(typed: str, expected: tuple[str, float]) -> None:
    assert split_weight(typed) == expected


def test_words_pictures_items_and_negatives_become_parts_in_this_order() -> None:
    query = parse_query("a dog::2", images=[Path("cat.jpg::0.5"), b"bytes"], like=["x/y.png"], without=["people"], modality=Modality.IMAGE)

    assert query.parts == (
        Words("a dog", 2.0),
        Picture(Path("cat.jpg"), 0.5),
        Picture(b"bytes"),
        LikeItem("x/y.png"),
        Words("people", -0.5),
    )
    assert query.modality is Modality.IMAGE
    assert str(query) == "a dog::2 [cat.jpg]::0.5 [the picture of the query] [like x/y.png] people::-0.5"


@pytest.mark.parametrize("typed", ["people::0.8", "people::-0.8"])
def test_what_is_without_is_subtracted_whatever_its_sign(typed: str) -> None:
    assert parse_query("dog", without=[typed]).parts[1] == Words("people", -0.8)


@pytest.mark.parametrize(
    ("words", "without", "sentence"),
    [
        ("", [], "no words"),
        (" \t\n", [], "no words"),
        ("::2", [], "no words"),
        ("dog", ["  "], "no words"),
        ("dog::0", [], "means nothing"),
        ("dog::-1", [], "looks for nothing"),
        (None, ["people"], "looks for nothing"),
        (None, [], "looks for nothing"),
        ("dog \udcff", [], "not valid Unicode at character 5"),
    ],
)
def test_a_query_that_cannot_be_answered_is_refused_with_a_sentence(words: str | None, without: list[str], sentence: str) -> None:
    with pytest.raises(InvalidQuery, match=sentence):
        parse_query(words, without=without)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 0.0])
def test_a_weight_that_is_no_number_is_refused_from_python_too(weight: float) -> None:
    with pytest.raises(InvalidQuery, match="means nothing"):
        Query((Words("dog", weight),))


def test_ten_thousand_words_are_cut_and_the_query_says_so() -> None:
    query = parse_query(" ".join(["word"] * 10_000))

    (part,) = query.parts
    assert isinstance(part, Words)
    assert len(part.text.split()) == MAX_QUERY_WORDS
    assert query.notes == (
        "the query has 10,000 words and 49,999 characters; it was cut to 512 words and 2,559 characters before it was embedded",
    )


def test_a_megabyte_without_a_space_is_cut_too() -> None:
    query = parse_query("x" * 1_000_000)

    (part,) = query.parts
    assert isinstance(part, Words)
    assert len(part.text) == MAX_QUERY_CHARACTERS
    assert "1,000,000 characters" in query.notes[0]


@pytest.mark.parametrize("top_k", [1, 10, MAX_TOP_K])
def test_a_sensible_k_passes(top_k: int) -> None:
    assert checked_top_k(top_k) == top_k


@pytest.mark.parametrize("top_k", [0, -1, MAX_TOP_K + 1, 10**12])
def test_an_absurd_k_is_refused(top_k: int) -> None:
    with pytest.raises(InvalidQuery, match=f"k is {top_k}; it must be between 1 and 100,000"):
        checked_top_k(top_k)


@given(st.text())
def test_any_text_is_a_query_or_is_refused_as_one(text: str) -> None:
    try:
        query = parse_query(text)
    except InvalidQuery:
        return
    assert any(part.weight > 0 for part in query.parts)
    assert all(isinstance(part, Words) and part.text.strip() for part in query.parts)
