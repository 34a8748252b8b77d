"""Any picture that Pillow reads as upright 8-bit RGB, within a cap on pixels, or one error that says why not.

Opening and decoding are two steps, because a decoder that works on many pictures at once has to know how much memory
a picture will take before it takes it: `open_image` reads the header only, `PendingImage.decode` the pixels.
`decode_image` is both.

Pillow's own guard against decompression bombs is one process-wide number that warns below twice its value; here the
cap is a caller's value, exact, and checked on the header. That is why `_open_plugin` repeats the few lines of
`PIL.Image.open` that choose a plugin instead of calling it. The guards inside plugins (an icon that holds a huge PNG)
stay as Pillow has them.
"""

import errno
import io
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageFile

from sightline.errors import ImageTooLarge, UnreadableImage

# EPS starts Ghostscript, an interpreter for a whole programming language, on what may be anybody's file. The others are
# stubs in Pillow: it tells the format and cannot decode it.
_NEVER_DECODED = frozenset({"EPS", "BUFR", "GRIB", "HDF5", "MPEG", "WMF"})

# Pictures to the person who keeps them although Pillow has no decoder for them (or only for a preview inside): they are
# tried, so that what cannot be read is reported instead of passed over in silence.
_CAMERA_SUFFIXES = frozenset({".heic", ".heif", ".hif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"})

# A JPEG is decoded in DCT-scaled form while its shorter side stays at this multiple of the network's side. Measured on five
# photographs of 2 to 9 megapixels, reduced to 224 px, against decoding in full: at twice the side a mean difference of 0.10 to
# 0.32 grey levels (99 % within 2) in 37 to 60 % of the time; at once the side up to 1.24 (99 % within 10) for little less time.
_DRAFT_MARGIN = 2

_ASK_FOR_MEMORY_PIXELS = 100_000_000
"""Smaller pictures take 3 GB at most and are decoded without asking how much is free."""

# At the height of `PendingImage.decode`, a pixel. Pillow keeps colours in 4 bytes, with or without alpha: as the file has them, as RGB,
# turned upright; over white there are five such copies. Numbers become float64 on the way to 8 bits.
_BYTES_PER_PIXEL = 12
_BYTES_PER_PIXEL_WITH_ALPHA = 20
_BYTES_PER_PIXEL_OF_NUMBERS = 28

_CGROUP = Path("/sys/fs/cgroup")

_TURN_BY_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDES_SWAPPED = frozenset({5, 6, 7, 8})

_BIT_DEPTHS = (8, 10, 12, 14, 16)  # of sensors and scanners that write 16-bit files


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A picture ready for `Encoder.prepare`."""

    image: Image.Image  # mode RGB, upright; a JPEG may be smaller than width x height, in the same proportions
    width: int  # pixels of the original, upright
    height: int


@cache
def readable_formats() -> tuple[str, ...]:
    """Names of the formats that are decoded, in the order in which Pillow tries them."""
    Image.init()
    return tuple(name for name in Image.ID if name not in _NEVER_DECODED)


@cache
def image_suffixes() -> frozenset[str]:
    """File name suffixes, lower case with the dot, that make a file a picture to be indexed."""
    formats = set(readable_formats()) | {"MPO"}
    named = {suffix for suffix, name in Image.registered_extensions().items() if name in formats}
    return frozenset(named | _CAMERA_SUFFIXES)


class PendingImage:
    """A picture of which only the header was read; made by `open_image`, valid while its block lasts."""

    __slots__ = ("_image", "_name", "_original_size")

    def __init__(self, image: ImageFile.ImageFile, *, name: str, original_size: tuple[int, int]) -> None:
        self._image = image
        self._name = name
        self._original_size = original_size

    @property
    def num_pixels(self) -> int:
        """Pixels that `decode` will hold in memory."""
        width, height = self._image.size
        return width * height

    def decode(self) -> DecodedImage:
        """The pixels, upright RGB. Raises `UnreadableImage`."""
        with _translated(self._name):
            self._image.load()
            orientation = _orientation(self._image)  # of a TIFF always 1: Pillow turns those itself while it loads them
            upright = _turned(_as_rgb(self._image), orientation)
        width, height = self._original_size
        if orientation in _SIDES_SWAPPED:
            width, height = height, width
        return DecodedImage(image=upright, width=width, height=height)


@contextmanager
def open_image(source: Path | bytes | IO[bytes], *, name: str, max_pixels: int, target_side: int | None) -> Iterator[PendingImage]:
    """Reads the header of a picture and checks its size, in pixels, against `max_pixels`.

    `target_side` is the side in pixels that the network reads: a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where
    its shorter side stays at least twice that; None decodes in full. `name` is what errors call the picture.
    Raises `UnreadableImage`, or `ImageTooLarge` before anything of that size is allocated; also for a picture within the cap whose
    pixels do not fit the memory that is available.
    """
    with ExitStack() as stack:
        with _translated(name):
            file = stack.enter_context(_as_file(source))
            image = _read_header(file, name=name, max_pixels=max_pixels)
            original_size = image.size
            if target_side is not None:
                wanted_side = _DRAFT_MARGIN * target_side
                image.draft("RGB", (wanted_side, wanted_side))
            _require_memory(image, name=name)
        # Outside `_translated`: what goes wrong in the caller's block is not the picture's fault.
        yield PendingImage(image, name=name, original_size=original_size)


def _read_header(file: IO[bytes], *, name: str, max_pixels: int) -> ImageFile.ImageFile:
    image = _open_plugin(file)
    if image is None:
        raise UnreadableImage(name, reason=_why_unidentified(file))
    width, height = image.size
    if width * height > max_pixels:
        raise ImageTooLarge(
            name,
            reason=f"{width:,} x {height:,} pixels are more than the {max_pixels:,} allowed; SIGHTLINE_MAX_PIXELS raises the cap",
        )
    return image


def _require_memory(image: ImageFile.ImageFile, *, name: str) -> None:
    """Refuses what would take more memory than there is: the system would not fail an allocation but end the process."""
    num_pixels = image.width * image.height
    if num_pixels <= _ASK_FOR_MEMORY_PIXELS:
        return
    needed_bytes, available_bytes = num_pixels * _bytes_per_pixel(image), _available_memory_bytes()
    if available_bytes is not None and needed_bytes > available_bytes:
        raise ImageTooLarge(
            name,
            reason=f"decoding {image.width:,} x {image.height:,} pixels takes {needed_bytes / 1e9:,.1f} GB of memory "
            f"and {available_bytes / 1e9:,.1f} GB are available; a smaller copy can be read",
        )


def _bytes_per_pixel(image: Image.Image) -> int:
    if image.mode.startswith("I") or image.mode == "F":
        return _BYTES_PER_PIXEL_OF_NUMBERS
    return _BYTES_PER_PIXEL_WITH_ALPHA if image.has_transparency_data else _BYTES_PER_PIXEL


def _available_memory_bytes() -> int | None:
    """What Linux says can be had without swapping, within a container's limit; elsewhere all memory, where the system tells it."""
    try:
        sizes = _fields(Path("/proc/meminfo"))
        available_bytes = int(sizes["MemAvailable:"]) * 1024
    except (OSError, KeyError, ValueError):
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, OSError, ValueError):
            return None
    try:  # cgroup v2 as a container sees it: what is not anonymous is page cache, which gives way
        limit = int((_CGROUP / "memory.max").read_text())
        return min(available_bytes, max(0, limit - int(_fields(_CGROUP / "memory.stat")["anon"])))
    except (OSError, KeyError, ValueError):
        return available_bytes


def _fields(path: Path) -> dict[str, str]:
    """First and second word of each line."""
    return {words[0]: words[1] for line in path.read_text(encoding="ascii").splitlines() if len(words := line.split()) > 1}


def decode_image(source: Path | bytes | IO[bytes], *, name: str, max_pixels: int, target_side: int | None) -> DecodedImage:
    """A picture as upright 8-bit RGB with the size of its original; parameters and errors are those of `open_image`.

    Alpha is composited over white; of an animation or a document of several pages the first frame is taken; samples of
    more than 8 bits are scaled by the bit depth in use, floats and negative values by their own range.
    """
    with open_image(source, name=name, max_pixels=max_pixels, target_side=target_side) as pending:
        return pending.decode()


@contextmanager
def _as_file(source: Path | bytes | IO[bytes]) -> Iterator[IO[bytes]]:
    match source:
        case bytes():
            yield io.BytesIO(source)
        case Path():
            with source.open("rb") as file:
                yield file
        case _:
            yield source


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """Whatever a broken file makes a decoder stumble over becomes `UnreadableImage`.

    `except Exception` on purpose: plugins raise OSError, SyntaxError, ValueError, struct.error, zlib.error, KeyError and
    more, by accident of what they were reading; a list would be a list of the accidents so far.
    """
    try:
        yield
    except UnreadableImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(name, reason=f"it holds a picture of too many pixels ({error})") from error
    except MemoryError as error:
        raise UnreadableImage(name, reason="not enough memory to decode it; a lower SIGHTLINE_MAX_PIXELS skips such pictures") from error
    except Exception as error:
        raise UnreadableImage(name, reason=_reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return "the file vanished" if error.errno == errno.ENOENT else os.strerror(error.errno)
    said = str(error).strip() or type(error).__name__
    return "it is cut short" if "truncated" in said.lower() else f"damaged or not supported ({said})"


def _open_plugin(file: IO[bytes]) -> ImageFile.ImageFile | None:
    """The header as Pillow's plugin for it reads it; None if no plugin takes it. As `PIL.Image.open`, without its size check."""
    formats = readable_formats()
    file.seek(0)
    prefix = file.read(16)
    for format_name in formats:
        factory, accept = Image.OPEN[format_name]
        try:
            if accept is None or accept(prefix) is True:
                file.seek(0)
                return factory(file, "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue  # how a plugin says that the file is not one of its own
    return None


def _why_unidentified(file: IO[bytes]) -> str:
    file.seek(0)
    head = file.read(512)
    if not head:
        return "the file is empty"
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"hevc"):
        return "HEIC pictures cannot be read; convert it to JPEG"
    if b"\0" not in head and _is_text(head):
        return "it holds text, not a picture"
    return "not an image format that Pillow reads"


def _is_text(head: bytes) -> bool:
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4  # a character cut in two by the end of what was read
    return True


def _orientation(image: Image.Image) -> int:
    """EXIF (or XMP) orientation, 1 to 8; 1 when there is none or it is damaged, which must not cost the picture."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001  EXIF is a file format of its own, with the same accidents
        return 1
    return orientation if orientation in _TURN_BY_ORIENTATION else 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    turn = _TURN_BY_ORIENTATION.get(orientation)
    return image if turn is None else image.transpose(turn)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if image.mode == "LAB":
        return _lab_as_rgb(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    # A copy also where the mode is RGB already: the plugin's object keeps the file's bytes and metadata alive.
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _lab_as_rgb(image: Image.Image) -> Image.Image:
    converted = ImageCms.profileToProfile(image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert converted is not None  # None only with inPlace=True
    return converted


def _to_8_bits(samples: NDArray[np.generic]) -> NDArray[np.uint8]:
    """(height, width) of any number type -> (height, width) in 0..255, keeping what the numbers mean.

    Integers are divided by the largest value of the smallest usual bit depth that holds the brightest of them: 12-bit
    scans in 16-bit files come out as bright as they are, and a photograph's contrast is left alone. Floats in 0..1 are
    taken as that; anything else is stretched from its own minimum to its own maximum.
    """
    values = np.nan_to_num(samples.astype(np.float64 if samples.dtype.itemsize > 2 else np.float32), posinf=0.0, neginf=0.0)
    lowest, highest = float(values.min()), float(values.max())
    if np.issubdtype(samples.dtype, np.floating) and lowest >= 0 and highest <= 1:
        black, white = 0.0, 1.0
    elif lowest >= 0 and highest < 2 ** _BIT_DEPTHS[-1]:
        black, white = 0.0, float(next(2**bits - 1 for bits in _BIT_DEPTHS if highest < 2**bits))
    else:
        black, white = lowest, highest
    values -= black
    values *= 255 / ((white - black) or 1.0)
    eight_bits: NDArray[np.uint8] = np.rint(values).astype(np.uint8)
    return eight_bits
