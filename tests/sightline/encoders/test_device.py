"""The word for a device becomes a torch device or a clear refusal."""

import pytest
import torch

from sightline.encoders.device import DEVICE_NAMES, _has_bfloat16_instructions, autocast_dtype, choose_device, weights_dtype
from sightline.errors import InvalidSetting
from sightline.training.autocast import training_autocast


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


def test_products_are_in_a_format_that_the_processor_has_instructions_for() -> None:
    assert autocast_dtype(torch.device("mps")) is None
    has = torch.cpu.get_capabilities()
    expected = torch.bfloat16 if has.get("avx512_bf16") or has.get("amx_bf16") or has.get("bf16") or has.get("avx_ne_convert") else None
    assert autocast_dtype(torch.device("cpu")) in (None, expected)  # none as well where oneDNN does not know the processor


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True}, False),
        ({"avx2": True, "avx512_f": True, "avx512_bw": True, "avx512_bf16": False}, False),  # oneDNN would emulate it
        ({"avx2": True, "avx512_f": True, "avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"avx2": True, "avx_ne_convert": True}, True),
        ({"neon": True, "bf16": True}, True),
        ({"neon": True, "bf16": False}, False),
    ],
)
def test_bfloat16_is_for_processors_that_have_it(monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: bool) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert _has_bfloat16_instructions(capabilities) == expected


def test_training_emulates_nothing() -> None:
    with training_autocast(torch.device("cpu")):
        assert torch.is_autocast_enabled("cpu") == (autocast_dtype(torch.device("cpu")) is not None)


@pytest.mark.gpu
def test_a_gpu_computes_in_half_precision() -> None:
    assert weights_dtype(torch.device("cuda")) in (torch.bfloat16, torch.float16)
