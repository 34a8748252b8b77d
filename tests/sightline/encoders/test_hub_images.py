"""Pictures of extreme shapes take little memory and keep their middle."""

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessor

from sightline.encoders.hub_images import MAX_ASPECT_RATIO, SquareImages, without_far_ends


def waves(width: int, height: int) -> Image.Image:
    """A smooth picture, of which a shift by a pixel would show."""
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    channels = [127 + 120 * np.sin((columns * factor + rows) / 9) for factor in (1, 2, 3)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


@pytest.mark.parametrize("size", [(10, 10), (320, 10), (10, 320), (1, 32)])
def test_a_picture_of_usual_shape_is_left_as_it_is(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size)
    assert without_far_ends(image) is image


@pytest.mark.parametrize(("size", "expected"), [((1001, 10), (321, 10)), ((1000, 10), (320, 10)), ((10, 30_000), (10, 320))])
def test_a_banner_keeps_its_middle(size: tuple[int, int], expected: tuple[int, int]) -> None:
    image = waves(*size)
    middle = without_far_ends(image)
    assert middle.size == expected
    left, top = (size[0] - expected[0]) // 2, (size[1] - expected[1]) // 2
    assert np.array_equal(np.asarray(middle), np.asarray(image)[top : top + expected[1], left : left + expected[0]])


@pytest.mark.parametrize("size", [(2000, 20), (20, 2000), (1999, 21), (21, 1999)])
def test_a_banner_is_prepared_as_the_processor_would(size: tuple[int, int]) -> None:
    side = 32
    processor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    assert max(size) > MAX_ASPECT_RATIO * min(size)
    prepared = SquareImages(processor, image_side=side, patch_side=8).prepare(waves(*size))
    whole = processor(waves(*size), do_rescale=False, do_normalize=False)["pixel_values"][0].numpy()
    steps = [np.abs(np.diff(whole.astype(int), axis=axis)).max() for axis in (1, 2)]
    difference = np.abs(prepared.astype(int) - whole.astype(int))
    assert difference.max() <= max(steps)  # each rounds the place of its crop, so that they lie at most a pixel apart
