"""What the frozen stages make of every picture, computed once and kept on disk.

On a CPU an epoch through a whole network costs minutes; the stages that never change cost them again and again. Their maps for a few
augmented views of each picture are written as one fp16 array, memory-mapped while training. With no frozen stage the "maps" are the
uint8 pixels. The cache is keyed by a digest of everything that it depends on, grows in picture order and is continued after a kill.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sightline.encoders.dual_encoder import DualEncoder
from sightline.encoders.image_input import decode_image
from sightline.errors import InvalidTraining, UnreadableImage
from sightline.training.autocast import training_autocast
from sightline.training.pairs import CaptionedPicture
from sightline.training.views import draw_crop, view_pixels

logger = logging.getLogger(__name__)

PICTURES_PER_BLOCK = 32


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

    Cost: one pass through the frozen stages (and the kept branch) for each view. Raises `InvalidTraining` when no picture can be read.
    """
    digest = _digest(pictures, model, num_views=num_views, seed=seed)
    place = folder / digest[:16]
    place.mkdir(parents=True, exist_ok=True)
    cached = _open(place, model, num_pictures=len(pictures), num_views=num_views)
    progress_path = place / "progress.json"
    done = json.loads(progress_path.read_text())["num_pictures"] if progress_path.exists() else 0
    for start, block in _decoded_blocks(pictures, model, first=done, num_views=num_views, max_pixels=max_pixels, seed=seed):
        _fill(cached, model, start=start, views_by_picture=block)
        done = start + len(block)
        if done == len(pictures) or (start // PICTURES_PER_BLOCK) % 8 == 7:
            _flush(cached)
            progress_path.write_text(json.dumps({"num_pictures": done}))
        on_progress(done)
    if not cached.is_readable.any():
        raise InvalidTraining(f"none of the {len(pictures)} pictures can be decoded")
    return cached


def _digest(pictures: Sequence[CaptionedPicture], model: DualEncoder, *, num_views: int, seed: int) -> str:
    digest = hashlib.sha256(f"{model.config.image} {model.config.num_frozen_stages} {num_views} {seed}".encode())
    for stage in list(model.image.stages)[: model.config.num_frozen_stages]:
        for tensor in stage.state_dict().values():
            digest.update(tensor.float().cpu().numpy().tobytes())
    for picture in pictures:
        digest.update(picture.key.encode() + b"\0")
    return digest.hexdigest()


def _open(place: Path, model: DualEncoder, *, num_pictures: int, num_views: int) -> CachedViews:
    rows, side = num_pictures * num_views, model.config.image.image_side
    if model.config.num_frozen_stages:
        with torch.inference_mode():
            device = model.pixel_mean.device
            map_shape = tuple(model.stem_maps(torch.zeros(1, side, side, 3, dtype=torch.uint8, device=device)).shape[1:])
        stem_maps = _array(place / "stem_maps.npy", (rows, *map_shape), np.dtype(np.float16))
    else:
        stem_maps = _array(place / "pixels.npy", (rows, side, side, 3), np.dtype(np.uint8))
    kept = _array(place / "kept.npy", (rows, model.config.image_width), np.dtype(np.float16)) if model.kept is not None else None
    return CachedViews(stem_maps, kept, _array(place / "readable.npy", (num_pictures,), np.dtype(np.bool_)), num_views)


def _array(path: Path, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> np.memmap:
    if path.exists():
        return np.lib.format.open_memmap(path, mode="r+")
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


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
    if not model.config.num_frozen_stages:
        cached.stem_maps[rows] = pixels
        return
    with torch.inference_mode(), training_autocast(model.pixel_mean.device):
        stem_maps = model.stem_maps(torch.from_numpy(pixels).to(model.pixel_mean.device))
        cached.stem_maps[rows] = stem_maps.half().cpu().numpy()
        if cached.kept_pooled is not None:
            cached.kept_pooled[rows] = model.kept_pooled(stem_maps).half().cpu().numpy()
