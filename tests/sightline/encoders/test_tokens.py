"""Tokens of any grid on a common one, and texts of any length side by side."""

import numpy as np

from sightline.encoders.tokens import NO_TOKEN, ImageTokens, TokenRow, Word, on_common_grid, padded_tokens, words_of


def test_a_finer_grid_is_averaged_and_a_coarser_one_repeated() -> None:
    fine = np.arange(16, dtype=np.float32).reshape(1, 16, 1)  # 4 x 4
    np.testing.assert_allclose(on_common_grid(ImageTokens(fine, np.array([[4, 4]])), side=2)[0, :, 0], [2.5, 4.5, 10.5, 12.5])
    coarse = np.array([[[1.0], [2.0], [3.0], [4.0]]], dtype=np.float32)  # 2 x 2
    expected = [1, 1, 2, 2, 1, 1, 2, 2, 3, 3, 4, 4, 3, 3, 4, 4]
    np.testing.assert_allclose(on_common_grid(ImageTokens(coarse, np.array([[2, 2]])), side=4)[0, :, 0], expected)


def test_pictures_of_different_grids_share_a_batch_and_padding_is_not_read() -> None:
    hidden = np.full((2, 6, 1), np.nan, dtype=np.float32)
    hidden[0, :, 0] = 1  # 2 x 3
    hidden[1, :4, 0] = 2  # 2 x 2, two of padding
    gridded = on_common_grid(ImageTokens(hidden, np.array([[2, 3], [2, 2]])), side=7)
    assert gridded.shape == (2, 49, 1)
    np.testing.assert_allclose(gridded[:, :, 0], np.repeat([[1.0], [2.0]], 49, axis=1))


def test_texts_are_padded_to_the_longest() -> None:
    rows = [TokenRow(np.ones((length, 3), dtype=np.float32), np.arange(length)) for length in (2, 4)]
    tokens = padded_tokens(rows, width=3)
    assert tokens.hidden_states.shape == (2, 4, 3)
    assert tokens.mask.tolist() == [[True, True, False, False], [True] * 4]
    assert tokens.token_ids.tolist() == [[0, 1, NO_TOKEN, NO_TOKEN], [0, 1, 2, 3]]
    for found, given in zip(tokens.rows(), rows, strict=True):
        np.testing.assert_array_equal(found.hidden_states, given.hidden_states)
        np.testing.assert_array_equal(found.token_ids, given.token_ids)
    assert padded_tokens([], width=3).hidden_states.shape == (0, 0, 3)


def test_a_word_has_the_tokens_that_begin_in_it_and_special_tokens_are_in_none() -> None:
    spans = [None, (0, 1), (2, 4), (4, 6), (6, 7), None]
    assert words_of("a ball. gone", spans) == [Word("a", (1,)), Word("ball.", (2, 3, 4))]
    assert words_of("a dog  x", [(0, 1), (1, 5), (5, 6), (6, 8)]) == [Word("a", (0,)), Word("dog", (1,)), Word("x", (3,))]
    assert words_of("", []) == []
