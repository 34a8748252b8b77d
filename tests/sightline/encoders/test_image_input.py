"""A corpus of odd pictures, each made here: what is read comes out upright, in the right colours, and the rest says why not."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from sightline.encoders import image_input
from sightline.encoders.image_input import decode_image, image_suffixes, open_image, readable_formats
from sightline.errors import ImageTooLarge, UnreadableImage

CAP = 2_000_000

MODES_BY_FORMAT = {
    "AVIF": ("RGB", "RGBA"),
    "BLP": ("P",),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "DDS": ("RGB", "RGBA", "L", "LA"),
    "DIB": ("1", "L", "P", "RGB", "RGBA"),
    "GIF": ("1", "L", "P", "RGB", "RGBA"),
    "ICNS": ("RGB", "RGBA"),
    "ICO": ("RGB", "RGBA", "L"),
    "IM": ("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F", "LA"),
    "JPEG": ("L", "RGB", "CMYK", "YCbCr", "1"),
    "JPEG2000": ("L", "LA", "RGB", "RGBA", "YCbCr", "I;16"),
    "MPO": ("L", "RGB", "CMYK"),
    "MSP": ("1",),
    "PCX": ("1", "L", "P", "RGB"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "PPM": ("1", "L", "RGB", "RGBA", "I", "I;16", "F"),
    "QOI": ("RGB", "RGBA"),
    "SGI": ("L", "RGB", "RGBA"),
    "SPIDER": ("F",),
    "TGA": ("1", "L", "LA", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"),
    "WEBP": ("RGB", "RGBA", "L", "P"),
    "XBM": ("1",),
}
EVERY_MODE = [(name, mode) for name, modes in MODES_BY_FORMAT.items() for mode in modes]
LOSSY_TOLERANCE = 40  # grey levels of a block's mean: chroma subsampling and CMYK's naive conversion on 32-pixel blocks


def _halves(mode: str) -> Image.Image:
    """64 x 64: the upper half white, the lower half black, in any mode."""
    grey = np.zeros((64, 64), dtype=np.uint8)
    grey[:32] = 255
    image = Image.fromarray(grey)
    match mode:
        case "I;16":
            return Image.fromarray(grey.astype(np.uint16) * 257)
        case "I":
            return Image.fromarray(grey.astype(np.int32) * 257)
        case "F":
            return Image.fromarray(grey.astype(np.float32) / 255)
        case "LAB":
            srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
            converted = ImageCms.profileToProfile(image.convert("RGB"), srgb, lab, outputMode="LAB")
            assert converted is not None
            return converted
        case "PA":
            return image.convert("LA").convert("PA")
        case _:
            return image.convert(mode)


def _saved(image: Image.Image, format_name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def _decoded(content: bytes | Path, *, target_side: int | None = None, max_pixels: int = CAP) -> np.ndarray:
    return np.asarray(decode_image(content, name="picture", max_pixels=max_pixels, target_side=target_side).image)


@pytest.mark.filterwarnings("ignore:IM image format is deprecated:DeprecationWarning")  # as long as Pillow reads it, so do we
@pytest.mark.parametrize(("format_name", "mode"), EVERY_MODE)
def test_every_mode_of_every_format_that_pillow_writes_is_read(format_name: str, mode: str) -> None:
    pixels = _decoded(_saved(_halves(mode), format_name))

    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    if format_name == "ICNS":  # Pillow writes every size of an icon, and the largest is read
        pixels = pixels[:: len(pixels) // 64, :: len(pixels) // 64]
    assert pixels.shape == (64, 64, 3)
    if format_name == "MSP":  # Pillow's writer keeps the raw bits, whose meaning its reader turns round
        return
    assert pixels[:28].mean() > 255 - LOSSY_TOLERANCE
    assert pixels[36:].mean() < LOSSY_TOLERANCE


def test_the_corpus_covers_every_format_that_pillow_writes_and_reads() -> None:
    Image.init()
    written = set(Image.SAVE) & (set(readable_formats()) | {"MPO"})

    assert written == set(MODES_BY_FORMAT)


def test_formats_that_start_programs_or_cannot_be_decoded_are_left_out() -> None:
    assert "EPS" not in readable_formats()
    with pytest.raises(UnreadableImage, match="text, not a picture"):
        _decoded(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")


def test_suffixes_are_those_of_decodable_formats_and_of_cameras() -> None:
    suffixes = image_suffixes()

    assert {".jpg", ".jpeg", ".png", ".gif", ".webp", ".tif", ".tiff", ".bmp", ".avif", ".heic"} <= suffixes
    assert suffixes.isdisjoint({".eps", ".pdf", ".h5", ".mpg", ".txt", ".json", ""})


ORIENTED_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "AVIF", "MPO")
TO_UPRIGHT_INVERSE = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def _quarters() -> Image.Image:
    """160 x 96: red, blue, green and white quarters, so that no turn or mirror image equals another."""
    image = Image.new("RGB", (160, 96), "white")
    image.paste("red", (0, 0, 80, 48))
    image.paste("blue", (80, 0, 160, 48))
    image.paste("green", (0, 48, 80, 96))
    return image


@pytest.mark.parametrize("target_side", [None, 12])
@pytest.mark.parametrize("format_name", ORIENTED_FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_orientations_come_out_upright(format_name: str, orientation: int, target_side: int | None) -> None:
    upright = _quarters()
    turn = TO_UPRIGHT_INVERSE[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = _saved(upright if turn is None else upright.transpose(turn), format_name, exif=exif)

    decoded = decode_image(content, name="picture", max_pixels=CAP, target_side=target_side)

    assert (decoded.width, decoded.height) == (160, 96)
    expected = np.asarray(upright.resize(decoded.image.size), dtype=int)
    assert np.abs(np.asarray(decoded.image, dtype=int) - expected).mean() < 8  # compression at the quarters' borders
    if format_name == "JPEG" and target_side is not None:
        assert sorted(decoded.image.size) == [24, 40]


def test_damaged_exif_does_not_cost_the_picture() -> None:
    content = _saved(_quarters(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow says that it is corrupt
        assert _decoded(content).shape == (96, 160, 3)


@pytest.mark.parametrize("format_name", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(format_name: str) -> None:
    ramp = np.tile(np.linspace(0, 65535, 256).round().astype(np.uint16), (4, 1))

    pixels = _decoded(_saved(Image.fromarray(ramp), format_name))

    np.testing.assert_array_equal(pixels[0, :, 0], np.arange(256))


def test_twelve_bits_in_a_sixteen_bit_file_use_the_whole_range() -> None:
    ramp = np.tile(np.linspace(0, 4095, 256).round().astype(np.uint16), (4, 1))

    pixels = _decoded(_saved(Image.fromarray(ramp), "PNG"))

    np.testing.assert_array_equal(pixels[0, :, 0], np.arange(256))


def test_sixteen_bit_colour_keeps_the_high_byte() -> None:
    """A 16-bit RGB PNG, which Pillow reads and cannot write: made by hand."""
    row = b"\0" + struct.pack(">3H", 65535, 32768, 0) * 8

    pixels = _decoded(_png(8, 2, bit_depth=16, colour_type=2, rows=row * 2))

    assert pixels.shape == (2, 8, 3)
    np.testing.assert_array_equal(pixels[0, 0], [255, 128, 0])


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], dtype=np.float32), [0, 128, 255]),
        (np.array([[-10.0, 0.0, 10.0]], dtype=np.float32), [0, 128, 255]),
        (np.array([[np.nan, 0.5, 1.0]], dtype=np.float32), [0, 128, 255]),
        (np.array([[-3.0, -3.0, -3.0]], dtype=np.float32), [0, 0, 0]),
        (np.array([[-51, 0, 204]], dtype=np.int32), [0, 51, 255]),
        (np.array([[0, 1 << 20, 1 << 21]], dtype=np.int32), [0, 128, 255]),
    ],
)
def test_wide_samples_by_hand(samples: np.ndarray, expected: list[int]) -> None:
    pixels = _decoded(_saved(Image.fromarray(samples), "TIFF"))

    np.testing.assert_array_equal(pixels[0, :, 0], expected)


def test_adobe_cmyk_jpeg_has_its_colours_the_right_way_round() -> None:
    red = Image.new("CMYK", (32, 32), (0, 255, 255, 0))

    pixels = _decoded(_saved(red, "JPEG", quality=95))

    np.testing.assert_allclose(pixels.mean((0, 1)), [255, 0, 0], atol=6)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composited_over_white(mode: str) -> None:
    image = Image.new(mode, (2, 1), (0, 255) if mode == "LA" else (0, 0, 0, 255))
    image.putpixel((1, 0), (0, 0) if mode == "LA" else (0, 0, 0, 0))

    np.testing.assert_array_equal(_decoded(_saved(image, "PNG"))[0], [[0, 0, 0], [255, 255, 255]])


def test_half_transparent_red_over_white_is_pink() -> None:
    content = _saved(Image.new("RGBA", (4, 4), (255, 0, 0, 128)), "PNG")

    np.testing.assert_array_equal(_decoded(content)[0, 0], [255, 127, 127])


@pytest.mark.parametrize("transparency", [1, b"\xff\x00\xff"])
def test_a_transparent_palette_entry_becomes_white(transparency: int | bytes) -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)

    pixels = _decoded(_saved(image, "PNG", transparency=transparency))

    np.testing.assert_array_equal(pixels[0], [[255, 0, 0], [255, 255, 255]])


def test_a_transparent_colour_of_an_rgb_png_becomes_white() -> None:
    image = Image.new("RGB", (2, 1), (10, 20, 30))
    image.putpixel((1, 0), (0, 0, 0))

    np.testing.assert_array_equal(_decoded(_saved(image, "PNG", transparency=(0, 0, 0)))[0], [[10, 20, 30], [255, 255, 255]])


@pytest.mark.parametrize("format_name", ["GIF", "WEBP", "PNG", "TIFF", "AVIF", "MPO"])
def test_of_an_animation_the_first_frame_is_taken(format_name: str) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "green", "blue")]

    pixels = _decoded(_saved(frames[0], format_name, save_all=True, append_images=frames[1:]))

    np.testing.assert_allclose(pixels.mean((0, 1)), [255, 0, 0], atol=8)


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1), (3, 30_000), (2, 2)])
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "BMP"])
def test_tiny_pictures_and_long_strips(size: tuple[int, int], format_name: str) -> None:
    decoded = decode_image(_saved(Image.new("RGB", size, "red"), format_name), name="strip", max_pixels=CAP, target_side=224)

    assert decoded.image.size == size == (decoded.width, decoded.height)


def test_a_large_jpeg_is_decoded_at_no_less_than_twice_the_side_asked_for() -> None:
    content = _saved(Image.effect_noise((2000, 1000), 60), "JPEG")

    decoded = decode_image(content, name="picture", max_pixels=10_000_000, target_side=100)

    assert (decoded.width, decoded.height) == (2000, 1000)
    assert decoded.image.size == (500, 250)


def test_scaled_decoding_looks_like_full_decoding() -> None:
    scene = Image.effect_mandelbrot((1600, 1200), (-2, -1.2, 1, 1.2), 60)
    content = _saved(scene.convert("RGB"), "JPEG", quality=92)

    scaled, full = (
        decode_image(content, name="picture", max_pixels=10_000_000, target_side=side).image.resize((224, 224), Image.Resampling.BICUBIC)
        for side in (224, None)
    )

    # Photographs measured at most 0.32; a fractal has edges everywhere.
    assert np.abs(np.asarray(scaled, dtype=int) - np.asarray(full, dtype=int)).mean() < 1.5


def _png(width: int, height: int, *, bit_depth: int, colour_type: int, rows: bytes) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _huge_png() -> bytes:
    return _png(60_000, 60_000, bit_depth=8, colour_type=2, rows=b"\0" * 1000)


def test_a_header_that_claims_sixty_thousand_squared_is_refused_before_decoding() -> None:
    with pytest.raises(ImageTooLarge, match=r"60,000 x 60,000 pixels .* 2,000,000 allowed.*SIGHTLINE_MAX_PIXELS"):
        _decoded(_huge_png())


def test_the_cap_is_exact() -> None:
    content = _saved(Image.new("RGB", (100, 100)), "PNG")

    assert _decoded(content, max_pixels=10_000).shape == (100, 100, 3)
    with pytest.raises(ImageTooLarge):
        _decoded(content, max_pixels=9_999)


def test_a_picture_above_pillows_own_limit_is_opened_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """`-W error` turns a DecompressionBombWarning into a failure; Pillow's limit is lowered so that the picture stays small."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)

    assert _decoded(_saved(Image.new("RGB", (64, 64)), "PNG")).shape == (64, 64, 3)


def test_an_icon_that_holds_a_bomb_is_refused() -> None:
    bomb = _huge_png()
    entry = struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(bomb), 22)

    with pytest.raises(ImageTooLarge):
        _decoded(struct.pack("<HHH", 0, 1, 1) + entry + bomb)


def _jpeg() -> bytes:
    return _saved(Image.effect_noise((200, 200), 80), "JPEG")


BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "truncated jpeg": (lambda: _jpeg()[:3000], "cut short"),
    "jpeg header only": (lambda: _jpeg()[:20], "not an image format|cut short"),
    "truncated png": (lambda: _saved(Image.effect_noise((200, 200), 80), "PNG")[:3000], "cut short|damaged"),
    "text": (lambda: "Ceci n'est pas une pipe é\n".encode() * 40, "text, not a picture"),
    "empty": (lambda: b"", "empty"),
    "zeros": (lambda: b"\0" * 4096, "not an image format"),
    "heic": (lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 100, "HEIC"),
    "overwritten png": (lambda: _saved(_quarters(), "PNG")[:60] + b"\0" * 900, "damaged|cut short"),
    "gif without frames": (lambda: b"GIF89a\x10\0\x10\0\0\0\0;", "."),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_say_why(case: str) -> None:
    content, reason = BROKEN[case]

    with pytest.raises(UnreadableImage, match=f"^holiday.jpg: .*({reason})"):
        decode_image(content(), name="holiday.jpg", max_pixels=CAP, target_side=32)


def test_a_missing_file_and_a_folder_say_so(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="vanished"):
        _decoded(tmp_path / "gone.jpg")
    with pytest.raises(UnreadableImage, match="directory"):
        _decoded(tmp_path)


def test_path_bytes_and_open_file_give_the_same(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(_saved(_quarters(), "PNG"))

    with path.open("rb") as file:
        from_file = decode_image(file, name="picture", max_pixels=CAP, target_side=None)
    np.testing.assert_array_equal(_decoded(path), np.asarray(from_file.image))
    np.testing.assert_array_equal(_decoded(path), _decoded(path.read_bytes()))


def test_errors_of_the_callers_block_are_not_blamed_on_the_picture() -> None:
    content = _saved(_quarters(), "PNG")

    with pytest.raises(ZeroDivisionError), open_image(content, name="picture", max_pixels=CAP, target_side=None):
        raise ZeroDivisionError


def test_a_pending_picture_knows_how_many_pixels_it_will_hold() -> None:
    content = _saved(Image.new("RGB", (800, 800)), "JPEG")

    with open_image(content, name="picture", max_pixels=CAP, target_side=50) as pending:
        assert pending.num_pixels == 100 * 100
        assert pending.decode().image.size == (100, 100)


def test_many_threads_decode_at_once() -> None:
    contents = [_saved(Image.new("RGB", (64, 64), (red, 0, 0)), "PNG") for red in range(64)]

    with ThreadPoolExecutor(8) as pool:
        assert [int(pixels[0, 0, 0]) for pixels in pool.map(_decoded, contents)] == list(range(64))


@given(st.binary(max_size=400), st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "TGA", "PPM", "ICO", "QOI"]), st.data())
def test_arbitrary_damage_gives_a_picture_or_one_error(junk: bytes, format_name: str, data: st.DataObject) -> None:
    content = bytearray(_saved(_quarters().resize((16, 16)), format_name))
    at = data.draw(st.integers(0, len(content)))
    content[at : at + len(junk)] = junk

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow comments on damaged metadata
        try:
            pixels = _decoded(bytes(content))
        except UnreadableImage as error:
            assert error.reason  # noqa: PT017  either outcome is right
        else:
            assert pixels.ndim == 3
            assert pixels.dtype == np.uint8


def _png_header(width: int, height: int) -> bytes:
    """A grey picture of which there is nothing but its size."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + struct.pack(">I", 0) + b"IDAT"


def test_a_picture_within_the_cap_that_memory_cannot_hold_is_refused_on_its_header() -> None:
    too_large = _png_header(2_000_000, 2_000_000)  # 48 TB
    with pytest.raises(ImageTooLarge, match=r"^huge: decoding 2,000,000 x 2,000,000 pixels takes 48,000\.0 GB of memory and .+ available"):
        decode_image(too_large, name="huge", max_pixels=10**13, target_side=None)


def test_a_large_picture_that_memory_can_hold_is_opened() -> None:
    with open_image(_png_header(10_001, 10_000), name="large", max_pixels=10**9, target_side=None) as pending:  # 1.2 GB if decoded
        assert pending.num_pixels == 100_010_000


def test_the_limit_of_a_container_counts_and_its_page_cache_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("900000000\n")
    (tmp_path / "memory.stat").write_text("anon 100000000\nfile 700000000\n")
    monkeypatch.setattr(image_input, "_CGROUP", tmp_path)
    with pytest.raises(ImageTooLarge, match=r"takes 1\.2 GB of memory and 0\.8 GB are available"):
        decode_image(_png_header(10_001, 10_000), name="large", max_pixels=10**9, target_side=None)


def test_a_jpeg_that_is_decoded_smaller_needs_memory_for_that_only() -> None:
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    jpeg = bytearray(file.getvalue())
    size_at = jpeg.index(b"\xff\xc0") + 5
    jpeg[size_at : size_at + 4] = struct.pack(">HH", 65_000, 65_000)  # 51 GB in full
    with open_image(bytes(jpeg), name="poster", max_pixels=10**10, target_side=224) as pending:
        assert pending.num_pixels == 8_125**2
