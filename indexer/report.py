"""What an indexing run did."""

from dataclasses import dataclass

from indexer.progress import SkippedInput
from sightline.storage.records import RunCounts
from sightline.types import RunId


@dataclass(frozen=True, slots=True)
class IndexReport:
    """The end of a run that went through."""

    run_id: RunId
    collection: str
    source: str
    counts: RunCounts  # `unchanged` includes files that were only touched, `skipped` those that earlier runs skipped
    num_skipped_before: int  # of the skipped, those that were left alone; `--retry-skipped` tries them
    num_hidden: int  # items that were not found and are not counted as gone: the part of the source with them could not be read
    num_passed_over: int  # files that are no pictures
    skipped: tuple[SkippedInput, ...]  # the first ten of this run; all are in the ledger
    duration_s: float

    @property
    def num_embedded(self) -> int:
        """Items that went through the encoder."""
        return self.counts.new + self.counts.changed
