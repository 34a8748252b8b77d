"""The state of a run on disk: whole, and there after a kill at any moment."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from sightline.errors import InvalidTraining
from sightline.training.state import RunState, load_state, save_state


def _network(seed: int) -> tuple[nn.Linear, torch.optim.Optimizer]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Linear(3, 2)
    return model, torch.optim.AdamW([{"params": model.parameters(), "lr": 0.1, "peak_lr": 0.1}])


def _stepped(seed: int) -> tuple[nn.Linear, torch.optim.Optimizer]:
    model, optimizer = _network(seed)
    model(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def _save(folder: Path, *, step: int) -> nn.Linear:
    model, optimizer = _stepped(step)
    average = {name: tensor.detach() / 2 for name, tensor in model.state_dict().items()}
    save_state(folder, model=model, optimizer=optimizer, state=RunState(average, torch.full((2, 2), float(step)), 1, step))
    return model


def _load(folder: Path) -> RunState | None:
    model, optimizer = _network(99)
    return load_state(folder, model=model, optimizer=optimizer)


def test_where_no_run_was_begun_there_is_none(tmp_path: Path) -> None:
    assert _load(tmp_path / "state") is None


def test_everything_comes_back(tmp_path: Path) -> None:
    saved = _save(tmp_path / "state", step=5)
    model, optimizer = _network(99)

    state = load_state(tmp_path / "state", model=model, optimizer=optimizer)

    assert state is not None
    assert (state.epoch, state.step) == (1, 5)
    assert state.name_table is not None
    assert state.name_table.tolist() == [[5.0, 5.0], [5.0, 5.0]]
    for name, tensor in saved.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, atol=0, rtol=0)
        torch.testing.assert_close(state.average[name], tensor / 2, atol=0, rtol=0)
    expected = _stepped(5)[1].state_dict()["state"]
    for number, slots in optimizer.state_dict()["state"].items():
        assert slots.keys() == expected[number].keys()
        assert all(torch.equal(torch.as_tensor(slot), torch.as_tensor(expected[number][name])) for name, slot in slots.items())


def test_a_state_before_the_first_step_has_no_slots_and_no_table(tmp_path: Path) -> None:
    model, optimizer = _network(1)
    save_state(tmp_path / "state", model=model, optimizer=optimizer, state=RunState(dict(model.state_dict()), None, 0, 0))

    state = _load(tmp_path / "state")

    assert state is not None
    assert state.name_table is None


class _Killed(BaseException):
    """Stands for the process's end."""


def _killing_at(count: Iterator[int], number: int, change: Callable[..., object]) -> Callable[..., object]:
    def change_or_be_killed(*arguments: object, **options: object) -> object:
        if next(count) == number:
            raise _Killed
        return change(*arguments, **options)

    return change_or_be_killed


@pytest.mark.parametrize("was_killed_before", [False, True])
def test_a_kill_before_any_change_on_disk_leaves_a_whole_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, was_killed_before: bool
) -> None:
    """Before each rename and each removal, also where a former kill left the state under its other name."""

    for number in range(1, 9):
        folder = tmp_path / str(number) / "state"
        folder.parent.mkdir()
        _save(folder, step=1)
        if was_killed_before:
            folder.rename(folder.with_suffix(".previous"))
        count = itertools.count(1)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", _killing_at(count, number, Path.rename))
            patch.setattr(shutil, "rmtree", _killing_at(count, number, shutil.rmtree))
            try:
                _save(folder, step=2)
            except _Killed:
                was_killed = True
            else:
                was_killed = False
        state = _load(folder)
        assert state is not None
        assert state.step in ((1, 2) if was_killed else (2,))
        _save(folder, step=3)
        final = _load(folder)
        assert final is not None
        assert final.step == 3
        assert [path.name for path in folder.parent.iterdir()] == ["state"]
        if not was_killed:
            assert number > 3
            return
    raise AssertionError("the save never came to its end")


@pytest.mark.parametrize("damage", ["tensors cut", "no tensors", "progress cut", "another network"])
def test_a_damaged_state_says_what_to_do(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "state"
    _save(folder, step=1)
    match damage:
        case "tensors cut":
            (folder / "state.safetensors").write_bytes((folder / "state.safetensors").read_bytes()[:-5])
        case "no tensors":
            (folder / "state.safetensors").unlink()
        case "progress cut":
            (folder / "progress.json").write_text('{"epo')
        case _:
            pass
    model = nn.Linear(7, 7) if damage == "another network" else nn.Linear(3, 2)

    with pytest.raises(InvalidTraining, match="delete that folder to begin again"):
        load_state(folder, model=model, optimizer=torch.optim.AdamW(model.parameters()))
