"""A training run on disk, so that a kill costs minutes: tensors as safetensors, progress as JSON, swapped in whole."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sightline.encoders.checkpoint import sync_to_disk
from sightline.errors import InvalidTraining

_TENSORS, _PROGRESS = "state.safetensors", "progress.json"
_NAME_TABLE = "name_table"


@dataclass(frozen=True, slots=True)
class RunState:
    """What a run carries from step to step, beside the model and the optimizer."""

    average: dict[str, Tensor]  # the averaged weights, by the names of the model's
    name_table: Tensor | None  # (classes, embedding_dim), as old as a few steps; None until it is needed
    epoch: int  # of the next step, from 0
    step: int  # the next one within the epoch, from 0


def save_state(folder: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer, state: RunState) -> None:
    """Writes everything that continuing needs; a kill at any moment leaves the previous state or this one."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in state.average.items()}
    tensors |= {} if state.name_table is None else {_NAME_TABLE: state.name_table}
    for number, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(slot) for name, slot in slots.items()}
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, partial / _TENSORS)
    (partial / _PROGRESS).write_text(json.dumps({"epoch": state.epoch, "step": state.step}))
    for path in (partial / _TENSORS, partial / _PROGRESS, partial):
        sync_to_disk(path)
    _swap_in(partial, folder)


def _swap_in(partial: Path, folder: Path) -> None:
    previous = folder.with_suffix(".previous")
    if folder.exists():  # where a kill left only `previous`, that stays until `partial` has its name
        shutil.rmtree(previous, ignore_errors=True)
        folder.rename(previous)
    partial.rename(folder)
    sync_to_disk(folder.parent)
    shutil.rmtree(previous, ignore_errors=True)


def load_state(folder: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer) -> RunState | None:
    """Fills model and optimizer and gives the rest, on the CPU; None where no state was saved.

    Raises `InvalidTraining` for a state that is damaged or of another network.
    """
    place = next((place for place in (folder, folder.with_suffix(".previous")) if (place / _PROGRESS).exists()), None)
    if place is None:
        return None
    try:
        tensors = load_file(place / _TENSORS)
        progress = json.loads((place / _PROGRESS).read_text())
        model.load_state_dict(_with_prefix(tensors, "model."))
        optimizer.load_state_dict(optimizer.state_dict() | {"state": _optimizer_slots(tensors)})
        return RunState(_with_prefix(tensors, "average."), tensors.get(_NAME_TABLE), int(progress["epoch"]), int(progress["step"]))
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        raise InvalidTraining(f"{place}: the state of the run cannot be read; delete that folder to begin again: {error}") from error


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _optimizer_slots(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    slots_by_number: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _with_prefix(tensors, "optimizer.").items():
        number, slot = name.split(".", 1)
        slots_by_number.setdefault(int(number), {})[slot] = tensor
    return slots_by_number
