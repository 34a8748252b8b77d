"""How much a second look reads before its deadline, by a clock that only readings move."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from search.readers import Reading
from search.rerank import Reranking, SecondLook, rerank
from search.retrieve import RankedCandidate
from sightline.encoders.matcher import Calibration
from sightline.types import ItemId, Modality


@dataclass
class SlowReader:
    """Takes `pass_ms` for any pass and `item_ms` more for each candidate."""

    pass_ms: float
    item_ms: float
    now_ms: float = 0.0
    passes: list[int] = field(default_factory=list)
    modality = Modality.IMAGE
    items_in_first_pass = 16
    items_in_a_pass = 128
    lacks = "have no patches"
    preparing_ms: float = 0.0

    @property
    def preparing_s(self) -> float:
        return self.preparing_ms / 1000

    def prepare(self) -> None:
        self.now_ms += self.preparing_ms

    def readable(self, item_ids: Sequence[ItemId]) -> list[ItemId]:
        return list(item_ids)

    def read(self, item_ids: Sequence[ItemId]) -> dict[ItemId, Reading]:
        self.passes.append(len(item_ids))
        self.now_ms += self.pass_ms + self.item_ms * len(item_ids)
        return {item_id: Reading(float(item_id)) for item_id in item_ids}


def looked(reader: SlowReader, monkeypatch: pytest.MonkeyPatch, *, deadline_ms: float | None, num_candidates: int = 64) -> SecondLook:
    monkeypatch.setattr("search.rerank.time.perf_counter", lambda: reader.now_ms / 1000)
    candidates = [RankedCandidate(ItemId(number), Modality.IMAGE, 1 - number / 1000, None, None) for number in range(num_candidates)]
    reranking = Reranking(depth=num_candidates, deadline_ms=deadline_ms)
    return rerank(candidates, reader, weight=1.0, calibration=Calibration(), reranking=reranking, began=0.0)


def test_without_a_deadline_passes_are_as_large_as_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = SlowReader(pass_ms=2, item_ms=0.1)
    assert looked(reader, monkeypatch, deadline_ms=None, num_candidates=200).num_read == 200
    assert reader.passes == [128, 72]


@pytest.mark.parametrize("item_ms", [0.0, 0.1, 1.0, 5.0])
@pytest.mark.parametrize("deadline_ms", [20.0, 50.0, 100.0, 1000.0])
def test_a_deadline_is_kept_after_the_first_pass(monkeypatch: pytest.MonkeyPatch, item_ms: float, deadline_ms: float) -> None:
    reader = SlowReader(pass_ms=2, item_ms=item_ms)
    look = looked(reader, monkeypatch, deadline_ms=deadline_ms)
    assert reader.passes[0] == 16
    assert reader.now_ms <= max(deadline_ms, 2 + 16 * item_ms)
    assert look.num_read == sum(reader.passes)
    could_be_read = min(64, (deadline_ms - 2) / item_ms if item_ms else 64)
    assert look.num_read >= min(16, could_be_read)
    assert look.num_read > could_be_read / 2 - 16  # most of the time is used


def test_what_is_read_by_the_deadline_is_reordered_and_the_rest_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    look = looked(SlowReader(pass_ms=0, item_ms=1), monkeypatch, deadline_ms=17)
    assert [each.item_id for each in look.candidates] == [*range(15, -1, -1), *range(16, 64)]


@pytest.mark.parametrize("began_ms", [5.0, 100.0])
def test_a_deadline_that_passed_before_anything_was_read_reads_nothing(monkeypatch: pytest.MonkeyPatch, began_ms: float) -> None:
    reader = SlowReader(pass_ms=2, item_ms=0.1, now_ms=began_ms)
    assert looked(reader, monkeypatch, deadline_ms=5).num_read == 0
    assert reader.passes == []


@pytest.mark.parametrize(("deadline_ms", "num_read", "took_ms"), [(20.0, 0, 0.0), (40.0, 16, 40.0), (70.0, 40, 70.0), (None, 64, 94.0)])
def test_nothing_is_prepared_that_is_known_to_take_longer(
    monkeypatch: pytest.MonkeyPatch, deadline_ms: float | None, num_read: int, took_ms: float
) -> None:
    reader = SlowReader(pass_ms=0, item_ms=1, preparing_ms=30)
    look = looked(reader, monkeypatch, deadline_ms=deadline_ms)
    assert look.num_read == num_read
    assert reader.now_ms == pytest.approx(took_ms, abs=6.1)
