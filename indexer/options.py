"""What an indexing run may use and what it does about inputs that are gone or were skipped."""

import os
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from sightline.settings import Settings


class GonePolicy(StrEnum):
    """What becomes of items that their source no longer has."""

    KEEP = "keep"  # they are counted
    PRUNE = "prune"  # they are deleted from the collection


class SkippedPolicy(StrEnum):
    """What becomes of inputs that an earlier run skipped and that have not changed since."""

    LEAVE = "leave"
    RETRY = "retry"


def default_decode_workers() -> int:
    """One thread a core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class IndexOptions:
    """Memory is bounded by them: pixels decoded at once, prepared pictures in flight, items between commits."""

    batch_images: int = 32  # a forward pass
    decode_workers: int = 0  # threads; 0 is one a core
    look_ahead_batches: int = 3  # decoded batches in flight at most
    commit_items: int = 4096  # a commit at the latest after so many items
    commit_seconds: float = 15.0  # or so many seconds
    max_pixels: int = 200_000_000  # of one picture
    gone: GonePolicy = GonePolicy.KEEP
    skipped: SkippedPolicy = SkippedPolicy.LEAVE

    @classmethod
    def from_settings(cls, settings: Settings, *, prune: bool = False, retry_skipped: bool = False) -> Self:
        """The settings' values, and the two policies as the command line's flags give them."""
        return cls(
            batch_images=settings.batch_images,
            decode_workers=settings.decode_workers,
            look_ahead_batches=settings.look_ahead_batches,
            commit_items=settings.commit_items,
            commit_seconds=settings.commit_seconds,
            max_pixels=settings.max_pixels,
            gone=GonePolicy.PRUNE if prune else GonePolicy.KEEP,
            skipped=SkippedPolicy.RETRY if retry_skipped else SkippedPolicy.LEAVE,
        )

    @property
    def num_workers(self) -> int:
        """Decoding threads, resolved."""
        return self.decode_workers or default_decode_workers()

    @property
    def look_ahead(self) -> int:
        """Inputs that are being decoded or wait decoded, at most."""
        return max(self.look_ahead_batches * self.batch_images, self.num_workers + 1)
