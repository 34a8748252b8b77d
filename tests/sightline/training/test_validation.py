"""Figures of a network on held-out pictures, by captions and by class names."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sightline.errors import InvalidTraining
from sightline.metrics import HitRates
from sightline.training.validation import ValidationSet, embed_captions, embed_views, validate
from tests.sightline.training.squares import cached, captioned_squares, tiny_start


def test_captions_are_asked_both_ways_and_unreadable_pictures_left_out(tmp_path: Path) -> None:
    start, pictures = tiny_start(), captioned_squares(1)
    pictures[3] = replace(pictures[3], read_bytes=lambda: b"")
    validation_set = ValidationSet("squares", pictures, cached(start, pictures, tmp_path, num_views=1))

    figures = validate(start.model, start.text_input, validation_set)

    assert len(validation_set.readable_pictures()) == 11
    assert isinstance(figures.text_to_image, HitRates)
    # Eleven pictures with two captions each: hit rates are in steps of one query.
    assert figures.text_to_image.at_1 * 22 / 100 == pytest.approx(round(figures.text_to_image.at_1 * 22 / 100))
    assert figures.image_to_text is not None
    assert figures.image_to_text.at_1 * 11 / 100 == pytest.approx(round(figures.image_to_text.at_1 * 11 / 100))
    assert figures.class_names is None
    assert str(figures).startswith("squares: text-to-image")


def test_classes_are_asked_by_the_name_that_a_person_would_type(tmp_path: Path) -> None:
    start = tiny_start()
    pictures = [
        replace(picture, class_name=picture.captions[0].split()[-1].upper(), captions=(picture.captions[0].split()[-1],))
        for picture in captioned_squares(2)
    ]
    validation_set = ValidationSet("classes", pictures, cached(start, pictures, tmp_path, num_views=1))

    figures = validate(start.model, start.text_input, validation_set)

    assert figures.class_names is not None
    assert figures.class_names.num_queries == 2
    images = embed_views(start.model, validation_set.views, rows=np.arange(24))
    similarities = embed_captions(start.model, start.text_input, ["ball", "cube"]) @ images.T
    is_right = np.array([[p.captions[0] == word for p in pictures] for word in ("ball", "cube")])
    by_hand = [is_right[row][np.argsort(-similarities[row])[:10]].mean() for row in range(2)]
    assert figures.class_names.precision_at_10 == pytest.approx(100 * np.mean(by_hand))
    assert "names with nothing right" in str(figures)


def test_only_the_first_view_is_measured(tmp_path: Path) -> None:
    start, pictures = tiny_start(), captioned_squares(1)
    one = ValidationSet("x", pictures, cached(start, pictures, tmp_path, num_views=1))
    three = ValidationSet("x", pictures, cached(start, pictures, tmp_path, num_views=3))

    np.testing.assert_allclose(
        embed_views(start.model, one.views, rows=np.arange(12)),
        embed_views(start.model, three.views, rows=3 * np.arange(12)),
        atol=1e-2,  # bfloat16 in blocks of other sizes
    )
    assert validate(start.model, start.text_input, one).name == "x"


def test_cached_views_embed_as_pixels_do(tmp_path: Path) -> None:
    """What training measures is what search will do, up to bfloat16 and the cache's fp16."""
    for num_frozen_stages in (0, 2):
        start, pictures = tiny_start(num_frozen_stages=num_frozen_stages), captioned_squares(1)
        pixels = cached(tiny_start(num_frozen_stages=0), pictures, tmp_path, num_views=1).stem_maps
        views = cached(start, pictures, tmp_path, num_views=1)

        with torch.inference_mode():
            expected = start.model.embed_pixels(torch.from_numpy(np.array(pixels))).numpy()
        np.testing.assert_allclose(embed_views(start.model, views, rows=np.arange(12)), expected, atol=2e-2)


def test_captions_keep_their_order() -> None:
    start = tiny_start()
    captions = ["a red ball on the beach", "dog", "two black cats in the photo", "cube"]

    together = embed_captions(start.model, start.text_input, captions)

    for place, caption in enumerate(captions):
        np.testing.assert_allclose(embed_captions(start.model, start.text_input, [caption])[0], together[place], atol=1e-2)


def test_a_set_that_cannot_be_asked_for_is_refused_before_training(tmp_path: Path) -> None:
    start, pictures = tiny_start(), captioned_squares(1, has_captions=False)
    views = cached(start, pictures, tmp_path, num_views=1)

    with pytest.raises(InvalidTraining, match="'silent' have neither captions nor classes"):
        ValidationSet("silent", pictures, views)
    ValidationSet("named", [replace(picture, class_name="square") for picture in pictures], views)
