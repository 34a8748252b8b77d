"""Crops stay inside the picture, whatever its shape."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sightline.training.views import MAX_ASPECT_CHANGE, MIN_AREA, Crop, draw_crop, view_pixels


def test_the_first_view_is_the_whole_picture_and_the_second_its_mirror_image() -> None:
    generator = np.random.default_rng(0)

    assert draw_crop(30, 20, view=0, generator=generator) == Crop(0, 0, 30, 20, is_mirrored=False)
    assert draw_crop(30, 20, view=1, generator=generator) == Crop(0, 0, 30, 20, is_mirrored=True)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(2, 9), st.integers(0, 2**31))
def test_every_crop_lies_inside_and_has_pixels(width: int, height: int, view: int, seed: int) -> None:
    crop = draw_crop(width, height, view=view, generator=np.random.default_rng(seed))

    assert 0 <= crop.left < crop.right <= width
    assert 0 <= crop.upper < crop.lower <= height


@given(st.integers(0, 2**31))
def test_crops_of_a_large_picture_keep_to_area_and_aspect(seed: int) -> None:
    crop = draw_crop(3000, 2000, view=2, generator=np.random.default_rng(seed))

    width, height = crop.right - crop.left, crop.lower - crop.upper
    # A crop that would be wider than the picture is cut, by at most the square root of the aspect change.
    assert width * height / 6e6 >= MIN_AREA / MAX_ASPECT_CHANGE**0.5 - 1e-3
    assert 1 / MAX_ASPECT_CHANGE - 1e-2 <= (width / height) / 1.5 <= MAX_ASPECT_CHANGE + 1e-2


def test_the_generator_decides_the_crop() -> None:
    crops = [draw_crop(300, 200, view=2, generator=np.random.default_rng(seed)) for seed in (1, 1, 2, 3, 4, 5)]

    assert crops[0] == crops[1]
    assert len(set(crops)) == 5
    assert {crop.is_mirrored for crop in crops} == {True, False}


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (2, 3), (64, 48)])
@pytest.mark.parametrize("view", [0, 1, 2])
def test_pixels_have_one_shape(size: tuple[int, int], view: int) -> None:
    image = Image.new("RGB", size, "red")

    pixels = view_pixels(image, draw_crop(*size, view=view, generator=np.random.default_rng(0)), side=32)

    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert (pixels == [255, 0, 0]).all()


def test_the_mirror_image_is_the_picture_from_right_to_left() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))

    straight = view_pixels(image, Crop(0, 0, 32, 32, is_mirrored=False), side=32)

    np.testing.assert_array_equal(straight, np.asarray(image))
    np.testing.assert_array_equal(view_pixels(image, Crop(0, 0, 32, 32, is_mirrored=True), side=32), straight[:, ::-1])


def test_a_crop_shows_what_is_in_its_box() -> None:
    pixels = np.zeros((40, 40, 3), dtype=np.uint8)
    pixels[10:20, 20:40] = 255

    assert (view_pixels(Image.fromarray(pixels), Crop(20, 10, 40, 20, is_mirrored=False), side=8) == 255).all()
