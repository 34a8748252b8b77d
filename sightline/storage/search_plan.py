"""How a search runs, segment by segment: what an answer says of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Method(StrEnum):
    """How the rows of one segment are searched."""

    EXACT = "exact"  # all live rows
    SELECTED = "exact over the allowed rows"
    ANN = "ANN"
    DEVICE = "exact on the GPU"  # all live rows, or those that a filter passes


@dataclass(frozen=True, slots=True)
class SegmentPlan:
    """The search of one segment."""

    method: Method
    num_rows: int  # live rows, or allowed rows where a filter selects some
    reason: str  # empty where it goes without saying


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """How a search runs, segment by segment, in words for the answer."""

    generation: int
    segments: tuple[SegmentPlan, ...]
    bias_weight: float = 0.0  # how much of the hubness bias is taken off

    @property
    def is_exact(self) -> bool:
        """Whether the result is that of exact search."""
        return all(plan.method is not Method.ANN for plan in self.segments)

    def __str__(self) -> str:
        groups: dict[tuple[Method, str], list[SegmentPlan]] = {}
        for plan in self.segments:
            groups.setdefault((plan.method, plan.reason), []).append(plan)
        described = "; ".join(_describe(*how, plans) for how, plans in groups.items()) or "nothing to search"
        return described + (f", {self.bias_weight:.2g} of the hubness bias taken off" if self.bias_weight and self.segments else "")


def _describe(method: Method, reason: str, plans: Sequence[SegmentPlan]) -> str:
    """Segments that are searched alike, in one phrase."""
    where = f" in {len(plans)} segments" if len(plans) > 1 else ""
    return f"{method} over {sum(plan.num_rows for plan in plans):,} rows{where}" + (f" ({reason})" if reason else "")
