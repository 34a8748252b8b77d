"""Indexes a folder with the deterministic encoder: the process that the tests kill. Run as `python -m tests.indexer.index_folder`."""

import sys
from pathlib import Path

from indexer.options import GonePolicy, IndexOptions
from indexer.pipeline import SilentProgress, index_source
from indexer.sources import open_source
from sightline.storage.store import Store
from tests.histogram_encoder import HistogramEncoder

# Small, so that a kill may fall before, into and after each of many commits.
OPTIONS = IndexOptions(batch_images=4, decode_workers=2, look_ahead_batches=2, commit_items=8, gone=GonePolicy.PRUNE)
INTERRUPTED = 130


class _Lines(SilentProgress):
    """A line a commit, so that a test knows how far it is."""

    def committed(self, num_items: int) -> None:
        print("committed", flush=True)  # noqa: T201


def main(store_folder: str, source: str) -> int:
    """Says `indexing` when it is about to."""
    try:
        with Store.open(Path(store_folder)) as store:
            print("indexing", flush=True)  # noqa: T201
            index_source(store, "photos", open_source(source), HistogramEncoder(), options=OPTIONS, progress=_Lines())
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
