"""Metrics against hand-computed tables, a sort, and what ties must cost."""

import warnings
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sightline.metrics import HitRates, best_relevant_ranks, caption_hit_rates, class_precision, hit_rates


def test_ranks_by_hand() -> None:
    similarities = np.array([[0.9, 0.5, 0.1], [0.1, 0.5, 0.9], [0.2, 0.8, 0.5]], dtype=np.float32)
    is_relevant = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 1]], dtype=bool)

    np.testing.assert_array_equal(best_relevant_ranks(similarities, is_relevant), [1, 3, 2])


def test_a_tie_with_a_wrong_candidate_is_lost_and_one_with_a_right_candidate_is_not() -> None:
    similarities = np.full((2, 4), 0.5, dtype=np.float32)
    is_relevant = np.array([[0, 1, 0, 0], [1, 1, 1, 0]], dtype=bool)

    np.testing.assert_array_equal(best_relevant_ranks(similarities, is_relevant), [4, 2])


@pytest.mark.parametrize("where", ["relevant", "irrelevant", "all"])
def test_what_is_no_number_is_never_a_hit(where: str) -> None:
    similarities = np.array([[0.9, 0.1, 0.2]], dtype=np.float32)
    is_relevant = np.array([[True, False, False]])
    is_bad = {"relevant": is_relevant, "irrelevant": ~is_relevant, "all": np.ones_like(is_relevant)}[where]

    assert best_relevant_ranks(np.where(is_bad, np.float32(np.nan), similarities), is_relevant)[0] == 3


_TABLES = st.integers(1, 6).flatmap(
    lambda columns: st.tuples(
        # Few distinct values, so that ties are common.
        hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(columns)), elements=st.sampled_from([-0.5, 0.0, 0.25, 0.5, 1.0])),
        st.randoms(use_true_random=False),
    )
)


def _relevance(shape: tuple[int, ...], random: Random) -> np.ndarray:
    is_relevant = np.array([[random.random() < 0.3 for _ in range(shape[1])] for _ in range(shape[0])])
    for row in is_relevant:
        row[random.randrange(shape[1])] = True
    return is_relevant


@given(_TABLES)
def test_ranks_are_those_of_a_sort_that_puts_the_wrong_first_among_equals(table: tuple[np.ndarray, Random]) -> None:
    similarities, random = table
    is_relevant = _relevance(similarities.shape, random)

    for row, relevant, rank in zip(similarities, is_relevant, best_relevant_ranks(similarities, is_relevant), strict=True):
        order = sorted(range(len(row)), key=lambda place: (-row[place], relevant[place]))
        assert rank == 1 + next(number for number, place in enumerate(order) if relevant[place])


@given(_TABLES)
def test_ranks_follow_any_growing_function_of_the_similarities_and_any_order_of_the_candidates(table: tuple[np.ndarray, Random]) -> None:
    similarities, random = table
    is_relevant = _relevance(similarities.shape, random)
    expected = best_relevant_ranks(similarities, is_relevant)
    order = np.arange(similarities.shape[1])[::-1]

    np.testing.assert_array_equal(best_relevant_ranks(3 * similarities + 1, is_relevant), expected)
    np.testing.assert_array_equal(best_relevant_ranks(similarities[:, order], is_relevant[:, order]), expected)


def test_hit_rates_by_hand() -> None:
    rates = hit_rates(np.array([1, 1, 2, 5, 6, 10, 11, 300]))

    assert rates == HitRates(25.0, 50.0, 75.0)
    assert str(rates) == "25.0 / 50.0 / 75.0"


@given(st.lists(st.integers(1, 40), min_size=1))
def test_hit_rates_grow_with_k(ranks: list[int]) -> None:
    rates = hit_rates(np.array(ranks))

    assert 0 <= rates.at_1 <= rates.at_5 <= rates.at_10 <= 100


def test_captions_find_their_picture_and_pictures_any_of_their_captions() -> None:
    images = np.eye(3, dtype=np.float32)
    texts = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=np.float32)

    text_to_image, image_to_text = caption_hit_rates(texts, images, np.array([0, 0, 2]))

    # The second text describes picture 0 and resembles picture 1, which no text describes: it is not asked for texts.
    assert text_to_image.at_1 == pytest.approx(200 / 3)
    assert image_to_text.at_1 == 100.0


def test_precision_by_hand() -> None:
    classes = ["cat"] * 6 + ["dog"] * 6
    similarities = np.stack([np.linspace(1, 0, 12), np.linspace(1, 0, 12)]).astype(np.float32)

    found = class_precision(similarities, classes, ["cat", "dog"])

    assert found.precision_at_10 == pytest.approx(100 * (6 + 4) / 2 / 10)
    assert (found.num_queries, found.num_without_hit) == (2, 0)


def test_precision_gives_a_tie_to_the_wrong_candidate_wherever_it_stands() -> None:
    classes = ["cat", *["dog"] * 10, "cat"]

    found = class_precision(np.full((1, 12), 0.5, dtype=np.float32), classes, ["cat"])

    assert (found.precision_at_10, found.num_without_hit) == (0.0, 1)


def test_precision_of_a_network_that_gives_no_numbers_is_what_chance_leaves() -> None:
    classes = ["cat", *["dog"] * 12]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = class_precision(np.full((1, 13), np.nan, dtype=np.float32), classes, ["cat"])

    assert found.precision_at_10 == 0.0


def test_fewer_than_ten_candidates_all_count() -> None:
    assert class_precision(np.array([[0.1, 0.2]], dtype=np.float32), ["cat", "dog"], ["cat"]).precision_at_10 == 50.0
