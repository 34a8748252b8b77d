"""Kills a writer with SIGKILL before each of its steps in turn, and checks what it leaves; run by `test_kill`.

A step is a call to the file system (Python's audit events tell) or an SQL statement or commit. Each writer is a forked process; this one
opens no store itself, so that there is nothing to share. Usage: kill_at_every_step.py FOLDER SCENARIO FIRST_STEP STRIDE
[DATABASE_URL], where a stride of 1 takes a minute on an idle machine.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import alembic.command  # noqa: F401  (imported once here, not in each child)
import faiss  # noqa: F401
import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, event

from sightline.storage.patches import ItemPatches, PatchFormat, quantised_batch
from sightline.storage.records import BankRecord, Move, RunState, Severity, StoredBank
from sightline.storage.store import Store, StoreOptions
from sightline.storage.writer import Writer
from sightline.types import CollectionId, Modality
from tests.sightline.storage.synthetic import new_items, unit_rows

_FILE_EVENTS = ("open", "os.", "shutil.")
_OPTIONS = StoreOptions(exact_max_rows=50)
_NUM_ITEMS = 60
_FAR_TOO_MANY_STEPS = 2000

State = dict[str, list[float]]
"""What can be found: the embedding of each key, rounded."""


class _Countdown:
    """Ends this process without notice before a given step."""

    def __init__(self, steps: int, folder: Path) -> None:
        self._left = steps
        self._folder = str(folder)
        sys.addaudithook(self._on_audit)
        event.listen(Engine, "before_cursor_execute", self._on_step)
        event.listen(Engine, "commit", self._on_step)

    def _on_audit(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name.startswith(_FILE_EVENTS) and self._folder in str(arguments[:1]):
            self._on_step()

    def _on_step(self, *_arguments: Any) -> None:
        self._left -= 1
        if self._left < 0:
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path, scenario: str, steps: range, database_url: str | None) -> None:
    """Print the first step that the writer did not come to."""
    for number in steps:
        here = folder / str(number) if scenario == "open" else folder
        _in_child(lambda: None if scenario == "open" else _prepare(here, database_url, number))  # noqa: B023  (runs at once)
        was_killed = _in_child(lambda: _run(here, database_url, number, scenario))  # noqa: B023
        _in_child(lambda: _check(here, database_url, number, scenario))  # noqa: B023
        if not was_killed:
            sys.stdout.write(str(number))
            return
    raise AssertionError("the writer never came to its end")


def _in_child(work: Callable[[], None]) -> bool:
    """Do `work` in a process of its own; whether it was killed. Ends this one where it failed."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001  (a child must not go on as its parent)
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status > 0:
        sys.exit(f"a child failed with {status}")
    return status == -signal.SIGKILL


def _open(folder: Path, database_url: str | None) -> Store:
    return Store.open(folder, database_url=database_url, options=_OPTIONS)


def _collection_id(store: Store, number: int) -> CollectionId:
    return store.collection(str(number)).collection_id


def _prepare(folder: Path, database_url: str | None, number: int) -> None:
    """A collection of two segments and some tombstones."""
    store = _open(folder, database_url)
    store.create_collection(str(number), encoder_name="made-up", encoder_fingerprint="f00", embedding_dim=16)
    cid = _collection_id(store, number)
    with store.writer() as writer:
        ids = writer.commit(cid, added=new_items(range(45)), embeddings=unit_rows(45))
        writer.commit(cid, added=new_items(range(40, _NUM_ITEMS)), embeddings=unit_rows(_NUM_ITEMS - 40, seed=1), deleted=ids[30:35])


def _run(folder: Path, database_url: str | None, number: int, scenario: str) -> None:
    """The work that is killed before its step `number`."""
    if scenario == "open":
        _Countdown(number, folder)
        _open(folder, database_url)
        return
    store = _open(folder, database_url)
    cid = _collection_id(store, number)
    _Countdown(number, folder)
    with store.writer() as writer:
        _work(scenario, writer, store, cid)


def _work(scenario: str, writer: Writer, store: Store, cid: CollectionId) -> None:
    if scenario == "compact":
        writer.compact(cid, force=True)
        return
    if scenario == "patch":
        patch_format = PatchFormat("fusion", 1, 1, 4)
        for segment in store.snapshot(cid).segments:
            missing = segment.unpatched_item_ids("fusion")
            if len(missing):
                patches = quantised_batch(np.ones((len(missing), 1, 4), dtype=np.float32), patch_format)
                writer.add_patches(cid, segment, patch_format, [ItemPatches(missing, patches)])
        assert not any(len(segment.unpatched_item_ids("fusion")) for segment in store.snapshot(cid).segments)
        return
    if scenario == "rebias":
        bank = StoredBank(BankRecord(Modality.IMAGE, "b1", 0.5, 1, "made up"), b"")
        writer.replace_bank(cid, bank, lambda embeddings: embeddings[:, 0].astype(np.float32))
        assert store.snapshot(cid).bank(Modality.IMAGE) == bank.record
        return
    ids = {known.key: known.item_id for known in store.known_items(cid)}
    run = writer.start_run(cid, "/photos")
    moved = [Move(ids["1"], "2", "/photos", 1), Move(ids["2"], "1", "/photos", 1), Move(ids["3"], "3 moved", "/photos", 1)]
    added = new_items(["3", "4", "new"]) + new_items(["a text"], modality=Modality.TEXT)
    writer.commit(cid, run_id=run, added=added, embeddings=unit_rows(4, seed=2), moved=moved, deleted=[ids["5"]])


def _expected(scenario: str) -> tuple[State, State]:
    """What can be found before and after the work."""
    rows, later, latest = unit_rows(45), unit_rows(_NUM_ITEMS - 40, seed=1), unit_rows(4, seed=2)
    before = {str(n): rows[n] for n in range(40) if not 30 <= n < 35} | {str(40 + n): row for n, row in enumerate(later)}
    after = dict(before)
    if scenario == "commit":
        after |= {
            "1": before["2"],
            "2": before["1"],
            "3 moved": before["3"],
            "3": latest[0],
            "4": latest[1],
            "new": latest[2],
            "a text": latest[3],
        }
        del after["5"]
    return _rounded(before), _rounded(after)


def _rounded(rows: dict[str, NDArray[np.float32]]) -> State:
    return {key: row.astype(np.float16).tolist() for key, row in sorted(rows.items())}


def _found(store: Store, cid: CollectionId) -> State:
    """What a search finds: each item under its key, with its embedding."""
    snapshot = store.snapshot(cid)
    candidates = snapshot.search(unit_rows(1, seed=3), 1000, modality=None)[0]
    ids = [candidate.item_id for candidate in candidates]
    items = store.items(cid, ids)
    assert len(set(ids)) == len(ids) == len(items)
    assert {known.item_id for known in store.known_items(cid)} == set(ids)
    return _rounded({items[item_id].key: row for item_id, row in zip(ids, snapshot.embeddings(np.array(ids)), strict=True)})


def _check(folder: Path, database_url: str | None, number: int, scenario: str) -> None:
    """A reader finds the state before or after; the next writer sweeps, and doing the work again ends as if nothing had happened."""
    store = _open(folder, database_url)
    if scenario == "open":
        assert store.collections() == []
        return
    cid = _collection_id(store, number)
    before, after = _expected(scenario)
    found = _found(store, cid)
    assert found in (before, after)
    bank_fingerprints = {segment.files.manifest.bank_fingerprint for segment in store.snapshot(cid).segments}
    assert bank_fingerprints == ({"b1"} if store.banks(cid) else {None})
    assert not [finding for finding in store.verify(cid) if finding.severity is Severity.ERROR]
    with store.writer() as writer:
        if found == before:
            _work(scenario, writer, store, cid)
    assert _found(store, cid) == after
    with store.writer():
        assert not [run for run in store.runs() if run.state is RunState.RUNNING]
    assert store.verify() == []
    store.drop_collection(cid)  # or `verify` would read more each time


if __name__ == "__main__":
    chosen = range(int(sys.argv[3]), _FAR_TOO_MANY_STEPS, int(sys.argv[4]))
    main(Path(sys.argv[1]), sys.argv[2], chosen, sys.argv[5] if len(sys.argv) > 5 else None)
