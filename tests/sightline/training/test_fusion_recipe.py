"""What a finished run says of itself."""

import numpy as np
import pytest

from sightline.encoders.matcher import Calibration, Combination
from sightline.training.fusion_calibration import JudgedPairs
from sightline.training.fusion_recipe import warnings_of

BOTH = ("text-to-image", "image-to-text")


def test_a_second_look_that_helps_and_tells_apart_has_nothing_to_warn_of() -> None:
    assert warnings_of(Combination(0.01, 0.02), (81.0, 12.0), directions=BOTH) == ()


def test_a_direction_without_a_weight_is_named() -> None:
    (warning,) = warnings_of(Combination(0.01, 0.0), (81.0, 12.0), directions=BOTH)
    assert warning.startswith("image-to-text: no weight of the match logit helps")


def test_a_direction_that_was_not_judged_is_not_blamed() -> None:
    assert warnings_of(Combination(0.01, 0.0), (81.0, 12.0), directions=["text-to-image"]) == ()


def test_probabilities_that_tell_little_are_named() -> None:
    (warning,) = warnings_of(Combination(0.01, 0.02), (55.0, 45.0), directions=BOTH)
    assert "0.5 is reached by 55 % of the matches and by 45 % of the other candidates" in warning


def test_what_a_probability_of_a_half_keeps_is_counted_by_weight() -> None:
    pairs = JudgedPairs(
        logits=np.array([1.0, -1.0, 1.0, -1.0, -1.0], dtype=np.float32),
        is_match=np.array([True, True, False, False, False]),
        evidence=np.ones(5, dtype=np.float32),
        weights=np.array([3.0, 1.0, 1.0, 1.0, 2.0]),
    )
    assert pairs.kept_at_half(Calibration(slope=1.0, intercept=0.0)) == pytest.approx((75.0, 25.0))
    assert pairs.kept_at_half(Calibration(slope=1.0, intercept=5.0)) == pytest.approx((100.0, 100.0))
