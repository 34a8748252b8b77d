"""An answer as one picture: the hits in rows, each in its own shape, with rank, similarity and file name below, under the query."""

import errno
import math
import tempfile
from pathlib import Path, PurePosixPath

from PIL import Image, ImageDraw

from api.typeface import Font, font_for
from search.engine import Answer, Hit
from sightline.encoders.image_input import decode_image
from sightline.errors import InvalidInput, OutOfSpace, StorageError, UnreadableImage
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

PAPER = "#ffffff"
INK = "#1c1c1e"
FAINT_INK = "#6e6e73"
PLACEHOLDER = "#ececf0"

Point = tuple[int, int]


def write_contact_sheet(answer: Answer, path: Path, *, max_pixels: int) -> None:
    """Draw the answer and put it at `path`, in the format of its suffix, replacing a file of that name in one step.

    Raises `InvalidInput` when the suffix names no format or the folder cannot be written, `OutOfSpace` when the disk is full.
    """
    picture_format = Image.registered_extensions().get(path.suffix.lower())
    if picture_format not in Image.SAVE:
        raise InvalidInput(f"{path}: {path.suffix!r} is no format that a sheet can be written in; end the name in .png or .jpg")
    sheet = draw_contact_sheet(answer, max_pixels=max_pixels)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".sheet-") as folder:
            drawn = Path(folder) / path.name
            sheet.save(drawn, format=picture_format)
            drawn.replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from error


def draw_contact_sheet(answer: Answer, *, max_pixels: int) -> Image.Image:
    """An RGB picture of the first 200 hits; pictures that are gone or unreadable leave a grey square that says so."""
    hits = answer.hits[:MAX_SHEET_HITS]
    columns = max(MIN_COLUMNS, math.ceil(math.sqrt(len(hits) * COLUMNS_PER_ROW)))
    columns = min(columns, max(MIN_COLUMNS, len(hits)))
    width = MARGIN + columns * (PICTURE_SIDE + MARGIN)
    title = str(answer.query) if hits else f"{answer.query}: nothing found"
    title_font, title = font_for(title, size=TITLE_SIZE)
    title_lines = wrapped(title, title_font, width=width - 2 * MARGIN, num_lines=2)
    top = MARGIN + len(title_lines) * _line_height(TITLE_SIZE) + MARGIN
    row_height = PICTURE_SIDE + CAPTION_HEIGHT + MARGIN
    sheet = Image.new("RGB", (width, top + math.ceil(len(hits) / columns) * row_height), PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_lines(draw, title_lines, title_font, at=(MARGIN, MARGIN))
    for position, hit in enumerate(hits):
        row, column = divmod(position, columns)
        corner = (MARGIN + column * (PICTURE_SIDE + MARGIN), top + row * row_height)
        _draw_hit(sheet, hit, corner=corner, max_pixels=max_pixels)
        _draw_caption(draw, hit, corner=(corner[0], corner[1] + PICTURE_SIDE + MARGIN // 2))
    return sheet


def wrapped(text: str, font: Font, *, width: int, num_lines: int) -> list[str]:
    """Words in at most `num_lines` lines of at most `width` pixels; what is left over becomes an ellipsis at the end."""
    lines = [""]
    words = text.split()
    for position, word in enumerate(words):
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        elif len(lines) < num_lines:
            lines.append(word)
        else:
            lines[-1] = _cut(" ".join([lines[-1], *words[position:]]), font, width=width)
            break
    return [elided(line, font, width=width) for line in lines]


def elided(text: str, font: Font, *, width: int) -> str:
    """The text, with its middle replaced by an ellipsis where it is longer than `width` pixels: names differ at their ends."""
    if font.getlength(text) <= width:
        return text
    for kept in range(min(len(text), width) - 1, 0, -1):
        shorter = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
        if font.getlength(shorter) <= width:
            return shorter
    return "…"


def _cut(text: str, font: Font, *, width: int) -> str:
    """The beginning of the text with an ellipsis, in `width` pixels."""
    for kept in range(min(len(text), width), 0, -1):
        if font.getlength(f"{text[:kept]}…") <= width:
            return f"{text[:kept]}…"
    return "…"


def _draw_hit(sheet: Image.Image, hit: Hit, *, corner: Point, max_pixels: int) -> None:
    """The picture, standing on the bottom of its square so that captions stay close; words for a text or a missing picture."""
    left, top = corner
    if hit.modality is Modality.TEXT:
        _draw_placeholder(ImageDraw.Draw(sheet), hit.text or "", corner=corner)
        return
    try:
        picture = _thumbnail(hit, max_pixels=max_pixels)
    except UnreadableImage as error:
        _draw_placeholder(ImageDraw.Draw(sheet), error.reason, corner=corner)
    else:
        sheet.paste(picture, (left + (PICTURE_SIDE - picture.width) // 2, top + PICTURE_SIDE - picture.height))


def _thumbnail(hit: Hit, *, max_pixels: int) -> Image.Image:
    path = Path(hit.location)
    if not path.is_file():
        raise UnreadableImage(hit.location, reason="the file is not there any more")
    picture = decode_image(path, name=hit.location, max_pixels=max_pixels, target_side=PICTURE_SIDE).image
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    return picture


def _draw_caption(draw: ImageDraw.ImageDraw, hit: Hit, *, corner: Point) -> None:
    left, top = corner
    font, place = font_for(f"{hit.rank}    {hit.similarity:.3f}", size=CAPTION_SIZE)
    draw.text((left, top), place, font=font, fill=INK)
    font, name = font_for(PurePosixPath(hit.key).name, size=CAPTION_SIZE)
    draw.text((left, top + _line_height(CAPTION_SIZE)), elided(name, font, width=PICTURE_SIDE), font=font, fill=FAINT_INK)


def _draw_placeholder(draw: ImageDraw.ImageDraw, text: str, *, corner: Point) -> None:
    left, top = corner
    draw.rectangle((left, top, left + PICTURE_SIDE - 1, top + PICTURE_SIDE - 1), fill=PLACEHOLDER)
    font, text = font_for(text, size=CAPTION_SIZE)
    num_lines = (PICTURE_SIDE - MARGIN) // _line_height(CAPTION_SIZE)
    lines = wrapped(text, font, width=PICTURE_SIDE - MARGIN, num_lines=num_lines)
    _draw_lines(draw, lines, font, at=(left + MARGIN // 2, top + MARGIN // 2))


def _draw_lines(draw: ImageDraw.ImageDraw, lines: list[str], font: Font, *, at: Point) -> None:
    left, top = at
    size = round(getattr(font, "size", CAPTION_SIZE))
    for number, line in enumerate(lines):
        draw.text((left, top + number * _line_height(size)), line, font=font, fill=INK)


def _line_height(size: int) -> int:
    return round(size * 1.25)


def _cannot_write(path: Path, error: OSError) -> InvalidInput | StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfSpace(f"{path}: the disk is full; free some space, or write the sheet elsewhere")
    return InvalidInput(f"{path}: the sheet cannot be written: {error.strerror or error}")
