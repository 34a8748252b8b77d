"""Curves as pictures: lines run where their figures say, in the colours of the legend."""

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from api.curve_picture import BOTTOM, COLOURS, HEIGHT, LEFT, MIN_LABEL_DISTANCE, RIGHT, TOP, WIDTH, Axes, _apart, draw_curve, write_curve
from api.evaluation import Evaluation
from search.comparison import Comparison
from search.evaluation import MeasuredRun, Metric, QueryTimes, Run
from search.judgements import JudgedBy
from search.reranked_runs import CurvePoint
from search.second_stage import MeasuredReranking
from sightline.errors import InvalidInput

PAPER = (255, 255, 255)
BLUE, ORANGE = (ImageColor.getrgb(colour) for colour in COLOURS)


def reranking(name: str, first_percent: float, percents: Sequence[float], *, depths: Sequence[int] = (4, 8, 16, 32)) -> MeasuredReranking:
    measured = MeasuredRun(Run(name, {}), {}, 100, QueryTimes(1.0, 1.0), plan="exact")
    return MeasuredReranking(
        first=measured,
        reranked=measured,
        by_logit=measured.run,
        depth=32,
        logit_weight=0.1,
        num_pairs=1,
        pairs_per_s=1.0,
        metric=Metric.HIT_RATE_AT_1,
        first_percent=first_percent,
        by_logit_percent=0.0,
        reranked_percent=percents[-1],
        ceiling_percent=100.0,
        curve=tuple(CurvePoint(depth, percent, 100.0) for depth, percent in zip(depths, percents, strict=True)),
        comparison=Comparison(name, 1, 1, 100, ()),
    )


def evaluation(*rerankings: MeasuredReranking, name: str = "photos/") -> Evaluation:
    return Evaluation(name, "sightline-mini", "e" * 64, JudgedBy.CAPTIONS, 100, 100, (), (), (), "f" * 64, rerankings)


TO_IMAGE, TO_TEXT = reranking("text-to-image", 31, (34, 37, 39, 39)), reranking("image-to-text", 46, (48, 53, 55, 56))


def at(picture: Image.Image, x: float, y: float) -> tuple[int, ...]:
    pixel = picture.getpixel((round(x), round(y)))
    assert isinstance(pixel, tuple)
    return pixel


def test_marks_and_lines_are_where_the_figures_are() -> None:
    axes = Axes.around((TO_IMAGE, TO_TEXT))
    picture = draw_curve(evaluation(TO_IMAGE, TO_TEXT))

    assert (picture.size, picture.mode) == ((WIDTH, HEIGHT), "RGB")
    for each, colour in ((TO_IMAGE, BLUE), (TO_TEXT, ORANGE)):
        places = [(axes.x(point.depth), axes.y(point.percent)) for point in each.curve]
        assert {at(picture, *place) for place in places} == {colour}
        for (x, y), (next_x, next_y) in pairwise(places):
            middle = ((x + next_x) / 2, (y + next_y) / 2)
            assert at(picture, *middle) == colour
            assert at(picture, middle[0], middle[1] - 12) == PAPER
        row = {at(picture, x, axes.y(each.first_percent)) for x in range(LEFT + 1, RIGHT)}
        assert {colour, PAPER} <= row  # dashes and gaps
    assert all(at(picture, x, BOTTOM) != PAPER for x in range(LEFT + 1, RIGHT))


def test_depths_lie_at_equal_steps_and_percentages_upwards() -> None:
    axes = Axes.around((TO_IMAGE, TO_TEXT))
    steps = [axes.x(depth) for depth in (4, 8, 16, 32)]
    np.testing.assert_allclose(np.diff(steps), steps[1] - steps[0])
    assert LEFT < steps[0] < steps[-1] < RIGHT
    assert axes.percents == (25.0, 60.0)
    assert axes.ticks() == [25, 30, 35, 40, 45, 50, 55, 60]
    assert (axes.y(60), axes.y(25)) == (TOP, BOTTOM)


@pytest.mark.parametrize(
    ("first", "percents", "ends"),
    [
        (100.0, (100.0, 100.0), (96, 100)),
        (0.0, (0.0, 0.0), (0, 4)),
        (28.3, (28.6, 29.2), (26, 30)),
        (0.0, (50.0, 100.0), (0, 100)),
    ],
)
def test_what_hardly_differs_looks_so_and_no_axis_leaves_the_percentages(
    first: float, percents: Sequence[float], ends: tuple[float, float]
) -> None:
    each = reranking("text-to-image", first, percents, depths=(4, 8))
    assert Axes.around((each,)).percents == ends
    assert draw_curve(evaluation(each)).size == (WIDTH, HEIGHT)


def test_a_single_depth_is_a_mark() -> None:
    each = reranking("text-to-image", 50, (60,), depths=(2,))
    axes = Axes.around((each,))
    assert at(draw_curve(evaluation(each)), axes.x(2), axes.y(60)) == BLUE


def test_figures_at_the_ends_never_touch() -> None:
    places = _apart([100.0, 105.0, 109.0, 300.0])
    assert all(after - before >= MIN_LABEL_DISTANCE - 1e-9 for before, after in pairwise(places))
    assert sum(places[:3]) == pytest.approx(100 + 105 + 109)
    assert places[3] == 300
    assert _apart([10.0, 10.0]) == [10 - MIN_LABEL_DISTANCE / 2, 10 + MIN_LABEL_DISTANCE / 2]


def test_the_same_figures_give_the_same_picture_and_a_long_name_is_cut() -> None:
    assert draw_curve(evaluation(TO_IMAGE)).tobytes() == draw_curve(evaluation(TO_IMAGE)).tobytes()
    picture = draw_curve(evaluation(TO_IMAGE, name="a long name " * 50))
    assert all(at(picture, x, y) == PAPER for x in (WIDTH - 3, WIDTH - 1) for y in range(40, 110))


def test_it_is_written_in_the_format_of_its_suffix(tmp_path: Path) -> None:
    write_curve(evaluation(TO_IMAGE, TO_TEXT), tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (WIDTH, HEIGHT))
    with pytest.raises(InvalidInput, match="no format that a curve can be written in"):
        write_curve(evaluation(TO_IMAGE), tmp_path / "curve.csv")


def test_classes_are_labelled_with_their_metric() -> None:
    by_class = dataclasses.replace(TO_IMAGE, metric=Metric.PRECISION_AT_10)
    assert draw_curve(evaluation(by_class)).tobytes() != draw_curve(evaluation(TO_IMAGE)).tobytes()
