"""The word for a device becomes a torch device or a clear refusal."""

import pytest
import torch

from sightline.encoders.device import DEVICE_NAMES, choose_device, weights_dtype
from sightline.errors import InvalidSetting


def test_the_cpu_is_always_there() -> None:
    assert choose_device("cpu") == torch.device("cpu")


def test_auto_takes_the_fastest_device_of_this_machine() -> None:
    device = choose_device("auto")
    if torch.cuda.is_available():
        assert device.type == "cuda"
    elif torch.backends.mps.is_available():
        assert device.type == "mps"
    else:
        assert device.type == "cpu"
    torch.zeros(1, device=device)


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_is_usable_or_refused_with_the_way_out(name: str) -> None:
    is_there = torch.cuda.is_available() if name == "cuda" else torch.backends.mps.is_available()
    if is_there:
        torch.zeros(1, device=choose_device(name))
        return
    with pytest.raises(InvalidSetting, match=rf"device '{name}': .*; use 'auto' or 'cpu'"):
        choose_device(name)


@pytest.mark.parametrize("name", ["", "gpu", "cuda:0", "CPU"])
def test_any_other_word_is_refused_and_the_words_are_listed(name: str) -> None:
    with pytest.raises(InvalidSetting, match=", ".join(DEVICE_NAMES)):
        choose_device(name)


def test_a_cpu_computes_in_float32() -> None:
    assert weights_dtype(torch.device("cpu")) == torch.float32


@pytest.mark.gpu
def test_a_gpu_computes_in_half_precision() -> None:
    assert weights_dtype(torch.device("cuda")) in (torch.bfloat16, torch.float16)
