"""The grid pointing game: which quarter a patch lies in, and pictures put on one."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.explanation_quality import mosaic, quarters


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ((2, 2), [[0, 1], [2, 3]]),
        ((3, 3), [[0, -1, 1], [-1, -1, -1], [2, -1, 3]]),
        ((2, 3), [[0, -1, 1], [2, -1, 3]]),
        ((1, 4), [[-1, -1, -1, -1]]),
    ],
)
def test_patches_on_a_middle_line_lie_in_no_quarter(grid: tuple[int, int], expected: list[list[int]]) -> None:
    np.testing.assert_array_equal(quarters(grid), np.array(expected).ravel())


def test_four_pictures_lie_in_the_quarters_that_patches_are_counted_in() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9)]
    whole = mosaic([Image.new("RGB", (30 + 7 * place, 20), colour) for place, colour in enumerate(colours)], side=64)
    assert whole.size == (64, 64)
    for patch, quarter in enumerate(quarters((8, 8)).tolist()):
        row, column = divmod(patch, 8)
        assert whole.getpixel((column * 8 + 4, row * 8 + 4)) == colours[quarter]
