"""A drawn picture put on disk, in the format of its name's suffix."""

import errno
import tempfile
from pathlib import Path

from PIL import Image

from sightline.errors import InvalidInput, OutOfSpace, StorageError


def write_picture(picture: Image.Image, path: Path, *, what: str) -> None:
    """Put the picture, which messages call `what`, at `path`, replacing a file of that name in one step.

    Raises `InvalidInput` when the suffix names no format or the folder cannot be written, `OutOfSpace` when the disk is full.
    """
    picture_format = _format_of(path, what=what)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".drawn-") as folder:
            drawn = Path(folder) / path.name
            picture.save(drawn, format=picture_format)
            drawn.replace(path)
    except OSError as error:
        raise _cannot_write(path, error, what=what) from error


def check_picture_path(path: Path, *, what: str) -> None:
    """Raises what `write_picture` would, before hours are spent on what could not be drawn."""
    _format_of(path, what=what)
    if path.is_dir():
        raise InvalidInput(f"{path}: the {what} cannot be written: it is a folder")
    try:
        tempfile.TemporaryDirectory(dir=path.parent, prefix=".drawn-").cleanup()
    except OSError as error:
        raise _cannot_write(path, error, what=what) from error


def _format_of(path: Path, *, what: str) -> str:
    picture_format = Image.registered_extensions().get(path.suffix.lower())
    if picture_format not in Image.SAVE:
        raise InvalidInput(f"{path}: {path.suffix!r} is no format that a {what} can be written in; end the name in .png or .jpg")
    return picture_format


def _cannot_write(path: Path, error: OSError, *, what: str) -> InvalidInput | StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfSpace(f"{path}: the disk is full; free some space, or write the {what} elsewhere")
    return InvalidInput(f"{path}: the {what} cannot be written: {error.strerror or error}")
