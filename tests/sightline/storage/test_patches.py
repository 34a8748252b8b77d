"""Quantising patches against a plain reference, and the error that it is bound by."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from sightline.errors import InvalidInput
from sightline.storage.patches import (
    MAX_BYTES_PER_IMAGE,
    PatchBatch,
    PatchFormat,
    dequantise,
    empty_batch,
    joined_batches,
    quantise,
    quantised_batch,
)

FORMAT = PatchFormat("f0", 7, 7, 256)

patches = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=3, max_side=6),
    elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False) | st.floats(-(2.0**-20), 2.0**-20, width=32),
)


def quantised_plainly(patch: list[float]) -> tuple[list[int], float]:
    """One patch, one number at a time: the least fp16 scale by which no component needs more than 127 steps."""
    largest = max(abs(component) for component in patch)
    scale = np.float16(largest / 127)
    while float(scale) * 127 < largest:
        scale = np.nextafter(scale, np.float16(np.inf))
    if scale == 0:
        return [0 for _ in patch], 0.0
    return [int(np.rint(np.float32(component) / np.float32(scale))) for component in patch], float(scale)


@given(patches)
def test_quantising_is_what_the_plain_reference_does(given_patches: NDArray[np.float32]) -> None:
    values, scales = quantise(given_patches)
    assert values.dtype == np.int8
    assert scales.dtype == np.float16
    for index in np.ndindex(scales.shape):
        expected_values, expected_scale = quantised_plainly(given_patches[index].tolist())
        assert values[index].tolist() == expected_values
        assert float(scales[index]) == expected_scale


@given(patches)
def test_no_component_is_off_by_more_than_half_a_scale(given_patches: NDArray[np.float32]) -> None:
    values, scales = quantise(given_patches)
    errors = np.abs(dequantise(values, scales).astype(np.float64) - given_patches)
    assert np.all(errors <= scales.astype(np.float64)[..., np.newaxis] * (0.5 + 1e-6))  # float32 rounds the quotient


def test_patches_of_unit_length_keep_their_direction() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 49, 256)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    again = dequantise(*quantise(rows))
    cosines = (rows * again).sum(-1) / np.linalg.norm(again, axis=-1)
    assert cosines.min() > 0.9999


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e9])
def test_what_has_no_scale_is_refused(value: float) -> None:
    rows = np.ones((2, 3, 4), dtype=np.float32)
    rows[1, 2, 3] = value
    with pytest.raises(InvalidInput, match="not a number, or too large"):
        quantise(rows)


def test_patches_of_nothing_are_nothing() -> None:
    values, scales = quantise(np.zeros((2, 3, 4), dtype=np.float32))
    assert not values.any()
    assert not scales.any()
    assert not dequantise(values, scales).any()


def test_a_picture_takes_what_the_format_says() -> None:
    assert (FORMAT.num_patches, FORMAT.bytes_per_image) == (49, 49 * 256 + 98 + 4)
    assert FORMAT.bytes_per_image <= MAX_BYTES_PER_IMAGE
    whole = PatchFormat("f0", 7, 7, 256, num_whole_rows=4)
    assert (whole.num_patches, whole.bytes_per_image) == (53, 53 * 258 + 4)
    assert whole.bytes_per_image <= MAX_BYTES_PER_IMAGE
    batch = quantised_batch(np.ones((2, 49, 256), dtype=np.float32), FORMAT)
    assert batch.values.nbytes + batch.scales.nbytes + batch.priors.nbytes == len(batch) * FORMAT.bytes_per_image
    np.testing.assert_allclose(batch.dequantised(), 1, rtol=1e-3)  # a scale has 11 bits


@pytest.mark.parametrize(
    ("grid", "patch_dim", "sentence"),
    [((14, 14), 256, "50,572 bytes a picture; at most 16,000"), ((0, 7), 256, "none"), ((7, 7), 0, "none")],
)
def test_formats_that_take_too_much_or_nothing_are_refused(grid: tuple[int, int], patch_dim: int, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        PatchFormat("f0", *grid, patch_dim)


@pytest.mark.parametrize(
    ("values", "scales"),
    [
        (np.zeros((2, 49, 256), np.int8), np.zeros((3, 49), np.float16)),
        (np.zeros((2, 48, 256), np.int8), np.zeros((2, 48), np.float16)),
        (np.zeros((2, 49, 256), np.int16), np.zeros((2, 49), np.float16)),
        (np.zeros((2, 49, 256), np.int8), np.zeros((2, 49), np.float32)),
    ],
)
def test_arrays_that_are_not_of_the_format_are_refused(values: NDArray[np.int8], scales: NDArray[np.float16]) -> None:
    with pytest.raises(InvalidInput, match="expected"):
        PatchBatch(FORMAT, values, scales, np.zeros(len(values), np.float32))


@pytest.mark.parametrize("priors", [np.zeros(3, np.float32), np.zeros(2, np.float64), np.zeros((2, 1), np.float32)])
def test_priors_that_are_not_one_a_picture_are_refused(priors: NDArray[np.float32]) -> None:
    with pytest.raises(InvalidInput, match="priors of shape"):
        PatchBatch(FORMAT, np.zeros((2, 49, 256), np.int8), np.zeros((2, 49), np.float16), priors)


def test_priors_are_those_of_the_patches_as_they_are_read_again() -> None:
    rows = np.random.default_rng(0).normal(size=(3, 49, 256)).astype(np.float32)
    batch = quantised_batch(rows, FORMAT, priors_of=lambda patches: patches.sum(axis=(1, 2)))
    np.testing.assert_array_equal(batch.priors, batch.dequantised().sum(axis=(1, 2)))
    assert np.isnan(quantised_batch(rows, FORMAT).priors).all()


def test_joined_batches_and_chosen_places_keep_each_picture_its_own() -> None:
    rows = np.random.default_rng(0).normal(size=(4, 49, 256)).astype(np.float32)
    whole = quantised_batch(rows, FORMAT, priors_of=lambda patches: patches[:, 0, 0])
    joined = joined_batches([whole.at(np.array([3, 1])), whole.at(np.array([0]))])
    filled = empty_batch(FORMAT, 3)
    filled.put(np.array([2, 0]), joined.at(np.array([0, 2])))

    np.testing.assert_array_equal(joined.values, whole.values[[3, 1, 0]])
    np.testing.assert_array_equal(joined.scales, whole.scales[[3, 1, 0]])
    np.testing.assert_array_equal(joined.priors, whole.priors[[3, 1, 0]])
    np.testing.assert_array_equal(filled.values[[2, 0]], whole.values[[3, 0]])
    np.testing.assert_array_equal(filled.priors, [whole.priors[0], np.nan, whole.priors[3]])
