"""Counts in sentences."""

import pytest

from indexer.wording import counted


@pytest.mark.parametrize(("number", "text"), [(0, "0 items"), (1, "1 item"), (2, "2 items"), (1_200, "1,200 items")])
def test_only_one_is_singular(number: int, text: str) -> None:
    assert counted(number, "item") == text
