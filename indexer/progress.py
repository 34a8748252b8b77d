"""What an indexing run tells while it goes; the command line draws it, with a bar or in plain lines."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class PlannedWork:
    """What the survey of the source found, before anything is decoded."""

    num_inputs: int  # items and broken inputs that the source has
    num_to_do: int  # of them, those that are read and perhaps embedded; the rest is unchanged
    num_unchanged: int
    num_gone: int
    num_passed_over: int  # files that are no pictures


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    num_done: int  # of `num_to_do`, whatever became of them; those that are decoded and not embedded yet are not among them
    num_to_do: int
    num_embedded: int
    num_skipped: int
    elapsed_s: float  # since the first input was read

    @property
    def inputs_per_s(self) -> float:
        """Mean rate since the first input was read."""
        return self.num_done / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def remaining_s(self) -> float | None:
        """At the mean rate; None while there is none."""
        return (self.num_to_do - self.num_done) / self.inputs_per_s if self.num_done and self.elapsed_s > 0 else None


@dataclass(frozen=True, slots=True)
class SkippedInput:
    """An input that was not indexed, and why."""

    key: str
    cause: str
    error_class: str


class ProgressListener(Protocol):
    """Called on the thread that indexes, in this order: surveyed, planned, then the others as things happen."""

    def surveyed(self, num_inputs: int) -> None:
        """So many inputs were found so far; called every thousand."""

    def planned(self, work: PlannedWork) -> None:
        """The source was looked through."""

    def advanced(self, progress: Progress) -> None:
        """After every batch and commit."""

    def skipped(self, skipped: SkippedInput) -> None:
        """An input goes to the ledger."""

    def committed(self, num_items: int) -> None:
        """So many items more are searchable and safe."""


class SilentProgress:
    """Listens and says nothing."""

    def surveyed(self, num_inputs: int) -> None:
        """Nothing."""

    def planned(self, work: PlannedWork) -> None:
        """Nothing."""

    def advanced(self, progress: Progress) -> None:
        """Nothing."""

    def skipped(self, skipped: SkippedInput) -> None:
        """Nothing."""

    def committed(self, num_items: int) -> None:
        """Nothing."""
