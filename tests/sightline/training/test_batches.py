"""What makes up a step: each picture once an epoch, drawn from the seed and the epoch alone."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.training.batches import StepBatch, TrainingSet, drawn_places, epoch_batches, num_steps, tokenised_captions
from sightline.training.feature_cache import CachedViews
from sightline.training.pairs import CaptionedPicture
from tests.tiny_checkpoint import tiny_text_input

TEXT_INPUT = tiny_text_input()
CAPTIONS = ("a red ball", "the black dog", "two cats on the beach")


def _set(
    num_pictures: int,
    *,
    first: int = 0,
    num_views: int = 3,
    num_captions: int = 3,
    unreadable: Sequence[int] = (),
    pictures_per_epoch: int | None = None,
) -> TrainingSet:
    """Pictures whose maps hold their number and their view, so that a batch tells what it is made of."""
    rows = np.arange(num_pictures * num_views)
    maps = np.stack([first + rows // num_views, rows % num_views], axis=1).astype(np.float16).reshape(-1, 2, 1, 1)
    is_readable = np.ones(num_pictures, dtype=bool)
    is_readable[list(unreadable)] = False
    pictures = [CaptionedPicture(str(number), CAPTIONS[:num_captions], lambda: b"") for number in range(num_pictures)]
    tokens, numbers = tokenised_captions(pictures, TEXT_INPUT, caption_numbers={})
    return TrainingSet(CachedViews(maps, maps[:, :, 0, 0] * 10, is_readable, num_views), tokens, numbers, pictures_per_epoch)


def _epoch(
    sets: Sequence[TrainingSet], *, batch_size: int = 4, captions_per_picture: int = 2, seed: int = 0, epoch: int = 0
) -> list[StepBatch]:
    return list(epoch_batches(sets, TEXT_INPUT, batch_size=batch_size, captions_per_picture=captions_per_picture, seed=seed, epoch=epoch))


def _pictures(batches: Sequence[StepBatch]) -> list[int]:
    return [int(number) for batch in batches for number in batch.stem_maps[:, 0, 0, 0]]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=3), st.integers(2, 9), st.integers(0, 1000))
def test_each_picture_comes_once_except_a_last_single_one(sizes: list[int], batch_size: int, seed: int) -> None:
    firsts = np.cumsum([0, *sizes])
    sets = [_set(size, first=int(first)) for size, first in zip(sizes, firsts, strict=False)]

    batches = _epoch(sets, batch_size=batch_size, seed=seed)

    total = sum(sizes)
    seen = _pictures(batches)
    assert len(set(seen)) == len(seen) == total - (total % batch_size == 1)
    assert set(seen) <= set(range(total))
    assert all(2 <= len(batch.stem_maps) <= batch_size for batch in batches)
    assert num_steps(sets, batch_size=batch_size) == max(1, len(batches))


def test_arrays_of_a_step_belong_together() -> None:
    sets = [_set(6), _set(5, first=6, num_captions=2)]

    for batch in _epoch(sets, captions_per_picture=2):
        assert batch.kept_pooled is not None
        np.testing.assert_array_equal(batch.kept_pooled, batch.stem_maps[:, :, 0, 0] * 10)
        assert len(batch.tokens.token_ids) == len(batch.picture_by_text) == len(batch.caption_ids) == 2 * len(batch.stem_maps)
        np.testing.assert_array_equal(np.bincount(batch.picture_by_text), np.full(len(batch.stem_maps), 2))
        for ids, mask, number in zip(batch.tokens.token_ids, batch.tokens.attention_mask, batch.caption_ids, strict=True):
            assert ids[mask == 1].tolist() == TEXT_INPUT.token_ids([CAPTIONS[number]])[0]


def test_a_pictures_captions_in_a_step_differ() -> None:
    (batch,) = _epoch([_set(4)], captions_per_picture=3)

    for column in range(4):
        assert sorted(batch.caption_ids[batch.picture_by_text == column]) == [0, 1, 2]


def test_seed_and_epoch_repeat_and_tell_apart() -> None:
    sets = [_set(30)]
    first, again, other_seed, other_epoch = (_epoch(sets, seed=seed, epoch=epoch) for seed, epoch in ((1, 1), (1, 1), (2, 1), (1, 2)))

    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.stem_maps, two.stem_maps)
        np.testing.assert_array_equal(one.tokens.token_ids, two.tokens.token_ids)
    assert _pictures(first) != _pictures(other_seed) != _pictures(other_epoch) != _pictures(first)


def test_every_view_is_drawn() -> None:
    views = Counter(int(view) for epoch in range(30) for batch in _epoch([_set(4)], epoch=epoch) for view in batch.stem_maps[:, 1, 0, 0])

    assert set(views) == {0, 1, 2}
    assert min(views.values()) > 20


def test_unreadable_pictures_are_never_drawn_and_a_part_is_another_each_epoch() -> None:
    training_set = _set(40, unreadable=[0, 7], pictures_per_epoch=10)

    epochs = [_pictures(_epoch([training_set], batch_size=5, epoch=epoch)) for epoch in range(20)]

    assert all(len(pictures) == 10 for pictures in epochs)
    assert set().union(*epochs) == set(range(40)) - {0, 7}
    assert num_steps([training_set], batch_size=5) == 2


def test_pictures_without_captions_join_without_texts() -> None:
    (batch,) = _epoch([_set(3, num_captions=0)])

    assert len(batch.stem_maps) == 3
    assert batch.tokens.token_ids.shape == (0, 0)
    assert batch.picture_by_text.dtype == batch.caption_ids.dtype == np.int64


def test_equal_captions_share_a_number_over_sets() -> None:
    numbers: dict[str, int] = {}
    first, second = (CaptionedPicture("a", ("x", "y"), lambda: b""), CaptionedPicture("b", ("y", "z"), lambda: b""))

    ids = [tokenised_captions([picture], TEXT_INPUT, caption_numbers=numbers)[1] for picture in (first, second)]

    assert ids == [[[0, 1]], [[1, 2]]]


@pytest.mark.parametrize("batch_size", [2, 3, 7])
def test_places_name_the_set_and_the_position(batch_size: int) -> None:
    sets = [_set(5), _set(3, unreadable=[1])]

    places = drawn_places(sets, generator=np.random.default_rng(batch_size))

    assert sorted(map(tuple, places.tolist())) == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 0), (1, 2)]
