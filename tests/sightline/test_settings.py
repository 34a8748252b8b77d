"""Settings from the environment, and what a caller gives instead."""

import os

import pytest

from sightline.errors import InvalidSetting
from sightline.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the settings of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("SIGHTLINE_")]:
        monkeypatch.delenv(name)


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """`SIGHTLINE_DATABASE_URL= sightline ...` is how a shell takes one back."""
    without = load_settings()
    for name in Settings.model_fields:
        monkeypatch.setenv(f"SIGHTLINE_{name.upper()}", "")

    assert load_settings() == without


def test_what_the_caller_gives_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTLINE_DEVICE", "cuda")

    assert load_settings(device=None).device == "cuda"
    assert load_settings(device="cpu").device == "cpu"


def test_a_value_that_cannot_be_used_is_named_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTLINE_BATCH_IMAGES", "none")

    with pytest.raises(InvalidSetting, match="SIGHTLINE_BATCH_IMAGES='none': "):
        load_settings()
