"""Texts as token batches: padding, truncation, and texts that nobody would type."""

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.encoders.text_input import TextInput, surely_fits
from sightline.errors import InvalidCheckpoint
from tests.tiny_checkpoint import SPECIAL, WORDS, tiny_text_input

CLS, SEP, UNKNOWN, PAD = (SPECIAL.index(name) for name in ("[CLS]", "[SEP]", "[UNK]", "[PAD]"))


def _id(word: str) -> int:
    return len(SPECIAL) + WORDS.index(word)


def test_ids_by_hand() -> None:
    assert tiny_text_input().token_ids(["a RED ball", "", "zebra"]) == [
        [CLS, _id("a"), _id("red"), _id("ball"), SEP],
        [CLS, SEP],
        [CLS, UNKNOWN, SEP],
    ]


def test_a_batch_is_padded_to_its_longest_text_only() -> None:
    text_input = tiny_text_input()

    tokens = text_input.pad(text_input.token_ids(["a red ball", "dog"]))

    np.testing.assert_array_equal(tokens.token_ids, [[CLS, _id("a"), _id("red"), _id("ball"), SEP], [CLS, _id("dog"), SEP, PAD, PAD]])
    np.testing.assert_array_equal(tokens.attention_mask, [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    assert tokens.token_ids.dtype == tokens.attention_mask.dtype == np.int64


def test_no_texts_make_an_empty_batch() -> None:
    text_input = tiny_text_input()

    assert text_input.token_ids([]) == []
    assert text_input.pad([]).token_ids.shape == (0, 0)
    assert list(text_input.batches_by_length([], texts_per_batch=3)) == []


def test_a_long_text_keeps_its_beginning_and_its_end_mark() -> None:
    text_input = tiny_text_input(max_tokens=6)

    (ids,) = text_input.token_ids(["red green blue black white yellow dog cat"])

    assert ids == [CLS, _id("red"), _id("green"), _id("blue"), _id("black"), SEP]


@pytest.mark.parametrize(("num_words", "is_truncated"), [(0, False), (9, False), (10, False), (11, True), (10_000, True)])
def test_truncation_is_known(num_words: int, is_truncated: bool) -> None:
    text = " ".join(["dog"] * num_words)

    assert tiny_text_input(max_tokens=12).is_truncated(text) is is_truncated


@given(st.text(alphabet=st.sampled_from("ab .,'-#@1\t"), max_size=24), st.integers(2, 24))
def test_a_text_that_surely_fits_is_not_cut(text: str, max_tokens: int) -> None:
    text_input = tiny_text_input(max_tokens=max_tokens)
    if surely_fits(text, max_tokens=max_tokens):
        assert not text_input._tokenizer.encode(text).overflowing


@pytest.mark.parametrize("text", ["dog " * 5_000_000, "x" * 20_000_000, " " * 20_000_000, "🐕" * 5_000_000])
def test_a_text_of_megabytes_costs_no_more_than_a_page(text: str) -> None:
    text_input = tiny_text_input()
    started = time.perf_counter()

    (ids,) = text_input.token_ids([text])
    assert text_input.is_truncated(text)

    assert len(ids) <= text_input.max_tokens
    assert time.perf_counter() - started < 0.5  # whole, it takes seconds


@pytest.mark.parametrize("text", ["a \ud800 ball", "\udcff", "a\0ball", "\ufffe", "a" + "\u0301" * 500])
def test_texts_that_are_not_quite_unicode_are_read(text: str) -> None:
    (ids,) = tiny_text_input().token_ids([text])

    assert (ids[0], ids[-1]) == (CLS, SEP)
    assert isinstance(tiny_text_input().is_truncated(text), bool)


@given(st.lists(st.text(), max_size=8))
def test_any_text_gives_ids_within_the_vocabulary_and_the_limit(texts: list[str]) -> None:
    text_input = tiny_text_input()

    ids_by_text = text_input.token_ids(texts)

    assert len(ids_by_text) == len(texts)
    for ids in ids_by_text:
        assert 2 <= len(ids) <= text_input.max_tokens
        assert all(0 <= number < len(SPECIAL) + len(WORDS) for number in ids)


@given(st.lists(st.integers(1, 12), max_size=20), st.integers(1, 7))
def test_batches_by_length_hold_every_text_once_and_little_padding(lengths: list[int], texts_per_batch: int) -> None:
    text_input = tiny_text_input()
    ids_by_text = [[_id("dog")] * length for length in lengths]

    batches = list(text_input.batches_by_length(ids_by_text, texts_per_batch=texts_per_batch))

    assert sorted(int(position) for positions, _ in batches for position in positions) == list(range(len(lengths)))
    assert [lengths[position] for positions, _ in batches for position in positions] == sorted(lengths)
    for positions, tokens in batches:
        assert len(positions) <= texts_per_batch
        np.testing.assert_array_equal(tokens.attention_mask.sum(axis=1), [lengths[position] for position in positions])
        assert tokens.token_ids.shape == (len(positions), max(lengths[position] for position in positions))


def test_saved_and_read_again_it_gives_the_same(tmp_path: Path) -> None:
    text_input = tiny_text_input()
    text_input.save(tmp_path / "tokenizer.json")

    again = TextInput.from_file(tmp_path / "tokenizer.json", max_tokens=text_input.max_tokens)

    texts = ["a red ball", "dog " * 30, ""]
    assert again.token_ids(texts) == text_input.token_ids(texts)


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff\x00", b'{"version": "1.0"'])
def test_a_file_that_is_no_tokeniser(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(InvalidCheckpoint, match="no tokeniser can be read"):
        TextInput.from_file(path, max_tokens=8)
