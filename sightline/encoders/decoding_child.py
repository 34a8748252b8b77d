"""A process that decodes pictures for another one and may die of them: `python -m sightline.encoders.decoding_child MEMORY_BYTES`.

It reads requests from standard input and answers on standard output until its input ends, which it does when its parent is gone. It can
take `MEMORY_BYTES` more than it has when it begins, writes no files, and imports nothing but what decoding takes.

Request:   header (bytes of the picture, most pixels, wanted side), picture.
Response:  bytes of the JSON object, the object, and after one with a size the pixels: RGB, row by row.
"""

import contextlib
import json
import os
import resource
import struct
import sys
from pathlib import Path
from typing import IO, Any

from PIL import Image

from sightline.encoders.image_input import decode_image, readable_formats
from sightline.errors import ImageTooLarge, UnreadableImage

REQUEST = struct.Struct("<QQQ")
RESPONSE = struct.Struct("<Q")

_MAX_SENT_PIXELS = 16_000_000
"""A strip of a picture, thin and very long, is made smaller than its shorter side asks for."""

_WORTH_REDUCING = 1.25
"""A picture that is hardly larger than wanted is sent as it is: resizing twice blurs."""


def main() -> None:
    """Answer until the input ends."""
    requests, responses = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    sys.stdout = sys.stderr  # what a library prints is no response
    readable_formats()  # imports Pillow's plugins before there is a limit
    _limit(int(sys.argv[1]))
    while len(header := requests.read(REQUEST.size)) == REQUEST.size:
        num_bytes, max_pixels, side = REQUEST.unpack(header)
        content = requests.read(num_bytes)
        if len(content) < num_bytes:
            return
        said, pixels = _answered(content, max_pixels=max_pixels, side=side)
        _respond(responses, said, pixels)


def _answered(content: bytes, *, max_pixels: int, side: int) -> tuple[dict[str, Any], bytes]:
    try:
        decoded = decode_image(content, name="", max_pixels=max_pixels, target_side=side // 2)  # which keeps twice that of a JPEG
        image = reduced(decoded.image, side)
        return {"size": image.size, "original": (decoded.width, decoded.height)}, image.tobytes()
    except UnreadableImage as error:
        return {"is_too_large": isinstance(error, ImageTooLarge), "reason": error.reason}, b""
    except MemoryError:  # while it was made smaller
        return {"is_too_large": True, "reason": "not enough memory to make it smaller"}, b""


def reduced(image: Image.Image, side: int) -> Image.Image:
    """The picture with its shorter side about `side` pixels, where that makes it smaller, and at most 16 million pixels."""
    scale = side / min(image.size)
    if scale * _WORTH_REDUCING >= 1:
        scale = 1.0
    scale = min(scale, (_MAX_SENT_PIXELS / (image.width * image.height)) ** 0.5)
    if scale >= 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _respond(responses: IO[bytes], said: dict[str, Any], pixels: bytes) -> None:
    packed = json.dumps(said).encode()
    responses.write(RESPONSE.pack(len(packed)) + packed)
    responses.write(pixels)
    responses.flush()


def _limit(memory_bytes: int) -> None:
    with contextlib.suppress(OSError, ValueError):  # a system that has no such limit, or a lower one already
        own_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (own_bytes + memory_bytes, own_bytes + memory_bytes))
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(limit, (0, 0))


if __name__ == "__main__":
    main()
