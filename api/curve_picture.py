"""What a deeper second look brings, as a picture: the metric over the rerank depth, with the first stage as a dashed line.

Lines and marks are drawn larger and brought down, since Pillow draws them with stairs; letters go on the finished size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image, ImageDraw

from api.drawing import FAINT_INK, INK, PAPER, check_drawable, elided, save_picture
from api.evaluation import Evaluation
from api.typeface import font_for
from search.evaluation import Metric
from search.second_stage import MeasuredReranking

WIDTH, HEIGHT = 1600, 1000  # pixels, as everything here
LEFT, RIGHT, TOP, BOTTOM = 120, 1460, 260, 870  # of the plot
MARGIN = 48
TITLE_SIZE, TEXT_SIZE = 36, 26
LINE_WIDTH, DASH, GAP, MARK_RADIUS = 5, 18, 12, 9
SAMPLE_WIDTH = 76  # of a line in the legend
LEGEND_COLUMN = 470
MIN_LABEL_DISTANCE = 30
_SUPERSAMPLING = 3

GRID = "#e4e4e9"
COLOURS = ("#0072b2", "#d55e00")
"""Of the directions: two that people who see red and green alike can tell apart (Okabe and Ito 2008)."""

_TITLE_BY_METRIC = {Metric.HIT_RATE_AT_1: "hit rate@1, percent", Metric.PRECISION_AT_10: "precision@10, percent"}
_WANTED_STEPS = 5  # between the lowest and the highest value
_ROOM = 0.25  # of a step, above and below them
_MIN_STEPS = 4  # of a percentage point at the least: what hardly differs shall look so

Pixel = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Axes:
    """Where a depth and a percentage lie in the picture: the depth logarithmic, the percentage not from zero."""

    depths: tuple[float, float]  # at the left and the right end
    percents: tuple[float, float]  # at the bottom and the top
    step: float  # of the ticks, in percentage points

    @classmethod
    def around(cls, rerankings: Sequence[MeasuredReranking]) -> "Axes":
        """Such that every line has room."""
        depths = [point.depth for each in rerankings for point in each.curve]
        percents = [value for each in rerankings for value in (each.first_percent, *(point.percent for point in each.curve))]
        step = _round_step((max(percents) - min(percents)) / _WANTED_STEPS)
        high = min(100.0, math.ceil(max(percents) / step + _ROOM) * step)
        low = max(0.0, min(math.floor(min(percents) / step - _ROOM) * step, high - _MIN_STEPS * step))
        high = max(high, low + _MIN_STEPS * step)  # where it was the bottom that could not give way
        margin = 2**0.35  # beside the first and the last mark
        return cls((min(depths) / margin, max(depths) * margin), (low, high), step)

    def x(self, depth: float) -> float:
        """Pixels from the left."""
        low, high = self.depths
        return LEFT + (RIGHT - LEFT) * math.log(depth / low) / math.log(high / low)

    def y(self, percent: float) -> float:
        """Pixels from the top."""
        low, high = self.percents
        return BOTTOM - (BOTTOM - TOP) * (percent - low) / (high - low)

    def ticks(self) -> list[float]:
        """Of the percentages."""
        low, high = self.percents
        return [low + number * self.step for number in range(round((high - low) / self.step) + 1)]


def write_curve(evaluation: Evaluation, path: Path) -> None:
    """Draw the curves of an evaluation with a second look and put them at `path`; raises as `api.drawing.save_picture`."""
    save_picture(draw_curve(evaluation), path, what="curve")


def check_curve_path(path: Path) -> None:
    """Raises what `write_curve` would, before hours are spent."""
    check_drawable(path, what="curve")


def draw_curve(evaluation: Evaluation) -> Image.Image:
    """An RGB picture of 1600 x 1000 with a line for each direction; at least one must have been reranked."""
    rerankings = evaluation.rerankings
    axes = Axes.around(rerankings)
    large = Image.new("RGB", (WIDTH * _SUPERSAMPLING, HEIGHT * _SUPERSAMPLING), PAPER)
    _draw_lines(_Pen(ImageDraw.Draw(large)), axes, rerankings)
    picture = large.resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    draw = ImageDraw.Draw(picture)
    title = f"Second look at {evaluation.name} with {evaluation.encoder_name}"
    _write(draw, title, at=(MARGIN, 72), size=TITLE_SIZE, width=WIDTH - 2 * MARGIN)
    _write(draw, _TITLE_BY_METRIC[rerankings[0].metric], at=(MARGIN, TOP - 42), ink=FAINT_INK)
    _write(draw, "rerank depth: candidates that are read again", at=((LEFT + RIGHT) / 2, BOTTOM + 88), ink=FAINT_INK, anchor="mm")
    for tick in axes.ticks():
        _write(draw, f"{tick:.0f}", at=(LEFT - 18, axes.y(tick)), anchor="rm")
    for depth in _labelled_depths(rerankings, axes):
        _write(draw, f"{depth}", at=(axes.x(depth), BOTTOM + 40), anchor="mm")
    _write_legend(draw, rerankings)
    _write_values(draw, axes, rerankings)
    return picture


class _Pen:
    """Draws in pixels of the finished picture on one that is larger."""

    def __init__(self, draw: ImageDraw.ImageDraw) -> None:
        self._draw = draw

    def line(self, points: Sequence[Pixel], *, ink: str, width: int = LINE_WIDTH) -> None:
        scaled = [(x * _SUPERSAMPLING, y * _SUPERSAMPLING) for x, y in points]
        self._draw.line(scaled, fill=ink, width=width * _SUPERSAMPLING, joint="curve")

    def dashes(self, start: Pixel, end_x: float, *, ink: str) -> None:
        left, y = start
        while left < end_x:
            self.line([(left, y), (min(left + DASH, end_x), y)], ink=ink, width=LINE_WIDTH - 1)
            left += DASH + GAP

    def mark(self, at: Pixel, *, ink: str) -> None:
        """A dot with a rim of paper, which parts it from a line of another colour."""
        for radius, colour in ((MARK_RADIUS + 3, PAPER), (MARK_RADIUS, ink)):
            x, y = at[0] * _SUPERSAMPLING, at[1] * _SUPERSAMPLING
            extent = radius * _SUPERSAMPLING
            self._draw.ellipse((x - extent, y - extent, x + extent, y + extent), fill=colour)


def _draw_lines(pen: _Pen, axes: Axes, rerankings: Sequence[MeasuredReranking]) -> None:
    for tick in axes.ticks():
        pen.line([(LEFT, axes.y(tick)), (RIGHT, axes.y(tick))], ink=GRID, width=2)
    pen.line([(LEFT, BOTTOM), (RIGHT, BOTTOM)], ink=INK, width=2)
    for depth in _labelled_depths(rerankings, axes):
        pen.line([(axes.x(depth), BOTTOM), (axes.x(depth), BOTTOM + 12)], ink=INK, width=2)
    for each, ink in zip(rerankings, COLOURS, strict=False):
        pen.dashes((LEFT, axes.y(each.first_percent)), RIGHT, ink=ink)
    for each, ink in zip(rerankings, COLOURS, strict=False):
        points = [(axes.x(point.depth), axes.y(point.percent)) for point in each.curve]
        if len(points) > 1:
            pen.line(points, ink=ink)
        for point in points:
            pen.mark(point, ink=ink)
    for row, ink in zip(range(len(rerankings)), COLOURS, strict=False):
        y = _legend_y(row)
        pen.line([(MARGIN, y), (MARGIN + SAMPLE_WIDTH, y)], ink=ink)
        pen.mark((MARGIN + SAMPLE_WIDTH / 2, y), ink=ink)
        pen.dashes((MARGIN + LEGEND_COLUMN, y), MARGIN + LEGEND_COLUMN + SAMPLE_WIDTH, ink=ink)


def _write_legend(draw: ImageDraw.ImageDraw, rerankings: Sequence[MeasuredReranking]) -> None:
    for row, each in enumerate(rerankings):
        for column, what in enumerate(("reranked", "first stage")):
            left = MARGIN + column * LEGEND_COLUMN + SAMPLE_WIDTH + 16
            _write(draw, f"{each.first.run.name}, {what}", at=(left, _legend_y(row)))


def _write_values(draw: ImageDraw.ImageDraw, axes: Axes, rerankings: Sequence[MeasuredReranking]) -> None:
    """The percentages at the right ends, moved apart where lines end close together."""
    ends = [
        (axes.y(percent), f"{percent:.1f}", ink)
        for each, ink in zip(rerankings, COLOURS, strict=False)
        for percent in (each.curve[-1].percent, each.first_percent)
    ]
    ends.sort()
    for y, (_, value, ink) in zip(_apart([y for y, _, _ in ends]), ends, strict=True):
        _write(draw, value, at=(RIGHT + 16, y), ink=ink)


def _apart(places: Sequence[float]) -> list[float]:
    """Ascending places with `MIN_LABEL_DISTANCE` between neighbours: groups that touch are spread around their middle."""
    groups: list[list[float]] = []
    for place in places:
        groups.append([place])
        while len(groups) > 1 and _spread(groups[-1])[0] - _spread(groups[-2])[-1] < MIN_LABEL_DISTANCE:
            groups[-2:] = [groups[-2] + groups[-1]]
    return [place for group in groups for place in _spread(group)]


def _spread(group: Sequence[float]) -> list[float]:
    middle = sum(group) / len(group)
    return [middle + (number - (len(group) - 1) / 2) * MIN_LABEL_DISTANCE for number in range(len(group))]


def _labelled_depths(rerankings: Sequence[MeasuredReranking], axes: Axes) -> list[int]:
    """Of the points, the powers of two, and others where their numbers don't touch."""
    depths = sorted({point.depth for each in rerankings for point in each.curve})
    powers = [depth for depth in depths if depth & (depth - 1) == 0]
    others = [depth for depth in depths if depth not in powers and all(abs(axes.x(depth) - axes.x(power)) > 60 for power in powers)]
    return sorted(powers + others)


def _legend_y(row: int) -> int:
    return 124 + row * 38


def _round_step(at_least: float) -> float:
    """The next of 1, 2, 5, 10 and 20 percentage points."""
    return next((step for step in (1.0, 2.0, 5.0, 10.0) if step >= at_least), 20.0)


def _write(
    draw: ImageDraw.ImageDraw,
    text: str,
    *,
    at: Pixel,
    size: int = TEXT_SIZE,
    ink: str = INK,
    anchor: Literal["lm", "mm", "rm"] = "lm",
    width: int = WIDTH,
) -> None:
    """The text with its left end, middle or right end in the middle of a line at that height."""
    font, drawable = font_for(text, size=size)
    draw.text(at, elided(drawable, font, width=width), font=font, fill=ink, anchor=anchor)
