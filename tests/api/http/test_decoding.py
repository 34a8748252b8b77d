"""Pictures of strangers: what a bad one costs is its own request."""

import io
import os
import signal
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from api.http.decoding import DecodingLimits, PictureDecoder
from sightline.encoders.image_input import DecodedImage, decode_image
from sightline.errors import ImageTooLarge, UnreadableImage

DEADLINE_S = 30.0


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def photograph(width: int, height: int) -> Image.Image:
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def claimed_png(width: int, height: int, *, rows: int = 0) -> bytes:
    """A PNG whose header says so many pixels, with `rows` rows of zeros behind it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes((1 + 3 * width) * rows), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def decoder() -> Iterator[PictureDecoder]:
    decoder = PictureDecoder(DecodingLimits(max_pixels=100_000_000))
    yield decoder
    decoder.close()


def fails(decoder: PictureDecoder, content: bytes) -> UnreadableImage:
    with pytest.raises(UnreadableImage) as caught:
        decoder.decode(content)
    return caught.value


def assert_still_decodes(decoder: PictureDecoder) -> None:
    decoded = decoder.decode(encoded(Image.new("RGB", (30, 20), "red")))
    assert (decoded.width, decoded.height, decoded.image.getpixel((3, 3))) == (30, 20, (255, 0, 0))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_small_picture_is_the_one_that_is_decoded_here(decoder: PictureDecoder, kind: str) -> None:
    content = encoded(photograph(300, 200), kind)
    here = decode_image(content, name="it", max_pixels=10**6, target_side=None)

    there = decoder.decode(content)

    assert (there.width, there.height) == (300, 200)
    assert there.image.tobytes() == here.image.tobytes()


def test_a_large_one_is_made_smaller_and_remembers_its_size(decoder: PictureDecoder) -> None:
    decoded = decoder.decode(encoded(photograph(4000, 3000)), side=600)

    assert decoded.image.size == (800, 600)
    assert (decoded.width, decoded.height) == (4000, 3000)


def test_exif_turns_it(decoder: PictureDecoder) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    photograph(60, 40).save(file, "JPEG", exif=exif)
    assert decoder.decode(file.getvalue()).image.size == (40, 60)


def test_two_pixels_are_a_picture_and_one_is_none(decoder: PictureDecoder) -> None:
    decoded = decoder.decode(encoded(Image.new("RGB", (2, 1), "blue")))
    assert (decoded.image.size, decoded.image.getpixel((0, 0))) == ((2, 1), (0, 0, 255))
    with pytest.raises(UnreadableImage, match="a single pixel"):
        decoder.decode(encoded(Image.new("RGB", (1, 1), "blue")))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"hello", "text, not a picture"),
        (bytes(5000), "not an image format"),
        (encoded(photograph(200, 200))[:9000], "cut short"),
        (encoded(photograph(200, 200), "JPEG")[:2000], "cut short"),
        (claimed_png(100, 100), "the picture"),
    ],
)
def test_what_is_no_picture_is_said_so(decoder: PictureDecoder, content: bytes, said: str) -> None:
    before = set(decoder.process_ids)

    assert said in str(fails(decoder, content))

    assert before <= set(decoder.process_ids)  # it costs no process
    assert_still_decodes(decoder)


def test_a_bomb_is_refused_by_its_header(decoder: PictureDecoder) -> None:
    error = fails(decoder, claimed_png(50_000, 50_000, rows=10))
    assert isinstance(error, ImageTooLarge)
    assert "50,000 x 50,000 pixels are more than the 100,000,000 allowed" in str(error)
    assert "SIGHTLINE" not in str(error)


def test_a_picture_that_takes_too_much_memory_costs_its_request() -> None:
    decoder = PictureDecoder(DecodingLimits(memory_bytes=60_000_000), num_processes=1)
    try:
        assert "memory" in str(fails(decoder, claimed_png(9000, 9000, rows=9000)))
        assert_still_decodes(decoder)
    finally:
        decoder.close()


def test_a_picture_that_takes_too_long_costs_its_request() -> None:
    decoder = PictureDecoder(DecodingLimits(timeout_s=0.05), num_processes=1)
    slow = claimed_png(9900, 9900, rows=9900)
    try:
        assert "took longer than 0.05 s" in str(fails(decoder, slow))
        assert decoder.process_ids == ()
    finally:
        decoder.close()


def test_a_process_that_is_killed_in_mid_decode_costs_its_request() -> None:
    decoder = PictureDecoder(DecodingLimits(), num_processes=1)
    caught: list[UnreadableImage] = []
    try:
        assert_still_decodes(decoder)
        (process_id,) = decoder.process_ids
        before_s = cpu_s(process_id)
        thread = threading.Thread(target=lambda: caught.append(fails(decoder, claimed_png(9900, 9900, rows=9900))))
        thread.start()
        give_up_at = time.monotonic() + DEADLINE_S
        while cpu_s(process_id) <= before_s and time.monotonic() < give_up_at:  # it has begun to decode
            thread.join(0.005)
        os.kill(process_id, signal.SIGKILL)
        thread.join(DEADLINE_S)

        assert "failed badly" in str(caught[0])
        assert_still_decodes(decoder)
        assert decoder.process_ids not in ((), (process_id,))
    finally:
        decoder.close()


def test_one_that_dies_in_its_sleep_costs_nothing(decoder: PictureDecoder) -> None:
    assert_still_decodes(decoder)
    for process_id in decoder.process_ids:
        os.kill(process_id, signal.SIGKILL)
        wait_until_dead(process_id)

    assert_still_decodes(decoder)


def test_many_at_once_each_get_their_own(decoder: PictureDecoder) -> None:
    pictures = [encoded(Image.new("RGB", (10 + number, 10), (number, 0, 0))) for number in range(12)]
    found: dict[int, DecodedImage] = {}
    threads = [threading.Thread(target=lambda n=n: found.update({n: decoder.decode(pictures[n])})) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)

    assert {n: (each.width, each.image.getpixel((0, 0))) for n, each in found.items()} == {n: (10 + n, (n, 0, 0)) for n in range(12)}
    assert len(decoder.process_ids) == 2


def test_closing_leaves_no_process() -> None:
    decoder = PictureDecoder(DecodingLimits())
    assert_still_decodes(decoder)
    (process_id,) = decoder.process_ids

    decoder.close()

    assert not Path(f"/proc/{process_id}").exists()


def cpu_s(process_id: int) -> float:
    fields = Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_until_dead(process_id: int) -> None:
    """Dead or a zombie, which its parent has yet to look at."""
    give_up_at = time.monotonic() + DEADLINE_S
    while time.monotonic() < give_up_at:
        state = Path(f"/proc/{process_id}/stat")
        if not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
    raise AssertionError(f"process {process_id} lives on")
