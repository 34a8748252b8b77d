"""What every picture that we draw is made with: colours, lines of text that fit, and files that appear whole."""

import errno
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

from api.typeface import Font
from sightline.errors import InvalidInput, OutOfSpace, StorageError

PAPER = "#ffffff"
INK = "#1c1c1e"
FAINT_INK = "#6e6e73"

Point = tuple[int, int]


def check_drawable(path: Path, *, what: str = "sheet") -> None:
    """Raises what `save_picture` would, before anything is drawn or computed for it; messages call the picture `what`."""
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise InvalidInput(f"{path}: {path.suffix!r} is no format that a {what} can be written in; end the name in .png or .jpg")
    if path.is_dir():
        raise InvalidInput(f"{path}: the {what} cannot be written: it is a folder")
    try:
        tempfile.TemporaryDirectory(dir=path.parent, prefix=".drawn-").cleanup()
    except OSError as error:
        raise _cannot_write(path, error, what=what) from error


def save_picture(picture: Image.Image, path: Path, *, what: str = "sheet") -> None:
    """Put the picture at `path`, in the format of its suffix, replacing a file of that name in one step.

    Raises `InvalidInput` when the suffix names no format or the folder cannot be written, `OutOfSpace` when the disk is full.
    """
    check_drawable(path, what=what)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".drawn-") as folder:
            drawn = Path(folder) / path.name
            picture.save(drawn, format=Image.registered_extensions()[path.suffix.lower()])
            drawn.replace(path)
    except OSError as error:
        raise _cannot_write(path, error, what=what) from error


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


def draw_lines(draw: ImageDraw.ImageDraw, lines: list[str], font: Font, *, at: Point, size: int) -> None:
    """Lines of text one below the other, the first with its upper left corner at `at`."""
    left, top = at
    for number, line in enumerate(lines):
        draw.text((left, top + number * line_height(size)), line, font=font, fill=INK)


def line_height(size: int) -> int:
    """From one line to the next, of a font of so many pixels."""
    return round(size * 1.25)


def _cannot_write(path: Path, error: OSError, *, what: str) -> InvalidInput | StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfSpace(f"{path}: the disk is full; free some space, or write the {what} elsewhere")
    return InvalidInput(f"{path}: the {what} cannot be written: {error.strerror or error}")
