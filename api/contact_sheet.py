"""An answer as one picture: the hits in rows under the query, each in its own shape; below it rank, similarity and file name.

The similarity is the one that the ranking is ordered by, so that the figures fall from picture to picture.
"""

import math
from pathlib import Path, PurePosixPath

from PIL import Image, ImageDraw

from api.drawing import FAINT_INK, INK, PAPER, Point, check_drawable, draw_lines, elided, line_height, save_picture, wrapped
from api.typeface import font_for
from search.engine import Answer, Hit
from sightline.encoders.image_input import decode_image
from sightline.errors import UnreadableImage
from sightline.locations import picture_at
from sightline.types import Modality

MAX_SHEET_HITS = 200
"""More are not drawn: the sheet would take gigabytes of memory, and nobody looks at it in one piece."""

PICTURE_SIDE = 240  # pixels, the square into which each picture is fitted
MARGIN = 16
TITLE_SIZE = 26  # pixels, as all font sizes here
CAPTION_SIZE = 16
CAPTION_HEIGHT = 48  # two lines and the gap above them
MIN_COLUMNS = 3
COLUMNS_PER_ROW = 1.6  # of a full sheet: about the shape of a screen

PLACEHOLDER = "#ececf0"


def write_contact_sheet(answer: Answer, path: Path, *, max_pixels: int) -> None:
    """Draw the answer and put it at `path`, in the format of its suffix, replacing a file of that name in one step.

    Raises `InvalidInput` when the suffix names no format or the folder cannot be written, `OutOfSpace` when the disk is full.
    """
    check_drawable(path)
    save_picture(draw_contact_sheet(answer, max_pixels=max_pixels), path)


def draw_contact_sheet(answer: Answer, *, max_pixels: int) -> Image.Image:
    """An RGB picture of the first 200 hits; pictures that are gone or unreadable leave a grey square that says so."""
    hits = answer.hits[:MAX_SHEET_HITS]
    num_columns = min(max(MIN_COLUMNS, len(hits)), max(MIN_COLUMNS, math.ceil(math.sqrt(len(hits) * COLUMNS_PER_ROW))))
    width = MARGIN + num_columns * (PICTURE_SIDE + MARGIN)
    font, title = font_for(str(answer.query) if hits else f"{answer.query}: nothing found", size=TITLE_SIZE)
    title_lines = wrapped(title, font, width=width - 2 * MARGIN, num_lines=2)
    pictures = [_picture_of(hit, max_pixels=max_pixels) for hit in hits]
    starts = range(0, len(hits), num_columns)
    row_heights = [max(picture.height for picture in pictures[start : start + num_columns]) for start in starts]
    top = MARGIN + len(title_lines) * line_height(TITLE_SIZE) + MARGIN
    sheet = Image.new("RGB", (width, top + sum(row_heights) + len(row_heights) * (CAPTION_HEIGHT + MARGIN)), PAPER)
    draw_lines(ImageDraw.Draw(sheet), title_lines, font, at=(MARGIN, MARGIN), size=TITLE_SIZE)
    for start, row_height in zip(starts, row_heights, strict=True):
        bottom = top + row_height
        for column, (hit, picture) in enumerate(zip(hits[start : start + num_columns], pictures[start:], strict=False)):
            _place(sheet, hit, picture, at=(MARGIN + column * (PICTURE_SIDE + MARGIN), bottom))
        top = bottom + CAPTION_HEIGHT + MARGIN
    return sheet


def _picture_of(hit: Hit, *, max_pixels: int) -> Image.Image:
    """What stands for the hit, at most `PICTURE_SIDE` wide and high."""
    if hit.modality is Modality.TEXT:
        return _square_of_words(hit.text or "")
    try:
        source = picture_at(Path(hit.location))
        picture = decode_image(source, name=hit.location, max_pixels=max_pixels, target_side=PICTURE_SIDE).image
    except UnreadableImage as error:
        return _square_of_words(error.reason)
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    return picture


def _square_of_words(text: str) -> Image.Image:
    square = Image.new("RGB", (PICTURE_SIDE, PICTURE_SIDE), PLACEHOLDER)
    font, text = font_for(text, size=CAPTION_SIZE)
    num_lines = (PICTURE_SIDE - MARGIN) // line_height(CAPTION_SIZE)
    lines = wrapped(text, font, width=PICTURE_SIDE - MARGIN, num_lines=num_lines)
    draw_lines(ImageDraw.Draw(square), lines, font, at=(MARGIN // 2, MARGIN // 2), size=CAPTION_SIZE)
    return square


def _place(sheet: Image.Image, hit: Hit, picture: Image.Image, *, at: Point) -> None:
    """The picture standing on `at`, the left end of its ground, in the middle of its column; the caption below."""
    left, bottom = at
    sheet.paste(picture, (left + (PICTURE_SIDE - picture.width) // 2, bottom - picture.height))
    draw = ImageDraw.Draw(sheet)
    top = bottom + MARGIN // 2
    font, place = font_for(f"{hit.rank}    {hit.ranking_similarity:.3f}", size=CAPTION_SIZE)
    draw.text((left, top), place, font=font, fill=INK)
    font, name = font_for(PurePosixPath(hit.key).name, size=CAPTION_SIZE)
    draw.text((left, top + line_height(CAPTION_SIZE)), elided(name, font, width=PICTURE_SIDE), font=font, fill=FAINT_INK)
