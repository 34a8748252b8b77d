"""Synthetic photographs: JPEG files that cost a decoder what real ones of their size do.

Natural pictures have amplitudes that fall with the spatial frequency (Field 1987), so noise is added up octave by octave, each half
as strong as the one below it. At quality 88 a picture of 1000 x 750 then takes some 220 kB, as photographs do, and the time of
decoding is mostly that of its bytes.
"""

import argparse
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WIDTH, HEIGHT = 1000, 750
_QUALITY = 88
_COARSEST_GRAIN = 64  # pixels
_COARSEST_AMPLITUDE = 40.0  # grey levels
_FINEST_AMPLITUDE = 4.0


def write_photographs(folder: Path, num_pictures: int) -> list[Path]:
    """`num_pictures` different files in `folder`, by name; the same ones every time."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:06d}.jpg" for number in range(num_pictures)]
    with ThreadPoolExecutor() as executor:
        list(executor.map(_write_photograph, paths, range(num_pictures)))
    return paths


def link_photographs(folder: Path, originals: list[Path], *, num_copies: int) -> None:
    """`num_copies` files for each original, without their bytes."""
    folder.mkdir(parents=True)
    for copy in range(num_copies):
        for path in originals:
            (folder / f"{copy:03d}-{path.name}").hardlink_to(path)


def add_picture_options(parser: argparse.ArgumentParser, *, num_pictures: int) -> None:
    """The options that `pictures_of` reads."""
    parser.add_argument("--pictures", type=Path, help="a folder of JPEG files (default: synthetic photographs)")
    parser.add_argument("--num-pictures", type=int, default=num_pictures, help=f"how many at most (default: {num_pictures})")


@contextmanager
def pictures_of(options: argparse.Namespace, *, scratch: Path) -> Iterator[list[Path]]:
    """JPEG files in a folder of their own: of `--pictures` by link, or made for the time of the block."""
    with TemporaryDirectory(dir=scratch, prefix="pictures-") as name:
        folder = Path(name)
        if options.pictures is None:
            yield write_photographs(folder, options.num_pictures)
            return
        found = sorted(path for path in options.pictures.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        links = [folder / f"{number:06d}.jpg" for number in range(min(len(found), options.num_pictures))]
        for link, path in zip(links, found, strict=False):
            link.symlink_to(path.resolve())
        yield links


def _write_photograph(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    grey = _noise(rng, finest_grain=1)
    colours = np.stack([_noise(rng, finest_grain=8) for _ in range(3)], axis=2)  # (height, width, 3), smoother than the grey
    pixels = np.clip(128 + grey[:, :, np.newaxis] + 0.5 * colours, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path, quality=_QUALITY)


def _noise(rng: np.random.Generator, *, finest_grain: int) -> NDArray[np.float32]:
    """Noise in octaves, grains from `_COARSEST_GRAIN` down to `finest_grain` pixels: (height, width), around zero."""
    total = Image.new("F", (1, 1))
    grain = _COARSEST_GRAIN
    while grain >= finest_grain:
        size = (math.ceil(WIDTH / grain), math.ceil(HEIGHT / grain))
        grains = rng.standard_normal(size[::-1], dtype=np.float32)
        amplitude = min(_FINEST_AMPLITUDE * grain, _COARSEST_AMPLITUDE)
        total = Image.fromarray(np.asarray(total.resize(size, Image.Resampling.BILINEAR)) + amplitude * grains)
        grain //= 2
    return np.asarray(total.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))
