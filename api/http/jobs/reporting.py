"""What the process of a job tells: a JSON object a line, on a pipe to the service."""

import contextlib
import json
import time
from typing import IO

from indexer.progress import PlannedWork, Progress, SkippedInput
from sightline.types import JsonObject

_TELL_EVERY_S = 0.2


class Reporter:
    """Tells progress, seldom enough to cost nothing; a service that is gone is no reason to stop in the middle of a commit.

    It is what indexing tells its progress to.
    """

    def __init__(self, pipe: IO[str]) -> None:
        self._pipe = pipe
        self._progress: JsonObject = {}
        self._told_s = float("-inf")

    def note(self, **progress: object) -> None:
        """Progress so far, by name; what was noted before stays."""
        is_new_stage = progress.get("stage", self._progress.get("stage")) != self._progress.get("stage")
        self._progress |= progress
        if is_new_stage or time.monotonic() - self._told_s >= _TELL_EVERY_S:
            self.tell_progress()

    def tell_progress(self) -> None:
        """What was noted, now."""
        self._told_s = time.monotonic()
        self._tell("progress", self._progress)

    def done(self, result: JsonObject) -> None:
        """The job is done."""
        self.tell_progress()
        self._tell("done", result)

    def failed(self, sentence: str) -> None:
        """The job can't be done."""
        self.tell_progress()
        self._tell("failed", sentence)

    def interrupted(self) -> None:
        """The job was told to stop; what is whole is committed."""
        self.tell_progress()
        self._tell("interrupted", {})

    def surveyed(self, num_inputs: int) -> None:
        """So many inputs were found so far."""
        self.note(stage="looking through the source", num_inputs=num_inputs)

    def planned(self, work: PlannedWork) -> None:
        """The source was looked through."""
        self.note(stage="indexing", num_inputs=work.num_inputs, num_to_do=work.num_to_do, num_unchanged=work.num_unchanged, num_done=0)

    def advanced(self, progress: Progress) -> None:
        """After every batch and commit."""
        remaining_s = progress.remaining_s
        self.note(
            stage="indexing",
            num_done=progress.num_done,
            num_to_do=progress.num_to_do,
            num_embedded=progress.num_embedded,
            num_skipped=progress.num_skipped,
            elapsed_s=round(progress.elapsed_s, 1),
            inputs_per_s=round(progress.inputs_per_s, 1),
            remaining_s=None if remaining_s is None else round(remaining_s, 1),
        )

    def skipped(self, skipped: SkippedInput) -> None:
        """An input goes to the ledger."""
        self.note(last_skipped={"key": skipped.key, "cause": skipped.cause})

    def committed(self, num_items: int) -> None:
        """So many items more are searchable and safe."""
        self._progress["num_committed"] = self._progress.get("num_committed", 0) + num_items
        self.tell_progress()

    def _tell(self, what: str, value: object) -> None:
        with contextlib.suppress(OSError):
            self._pipe.write(json.dumps({what: value}) + "\n")
            self._pipe.flush()
