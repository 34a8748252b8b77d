"""Coloured balls and cubes with captions: pictures that a network of random backbones learns to tell apart in seconds."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from sightline.training.backbones import Start
from sightline.training.batches import TrainingSet, tokenised_captions
from sightline.training.feature_cache import CachedViews, cache_views
from sightline.training.pairs import CaptionedPicture
from tests.tiny_checkpoint import tiny_model, tiny_text_input

COLOURS = ("red", "green", "blue", "black", "white", "yellow")
THINGS = ("ball", "cube")
MAX_PIXELS = 10_000


def square(colour: str, thing: str, *, seed: int) -> bytes:
    """A PNG of 40 to 56 pixels a side: the thing in its colour, filling most of a grey ground with noise."""
    generator = np.random.default_rng(seed)
    side = int(generator.integers(40, 57))
    image = Image.fromarray(generator.integers(100, 156, (side, side, 3), dtype=np.uint8))
    left, upper = generator.integers(1, side // 5, 2)
    box = (int(left), int(upper), int(left) + side * 3 // 4, int(upper) + side * 3 // 4)
    draw = ImageDraw.Draw(image)
    (draw.ellipse if thing == "ball" else draw.rectangle)(box, fill=colour)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def captioned_squares(num_rounds: int, *, first_seed: int = 0, has_captions: bool = True) -> list[CaptionedPicture]:
    """Each colour of each thing once a round, with two captions."""
    pictures = []
    for number in range(num_rounds * len(COLOURS) * len(THINGS)):
        colour, thing = COLOURS[number % len(COLOURS)], THINGS[number // len(COLOURS) % len(THINGS)]
        captions = (f"a {colour} {thing}", f"photo of the {colour} {thing}") if has_captions else ()
        pictures.append(CaptionedPicture(f"{first_seed}/{number}.png", captions, _reader(colour, thing, first_seed + number)))
    return pictures


def _reader(colour: str, thing: str, seed: int) -> Callable[[], bytes]:
    return lambda: square(colour, thing, seed=seed)


def tiny_start(*, seed: int = 0, has_kept_branch: bool = True, num_frozen_stages: int = 2) -> Start:
    """The tiny network ready to be trained, without a classifier."""
    model = tiny_model(seed=seed, has_kept_branch=has_kept_branch, num_frozen_stages=num_frozen_stages)
    return Start(model, tiny_text_input(), None)


def cached(start: Start, pictures: list[CaptionedPicture], folder: Path, *, num_views: int) -> CachedViews:
    """The views of `pictures`, under `folder`."""
    return cache_views(pictures, start.model, folder=folder, num_views=num_views, max_pixels=MAX_PIXELS, seed=0)


def training_set(start: Start, pictures: list[CaptionedPicture], folder: Path, *, num_views: int = 2) -> TrainingSet:
    """All of `pictures`, every epoch."""
    tokens, numbers = tokenised_captions(pictures, start.text_input, caption_numbers={})
    return TrainingSet(cached(start, pictures, folder, num_views=num_views), tokens, numbers, None)


class Interrupted(Exception):
    """Stops a run in the middle."""


@contextmanager
def interrupted() -> Iterator[None]:
    """Expects the block to be stopped by `Interrupted`."""
    try:
        yield
    except Interrupted:
        return
    raise AssertionError("the run came to its end before it was interrupted")
