"""The cache of maps: right, whole after any interruption, and never that of another network."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sightline.encoders.composed import squashed_pixels
from sightline.encoders.image_input import decode_image
from sightline.errors import InvalidTraining, OutOfSpace
from sightline.training import feature_cache
from sightline.training.backbones import Start
from sightline.training.feature_cache import CachedViews, cache_views
from sightline.training.pairs import CaptionedPicture
from tests.sightline.training.squares import MAX_PIXELS, Interrupted, cached, captioned_squares, interrupted, tiny_start


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "PICTURES_PER_BLOCK", 4)
    monkeypatch.setattr(feature_cache, "BLOCKS_PER_COMMIT", 2)


def _equal(one: CachedViews, two: CachedViews) -> None:
    np.testing.assert_array_equal(one.stem_maps, two.stem_maps)
    np.testing.assert_array_equal(one.is_readable, two.is_readable)
    assert (one.kept_pooled is None) == (two.kept_pooled is None)
    if one.kept_pooled is not None and two.kept_pooled is not None:
        np.testing.assert_array_equal(one.kept_pooled, two.kept_pooled)


def _whole_picture(picture: CaptionedPicture, start: Start) -> np.ndarray:
    side = start.model.config.image.image_side
    image = decode_image(picture.read_bytes(), name=picture.key, max_pixels=MAX_PIXELS, target_side=None).image
    return squashed_pixels(image, side=side)


@pytest.mark.parametrize(("has_kept_branch", "num_frozen_stages"), [(True, 2), (False, 2), (True, 0), (False, 0)])
def test_the_first_view_is_what_the_stages_make_of_the_whole_picture(tmp_path: Path, has_kept_branch: bool, num_frozen_stages: int) -> None:
    start = tiny_start(has_kept_branch=has_kept_branch, num_frozen_stages=num_frozen_stages)
    pictures = captioned_squares(1)

    views = cached(start, pictures, tmp_path, num_views=3)

    assert len(views.stem_maps) == 3 * len(pictures)
    pixels = torch.from_numpy(np.stack([_whole_picture(picture, start) for picture in pictures]))
    with torch.inference_mode():
        maps = start.model.stem_maps(pixels)
        # The cache is computed in bfloat16, of 8 bits, and kept in fp16.
        expected = maps if num_frozen_stages else pixels
        np.testing.assert_allclose(
            views.stem_maps[::3], expected.numpy(), atol=0.02 * float(expected.abs().max() if num_frozen_stages else 0)
        )
        assert (views.kept_pooled is not None) == has_kept_branch
        if views.kept_pooled is not None:
            kept = start.model.kept_pooled(maps).numpy()
            np.testing.assert_allclose(views.kept_pooled[::3], kept, atol=0.02 * np.abs(kept).max())
            assert np.abs(kept).max() > 0


def test_a_second_call_opens_what_is_there(tmp_path: Path) -> None:
    start, pictures = tiny_start(), captioned_squares(1)
    first = cached(start, pictures, tmp_path, num_views=2)

    def never() -> bytes:
        raise AssertionError("read again")

    _equal(cached(start, [replace(picture, read_bytes=never) for picture in pictures], tmp_path, num_views=2), first)


@pytest.mark.parametrize("stop_after", [1, 3, 4, 5])
def test_an_interrupted_cache_goes_on_and_equals_an_undisturbed_one(tmp_path: Path, stop_after: int) -> None:
    start, pictures = tiny_start(), captioned_squares(2)
    undisturbed = cached(start, pictures, tmp_path / "whole", num_views=2)
    calls = []

    def stop(num_done: int) -> None:
        calls.append(num_done)
        if len(calls) == stop_after:
            raise Interrupted

    with interrupted():
        cache_views(pictures, start.model, folder=tmp_path / "cut", num_views=2, max_pixels=MAX_PIXELS, seed=0, on_progress=stop)
    progress: list[int] = []
    views = cache_views(
        pictures, start.model, folder=tmp_path / "cut", num_views=2, max_pixels=MAX_PIXELS, seed=0, on_progress=progress.append
    )

    _equal(views, undisturbed)
    assert calls == [4 * number for number in range(1, stop_after + 1)]
    assert progress[0] == stop_after // 2 * 8 + 4  # what came after the last commit is done again
    assert progress[-1] == len(pictures)


def _place(folder: Path) -> Path:
    (place,) = folder.iterdir()
    return place


def test_a_kill_between_the_maps_and_the_note_of_them_costs_a_block(tmp_path: Path) -> None:
    """The maps are on disk and `progress.json` still has the older number, or was never renamed into place."""
    start, pictures = tiny_start(), captioned_squares(2)
    first = cached(start, pictures, tmp_path, num_views=2)
    expected = np.array(first.stem_maps)
    progress = _place(tmp_path) / "progress.json"
    first.stem_maps[20:] = 0  # half-written pages

    progress.write_text(json.dumps({"num_pictures": 8}))
    (_place(tmp_path) / "progress.json.partial").write_text('{"num_pic')
    np.testing.assert_array_equal(cached(start, pictures, tmp_path, num_views=2).stem_maps, expected)

    progress.unlink()
    np.testing.assert_array_equal(cached(start, pictures, tmp_path, num_views=2).stem_maps, expected)


@pytest.mark.parametrize("name", ["stem_maps.npy", "kept.npy", "readable.npy"])
@pytest.mark.parametrize("content", [None, b"", b"\x93NUMPY\x01\x00", "header only", "other shape"])
def test_arrays_that_were_not_created_whole_are_computed_again(tmp_path: Path, name: str, content: bytes | str | None) -> None:
    start, pictures = tiny_start(), captioned_squares(1)
    undisturbed = cached(start, pictures, tmp_path / "whole", num_views=1)
    cached(start, pictures, tmp_path / "damaged", num_views=1)
    path = _place(tmp_path / "damaged") / name
    match content:
        case None:
            path.unlink()
        case "header only":
            path.write_bytes(path.read_bytes()[:130])
        case "other shape":
            np.save(path, np.zeros((2, 2), dtype=np.float16))
        case bytes():
            path.write_bytes(content)

    _equal(cached(start, pictures, tmp_path / "damaged", num_views=1), undisturbed)


def test_a_picture_that_cannot_be_read_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    start, pictures = tiny_start(), captioned_squares(1)

    def vanished() -> bytes:
        raise FileNotFoundError(2, "No such file", "gone.png")

    pictures[2] = replace(pictures[2], read_bytes=lambda: b"no picture", key="broken.png")
    pictures[9] = replace(pictures[9], read_bytes=vanished)
    with caplog.at_level(logging.WARNING):
        views = cached(start, pictures, tmp_path, num_views=2)

    assert np.flatnonzero(~views.is_readable).tolist() == [2, 9]
    assert not views.stem_maps[4:6].any()
    assert "broken.png" in caplog.text
    assert "gone.png" in caplog.text
    expected = cached(start, captioned_squares(1), tmp_path / "all", num_views=2)
    rest = np.repeat(views.is_readable, 2)
    np.testing.assert_allclose(views.stem_maps[rest], expected.stem_maps[rest], atol=0.02)


def test_where_no_picture_can_be_read_there_is_nothing_to_learn(tmp_path: Path) -> None:
    broken = [replace(picture, read_bytes=lambda: b"") for picture in captioned_squares(1)]

    with pytest.raises(InvalidTraining, match="none of the 12 pictures can be decoded"):
        cached(tiny_start(), broken, tmp_path, num_views=1)
    with pytest.raises(InvalidTraining, match="no picture"):
        cached(tiny_start(), [], tmp_path, num_views=1)


def test_everything_that_it_depends_on_makes_another_cache(tmp_path: Path) -> None:
    pictures = captioned_squares(1)
    start = tiny_start()
    other_kept = tiny_start()
    assert other_kept.model.kept is not None
    with torch.no_grad():
        next(other_kept.model.kept.parameters()).add_(0.1)
    cases: list[tuple[Start, list[CaptionedPicture], int, int, int]] = [
        (start, pictures, 1, 0, MAX_PIXELS),
        (start, pictures, 2, 0, MAX_PIXELS),
        (start, pictures, 1, 1, MAX_PIXELS),
        (start, pictures, 1, 0, MAX_PIXELS + 1),
        (start, pictures[:-1], 1, 0, MAX_PIXELS),
        (start, pictures[::-1], 1, 0, MAX_PIXELS),
        (tiny_start(seed=1), pictures, 1, 0, MAX_PIXELS),
        (tiny_start(has_kept_branch=False), pictures, 1, 0, MAX_PIXELS),
        (other_kept, pictures, 1, 0, MAX_PIXELS),
        (tiny_start(num_frozen_stages=1), pictures, 1, 0, MAX_PIXELS),
    ]

    for number, (given_start, given_pictures, num_views, seed, max_pixels) in enumerate(cases, start=1):
        cache_views(given_pictures, given_start.model, folder=tmp_path, num_views=num_views, max_pixels=max_pixels, seed=seed)
        assert len(list(tmp_path.iterdir())) == number


def test_what_training_changes_does_not_make_another_cache(tmp_path: Path) -> None:
    start, pictures = tiny_start(), captioned_squares(1)
    cached(start, pictures, tmp_path, num_views=1)
    with torch.no_grad():
        start.model.image_projection.out.bias.add_(1)
        next(start.model.image.stages[-1].parameters()).add_(1)

    cached(start, pictures, tmp_path, num_views=1)

    assert len(list(tmp_path.iterdir())) == 1


def test_a_disk_that_cannot_hold_the_maps_is_known_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1_000))

    with pytest.raises(OutOfSpace, match="the disk has 1,000"):
        cached(tiny_start(), captioned_squares(1), tmp_path, num_views=1)
