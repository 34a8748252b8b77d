"""A training run on disk, so that a kill costs minutes: tensors as safetensors, progress as JSON, swapped in whole."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sightline.types import JsonObject

_TENSORS, _PROGRESS = "state.safetensors", "progress.json"


def save_state(
    folder: Path, *, model: nn.Module, average: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, progress: JsonObject
) -> None:
    """Writes everything that continuing needs; a kill at any moment leaves the previous state or this one."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in average.items()}
    for number, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(slot) for name, slot in slots.items()}
    partial, previous = folder.with_suffix(".partial"), folder.with_suffix(".previous")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, partial / _TENSORS)
    (partial / _PROGRESS).write_text(json.dumps(progress))
    shutil.rmtree(previous, ignore_errors=True)
    if folder.exists():
        folder.rename(previous)
    partial.rename(folder)
    shutil.rmtree(previous, ignore_errors=True)


def load_state(folder: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], JsonObject] | None:
    """(averaged weights, progress) after filling model and optimizer, or None where no run was begun."""
    place = next((place for place in (folder, folder.with_suffix(".previous")) if (place / _PROGRESS).exists()), None)
    if place is None:
        return None
    tensors = load_file(place / _TENSORS)
    model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")})
    slots_by_number: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, slot = name.split(".", 2)
            slots_by_number.setdefault(int(number), {})[slot] = tensor
    state = optimizer.state_dict()
    state["state"] = slots_by_number
    optimizer.load_state_dict(state)
    average = {name.removeprefix("average."): tensor for name, tensor in tensors.items() if name.startswith("average.")}
    return average, json.loads((place / _PROGRESS).read_text())
