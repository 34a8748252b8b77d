"""Which pictures, views and captions make up each step, drawn from the seed, the epoch and nothing else: a resumed run repeats them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sightline.encoders.text_input import TextInput, TokenBatch
from sightline.training.feature_cache import CachedViews
from sightline.training.pairs import CaptionedPicture


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Pictures of one group of sources with their cached views and tokenised captions."""

    views: CachedViews
    captions: list[list[list[int]]]  # picture -> caption -> token ids; a picture without captions has none
    caption_ids: list[list[int]]  # picture -> caption -> a number that equal captions share
    pictures_per_epoch: int | None  # a random part of them each epoch; None is all of them

    @property
    def readable(self) -> NDArray[np.int64]:
        """Positions of the pictures that could be decoded."""
        return np.flatnonzero(self.views.is_readable)


@dataclass(frozen=True, slots=True)
class StepBatch:
    """One step's pictures and texts as arrays."""

    stem_maps: NDArray[np.float16] | NDArray[np.uint8]  # (pictures, ...)
    kept_pooled: NDArray[np.float16] | None  # (pictures, image_width)
    tokens: TokenBatch  # (texts, tokens)
    picture_by_text: NDArray[np.int64]  # (texts,)
    caption_ids: NDArray[np.int64]  # (texts,)


def tokenised_captions(
    pictures: Sequence[CaptionedPicture], text_input: TextInput, *, caption_numbers: dict[str, int]
) -> tuple[list[list[list[int]]], list[list[int]]]:
    """(token ids, caption numbers) of each picture's captions; `caption_numbers` grows, so that sets share it."""
    flat = [caption for picture in pictures for caption in picture.captions]
    ids = iter(text_input.token_ids(flat))
    tokens = [[next(ids) for _ in picture.captions] for picture in pictures]
    numbers = [[caption_numbers.setdefault(caption, len(caption_numbers)) for caption in picture.captions] for picture in pictures]
    return tokens, numbers


def epoch_batches(
    sets: Sequence[TrainingSet], text_input: TextInput, *, batch_size: int, captions_per_picture: int, seed: int, epoch: int
) -> Iterator[StepBatch]:
    """The steps of one epoch: each picture once, in a random order, in a random view, with some of its captions.

    The last step takes what is left, unless that is a single picture, which would have no negative.
    """
    generator = np.random.default_rng([seed, epoch])
    places = drawn_places(sets, generator=generator)
    for start in range(0, len(places), batch_size):
        chosen = places[start : start + batch_size]
        if len(chosen) > 1:
            yield _step_batch(sets, chosen, text_input, captions_per_picture=captions_per_picture, generator=generator)


def drawn_places(sets: Sequence[TrainingSet], *, generator: np.random.Generator) -> NDArray[np.int64]:
    """The pictures of one epoch in a random order: (pictures, 2), number of the set and position in it."""
    draws = [generator.permutation(training_set.readable)[: _num_drawn(training_set)] for training_set in sets]
    places = np.concatenate([np.stack([np.full_like(draw, number), draw], axis=1) for number, draw in enumerate(draws)])
    generator.shuffle(places, axis=0)
    return places


def num_steps(sets: Sequence[TrainingSet], *, batch_size: int) -> int:
    """Steps of one epoch."""
    num_pictures = sum(_num_drawn(training_set) for training_set in sets)
    return max(1, num_pictures // batch_size + (num_pictures % batch_size > 1))


def _num_drawn(training_set: TrainingSet) -> int:
    return min(len(training_set.readable), training_set.pictures_per_epoch or len(training_set.readable))


def _step_batch(
    sets: Sequence[TrainingSet],
    places: NDArray[np.int64],
    text_input: TextInput,
    *,
    captions_per_picture: int,
    generator: np.random.Generator,
) -> StepBatch:
    maps, kept, texts, picture_by_text, caption_ids = [], [], [], [], []
    for column, (set_number, picture) in enumerate(places):
        views, training_set = sets[set_number].views, sets[set_number]
        row = picture * views.num_views + generator.integers(views.num_views)
        maps.append(views.stem_maps[row])
        if views.kept_pooled is not None:
            kept.append(views.kept_pooled[row])
        captions = training_set.captions[picture]
        for choice in generator.permutation(len(captions))[:captions_per_picture]:
            texts.append(captions[choice])
            caption_ids.append(training_set.caption_ids[picture][choice])
            picture_by_text.append(column)
    return StepBatch(
        stem_maps=np.stack(maps),
        kept_pooled=np.stack(kept) if kept else None,
        tokens=text_input.pad(texts),
        picture_by_text=np.asarray(picture_by_text, dtype=np.int64),
        caption_ids=np.asarray(caption_ids, dtype=np.int64),
    )
