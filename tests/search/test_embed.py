"""Parts of a query added up in the shared space."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.embed import EmbeddedPart, QueryTexts, centred, check_pictures, checked_embeddings, combine, embed_pictures, embed_words
from search.query import Picture, Words
from sightline.encoders.composed import ComposedEncoder
from sightline.encoders.tokens import TextTokens, TokenEncoder
from sightline.errors import InvalidCheckpoint, InvalidQuery, UnreadableImage
from sightline.types import Embeddings, Modality
from tests.histogram_encoder import HistogramEncoder
from tests.indexer.corpus import unreadable

TIGHT = 1e-6  # a few roundings of float32


def part(*values: float, weight: float = 1.0, modality: Modality = Modality.TEXT) -> EmbeddedPart:
    return EmbeddedPart(np.asarray(values, dtype=np.float32), modality, weight)


def test_two_parts_add_up_by_their_weights_as_by_hand() -> None:
    combined = combine([part(1, 0, weight=3), part(0, 1, weight=4)])

    np.testing.assert_allclose(combined, [[0.6, 0.8]], atol=TIGHT)
    assert combined.dtype == np.float32


def test_a_negative_part_is_subtracted() -> None:
    np.testing.assert_allclose(combine([part(1, 0), part(0, 1, weight=-1)]), np.sqrt([[0.5, 0.5]]) * [1, -1], atol=TIGHT)


def test_a_part_that_is_no_number_is_refused() -> None:
    with pytest.raises(InvalidCheckpoint, match="an embedding of the query that is no number; its weights are damaged"):
        combine([part(1, 0), part(0, np.nan)])


def test_parts_that_cancel_out_are_refused() -> None:
    with pytest.raises(InvalidQuery, match="cancel out"):
        combine([part(1, 0), part(1, 0, weight=-1)])


def test_each_part_is_centred_by_its_own_modality() -> None:
    parts = [part(0.6, 0.8), part(0.6, 0.8, modality=Modality.IMAGE)]
    centres = {Modality.TEXT: np.array([0.6, 0.0], np.float32), Modality.IMAGE: np.array([0.0, 0.8], np.float32)}

    # The first becomes (0, 0.8) and the second (0.6, 0), each of unit length before they are added.
    np.testing.assert_allclose(combine(parts, centre_by_modality=centres), np.full((1, 2), 2**-0.5), atol=TIGHT)


def test_a_row_on_the_centre_becomes_zeros_and_no_nan() -> None:
    rows = np.array([[1, 0], [0, 1]], np.float32)
    np.testing.assert_allclose(centred(rows, centre=np.array([1, 0], np.float32)), np.sqrt([[0.0, 0.0], [0.5, 0.5]]) * [-1, 1], atol=TIGHT)


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1), st.floats(0.01, 5)), min_size=1, max_size=5))
def test_a_combination_has_unit_length_or_is_refused(rows: list[tuple[float, float, float]]) -> None:
    try:
        combined = combine([part(x, y, weight=weight) for x, y, weight in rows])
    except InvalidQuery:
        return
    assert np.linalg.norm(combined) == pytest.approx(1, abs=1e-5)


def test_nothing_to_embed_costs_no_pass_through_the_network() -> None:
    assert embed_words([], encoder=HistogramEncoder()) == []
    assert embed_pictures([], encoder=HistogramEncoder(), max_pixels=1) == []


def test_words_keep_their_order_and_weights() -> None:
    encoder = HistogramEncoder()
    parts = embed_words([Words("red", 2.0), Words("blue", -0.5)], encoder=encoder)

    np.testing.assert_array_equal([each.embedding for each in parts], encoder.embed_texts(["red", "blue"]))
    assert [(each.modality, each.weight) for each in parts] == [(Modality.TEXT, 2.0), (Modality.TEXT, -0.5)]


def test_bytes_that_are_no_picture_are_named_in_the_error() -> None:
    with pytest.raises(UnreadableImage, match="the picture of the query: it holds text"):
        embed_pictures([Picture(b"hello")], encoder=HistogramEncoder(), max_pixels=1_000)


def test_files_that_cannot_be_opened_are_named_with_their_cause(tmp_path: Path) -> None:
    (tmp_path / "there.png").touch()
    (tmp_path / "locked.png").touch()
    with unreadable(tmp_path / "locked.png"):
        check_pictures([Picture(tmp_path / "there.png"), Picture(b"bytes")])
        for name, reason in (
            ("nowhere.png", "there is no such file"),
            ("there.png/x.png", "there is no such file"),
            ("", "it is a folder; name one picture in it"),
            ("locked.png", "it cannot be opened: Permission denied"),
            ("x" * 300, "it cannot be opened: File name too long"),
        ):
            with pytest.raises(UnreadableImage, match=f"^{tmp_path / name}: {reason}$"):
                check_pictures([Picture(tmp_path / "there.png"), Picture(tmp_path / name)])


def test_a_folder_that_may_not_be_entered_is_named(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir()
    with unreadable(tmp_path / "locked"), pytest.raises(UnreadableImage, match="it cannot be opened: Permission denied"):
        check_pictures([Picture(tmp_path / "locked" / "x.png")])


class CountingEncoder:
    """The tiny encoder, which says what it was asked to embed with tokens."""

    def __init__(self, encoder: ComposedEncoder) -> None:
        self.asked: list[str] = []
        self.text_token_dim = encoder.text_token_dim
        self._encoder = encoder

    def embed_texts_with_tokens(self, texts: Sequence[str]) -> tuple[Embeddings, TextTokens]:
        self.asked += texts
        return self._encoder.embed_texts_with_tokens(texts)


def test_texts_of_a_query_go_through_the_network_once_and_come_out_as_ever(tiny_encoder: ComposedEncoder) -> None:
    counting = CountingEncoder(tiny_encoder)
    texts = QueryTexts(cast(TokenEncoder, counting))
    words = ["a red ball", "snow", "two dogs run over the grass"]

    np.testing.assert_allclose(texts.embed_texts(words), tiny_encoder.embed_texts(words), atol=TIGHT)
    for wanted in (["two dogs run over the grass", "a red ball"], ["snow", "a blue cube", "snow"]):
        found, plain = texts.tokens_of(wanted), tiny_encoder.embed_texts_with_tokens(wanted)[1]
        np.testing.assert_array_equal(found.num_tokens, plain.num_tokens)
        # What is padded with a longer text adds up in another order.
        np.testing.assert_allclose(found.hidden_states, plain.hidden_states, atol=2e-2)
    assert counting.asked == [*words, "a blue cube"]


def test_embeddings_that_are_no_numbers_are_refused(encoder: HistogramEncoder) -> None:
    embeddings = np.ones((3, 4), dtype=np.float32)
    assert checked_embeddings(embeddings, encoder) is embeddings
    embeddings[1, 2] = np.nan
    with pytest.raises(InvalidCheckpoint, match="histogram gave 1 of 3 embeddings that are no numbers"):
        checked_embeddings(embeddings, encoder)
