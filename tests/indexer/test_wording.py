"""Counts in sentences."""

import pytest

from indexer.wording import counted


@pytest.mark.parametrize(("number", "text"), [(0, "0 items"), (1, "1 item"), (2, "2 items"), (1_200, "1,200 items")])
def test_only_one_is_singular(number: int, text: str) -> None:
    assert counted(number, "item") == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 queries"), (1, "1 query"), (3_000, "3,000 queries")])
def test_a_plural_may_be_another_word(number: int, text: str) -> None:
    assert counted(number, "query", plural="queries") == text
