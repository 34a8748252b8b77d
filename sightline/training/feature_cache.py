"""What the frozen stages make of every picture, computed once and kept on disk.

On a CPU an epoch through a whole network costs minutes; the stages that never change cost them again and again. Their maps for a few
augmented views of each picture are written as one fp16 array, memory-mapped while training. With no frozen stage the "maps" are the
uint8 pixels. The cache is keyed by a digest of everything that it depends on (of a picture: its key, so that a picture that changes
under its key needs a new folder), grows in picture order and is continued after a kill.
"""

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sightline.encoders.checkpoint import replacing
from sightline.encoders.dual_encoder import DualEncoder
from sightline.encoders.image_input import decode_image
from sightline.errors import InvalidTraining, OutOfSpace, UnreadableImage
from sightline.training.autocast import training_autocast
from sightline.training.pairs import CaptionedPicture
from sightline.training.views import draw_crop, view_pixels

logger = logging.getLogger(__name__)

PICTURES_PER_BLOCK = 32
BLOCKS_PER_COMMIT = 8
"""A kill costs at most the maps of so many blocks."""


def _ignore(num_done: int) -> None:
    del num_done


@dataclass(frozen=True, slots=True)
class CachedViews:
    """Maps of `num_views` views a picture; row = picture * num_views + view. A picture that could not be read has zeros."""

    stem_maps: NDArray[np.float16] | NDArray[np.uint8]  # (rows, width, height, width of the grid), or pixels (rows, side, side, 3)
    kept_pooled: NDArray[np.float16] | None  # (rows, image_width)
    is_readable: NDArray[np.bool_]  # (pictures,)
    num_views: int


def cache_views(
    pictures: Sequence[CaptionedPicture],
    model: DualEncoder,
    *,
    folder: Path,
    num_views: int,
    max_pixels: int,
    seed: int,
    on_progress: Callable[[int], None] = _ignore,
) -> CachedViews:
    """Computes, continues or opens the cache of these pictures under `folder`; `on_progress` gets the pictures done so far.

    Cost: one pass through the frozen stages (and the kept branch) for each view. Raises `InvalidTraining` when no picture can be read
    and `OutOfSpace` when the disk cannot hold the maps.
    """
    if not pictures:
        raise InvalidTraining("there is no picture to learn from")
    digest = _digest(pictures, model, num_views=num_views, max_pixels=max_pixels, seed=seed)
    place = folder / digest[:16]
    place.mkdir(parents=True, exist_ok=True)
    progress_path = place / "progress.json"
    cached = _open(place, model, num_pictures=len(pictures), num_views=num_views)
    if cached is None:
        progress_path.unlink(missing_ok=True)
        cached = _create(place, model, num_pictures=len(pictures), num_views=num_views)
    done = json.loads(progress_path.read_text())["num_pictures"] if progress_path.exists() else 0
    for start, block in _decoded_blocks(pictures, model, first=done, num_views=num_views, max_pixels=max_pixels, seed=seed):
        _fill(cached, model, start=start, views_by_picture=block)
        done = start + len(block)
        if done == len(pictures) or done % (PICTURES_PER_BLOCK * BLOCKS_PER_COMMIT) == 0:
            _flush(cached)
            with replacing(progress_path) as temporary:
                temporary.write_text(json.dumps({"num_pictures": done}))
        on_progress(done)
    if not cached.is_readable.any():
        raise InvalidTraining(f"none of the {len(pictures)} pictures can be decoded")
    return cached


def _digest(pictures: Sequence[CaptionedPicture], model: DualEncoder, *, num_views: int, max_pixels: int, seed: int) -> str:
    digest = hashlib.sha256(f"{model.config.image} {model.config.num_frozen_stages} {num_views} {max_pixels} {seed}".encode())
    frozen = list(model.image.stages)[: model.config.num_frozen_stages] + ([] if model.kept is None else [model.kept])
    for module in frozen:
        for tensor in module.state_dict().values():
            digest.update(tensor.float().cpu().numpy().tobytes())
    for picture in pictures:
        digest.update(picture.key.encode() + b"\0")
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Array:
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _arrays(model: DualEncoder, *, num_pictures: int, num_views: int) -> list[_Array]:
    """Maps, readability and, for a model with a kept branch, its features."""
    rows, side = num_pictures * num_views, model.config.image.image_side
    maps = _Array("pixels.npy", (rows, side, side, 3), np.dtype(np.uint8))
    if model.config.num_frozen_stages:
        with torch.inference_mode():
            black = torch.zeros(1, side, side, 3, dtype=torch.uint8, device=model.pixel_mean.device)
            maps = _Array("stem_maps.npy", (rows, *model.stem_maps(black).shape[1:]), np.dtype(np.float16))
    arrays = [maps, _Array("readable.npy", (num_pictures,), np.dtype(np.bool_))]
    if model.kept is not None:
        arrays.append(_Array("kept.npy", (rows, model.config.image_width), np.dtype(np.float16)))
    return arrays


def _open(place: Path, model: DualEncoder, *, num_pictures: int, num_views: int) -> CachedViews | None:
    """The arrays of a cache that was begun, or None unless each is there, whole."""
    opened: list[np.memmap] = []
    for array in _arrays(model, num_pictures=num_pictures, num_views=num_views):
        try:
            found = np.lib.format.open_memmap(place / array.name, mode="r")  # "r+" would lengthen a file that was cut short
        except (FileNotFoundError, ValueError):
            return None
        if found.shape != array.shape or found.dtype != array.dtype:
            return None
        opened.append(np.lib.format.open_memmap(place / array.name, mode="r+"))
    return _as_views(opened, num_views=num_views)


def _create(place: Path, model: DualEncoder, *, num_pictures: int, num_views: int) -> CachedViews:
    arrays = _arrays(model, num_pictures=num_pictures, num_views=num_views)
    needed, free = sum(array.size_bytes for array in arrays), shutil.disk_usage(place).free
    if needed > free:  # asked now: writing to a mapped file on a full disk kills the process
        raise OutOfSpace(f"{place}: the maps of {num_pictures} pictures take {needed:,} bytes and the disk has {free:,}")
    created: list[np.memmap] = []
    for array in arrays:
        with replacing(place / array.name) as temporary:
            created.append(np.lib.format.open_memmap(temporary, mode="w+", dtype=array.dtype, shape=array.shape))
    return _as_views(created, num_views=num_views)


def _as_views(arrays: list[np.memmap], *, num_views: int) -> CachedViews:
    maps, readable, *kept = arrays
    return CachedViews(maps, kept[0] if kept else None, readable, num_views)


def _flush(cached: CachedViews) -> None:
    for array in (cached.stem_maps, cached.kept_pooled, cached.is_readable):
        if isinstance(array, np.memmap):
            array.flush()


def _decoded_blocks(
    pictures: Sequence[CaptionedPicture], model: DualEncoder, *, first: int, num_views: int, max_pixels: int, seed: int
) -> Iterator[tuple[int, list[NDArray[np.uint8] | None]]]:
    side = model.config.image.image_side

    def views_of(position: int) -> NDArray[np.uint8] | None:
        picture = pictures[position]
        generator = np.random.default_rng([seed, position])
        try:
            image = decode_image(picture.read_bytes(), name=picture.key, max_pixels=max_pixels, target_side=2 * side).image
        except (UnreadableImage, OSError) as error:
            logger.warning("left out of training: %s", error)
            return None
        crops = [draw_crop(*image.size, view=view, generator=generator) for view in range(num_views)]
        return np.stack([view_pixels(image, crop, side=side) for crop in crops])

    starts = range(first, len(pictures), PICTURES_PER_BLOCK)
    with ThreadPoolExecutor(max_workers=2) as pool:
        waiting = [pool.submit(views_of, position) for position in range(first, min(first + PICTURES_PER_BLOCK, len(pictures)))]
        for start in starts:
            following = range(start + PICTURES_PER_BLOCK, min(start + 2 * PICTURES_PER_BLOCK, len(pictures)))
            ahead = [pool.submit(views_of, position) for position in following]
            yield start, [future.result() for future in waiting]
            waiting = ahead


def _fill(cached: CachedViews, model: DualEncoder, *, start: int, views_by_picture: list[NDArray[np.uint8] | None]) -> None:
    num_views = cached.num_views
    readable = [position for position, views in enumerate(views_by_picture) if views is not None]
    cached.is_readable[start : start + len(views_by_picture)] = [views is not None for views in views_by_picture]
    if not readable:
        return
    pixels = np.concatenate([views for views in views_by_picture if views is not None])  # (readable * num_views, side, side, 3)
    rows = np.concatenate([np.arange(num_views) + (start + position) * num_views for position in readable])
    with torch.inference_mode(), training_autocast(model.pixel_mean.device):
        stem_maps = model.stem_maps(torch.from_numpy(pixels).to(model.pixel_mean.device))
        cached.stem_maps[rows] = stem_maps.half().cpu().numpy() if model.config.num_frozen_stages else pixels
        if cached.kept_pooled is not None:
            cached.kept_pooled[rows] = model.kept_pooled(stem_maps).half().cpu().numpy()
