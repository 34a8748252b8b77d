"""Peak memory of indexing, which must not grow with the number of pictures: `python -m benchmarks.indexing_memory`.

Each row of the table is a process of its own that indexes so many pictures into a new store; beside it a plain loop (Pillow, the
processor, the network, a list of embeddings) over the fewest. Pictures beyond the first are links to the same files, which the indexer
reads, decodes and embeds each for itself. Linux only: the peak is the kernel's, reset once libraries and network are loaded
(`ru_maxrss` would tell the peak of the parent process too, which it takes over at the start).
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
from PIL import Image

from benchmarks.networks import mini_folder
from benchmarks.photographs import add_picture_options, link_photographs, pictures_of
from benchmarks.reporting import describe_machine, markdown_table, write_json
from indexer.options import IndexOptions
from indexer.pipeline import index_source
from indexer.sources.opening import open_source
from sightline.encoders.load import load_encoder
from sightline.storage.store import Store

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Peak:
    """What one process took, in bytes."""

    what: str
    num_pictures: int
    before_bytes: int  # libraries and the network, loaded and run once
    peak_bytes: int  # the most from there on


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description="Peak memory of indexing N, 4 N and 16 N pictures, each in a process of its own.")
    add_picture_options(parser, num_pictures=250)
    parser.add_argument("--times", type=int, nargs="+", default=[1, 4, 16], help="multiples of the pictures (default: 1 4 16)")
    parser.add_argument("--commit-items", type=int, default=IndexOptions().commit_items)
    parser.add_argument("--scratch", type=Path, help="folder for pictures and stores (default: the system's)")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--child", nargs=3, metavar=("WHAT", "ENCODER", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child is not None:
        print(json.dumps(asdict(run_child(*options.child, commit_items=options.commit_items))))
        return 0
    with TemporaryDirectory(dir=options.scratch, prefix="memory-") as name, pictures_of(options, scratch=Path(name)) as originals:
        peaks = measure(originals, options=options, scratch=Path(name))
    print(f"{describe_machine()}\n")
    print(markdown_table([_table_row(peak, first=peaks[0]) for peak in peaks]))
    write_json(options.json, benchmark="indexing_memory", figures=[asdict(peak) for peak in peaks])
    return 0


def measure(originals: list[Path], *, options: argparse.Namespace, scratch: Path) -> list[Peak]:
    """The indexer over each multiple of the pictures, then the loop over the fewest."""
    encoder = mini_folder(scratch)
    folders = {times: scratch / f"pictures-{times}" for times in options.times}
    for times, folder in folders.items():
        link_photographs(folder, originals, num_copies=times)
    runs = [("index", folder) for folder in folders.values()] + [("plain loop", folders[min(folders)])]
    return [_in_own_process(what, encoder, folder, commit_items=options.commit_items) for what, folder in runs]


def run_child(what: str, encoder: str, folder: str, *, commit_items: int) -> Peak:
    """One measurement, in this process."""
    loaded = load_encoder(encoder)
    batch = np.stack([loaded.prepare(Image.new("RGB", (500, 400)))] * IndexOptions().batch_images)
    loaded.embed_pixels(batch)
    before_bytes = _memory_bytes("VmRSS")
    _forget_peak()
    pictures = sorted(Path(folder).iterdir())
    if what == "index":
        with TemporaryDirectory(dir=Path(folder).parent, prefix="store-") as name, Store.open(Path(name)) as store:
            index_source(store, "benchmark", open_source(folder), loaded, options=IndexOptions(commit_items=commit_items))
            num_pictures = store.snapshot(store.collection("benchmark").collection_id).num_items()
    else:
        embeddings = [loaded.embed_pixels(loaded.prepare(Image.open(path).convert("RGB"))[np.newaxis]) for path in pictures]
        num_pictures = len(embeddings)
    assert num_pictures == len(pictures)
    return Peak(what, num_pictures, before_bytes, _memory_bytes("VmHWM"))


def _in_own_process(what: str, encoder: Path, folder: Path, *, commit_items: int) -> Peak:
    module = ["-m", "benchmarks.indexing_memory", "--commit-items", str(commit_items), "--child", what, str(encoder), str(folder)]
    child = subprocess.run([sys.executable, *module], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    peak = Peak(**json.loads(child.stdout.splitlines()[-1]))
    print(peak, file=sys.stderr)
    return peak


def _forget_peak() -> None:
    """The peak counts from here on (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _memory_bytes(line: Literal["VmRSS", "VmHWM"]) -> int:
    """Resident memory of this process: now, or at its peak."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(text.split()[1]) for text in lines if text.startswith(f"{line}:"))


def _table_row(peak: Peak, *, first: Peak) -> dict[str, object]:
    mebibyte = 2**20
    return {
        "what": peak.what,
        "pictures": f"{peak.num_pictures:,}",
        "network loaded, MiB": f"{peak.before_bytes / mebibyte:,.0f}",
        "peak, MiB": f"{peak.peak_bytes / mebibyte:,.0f}",
        "more than the first row, MiB": f"{(peak.peak_bytes - first.peak_bytes) / mebibyte:+,.0f}",
    }


if __name__ == "__main__":
    sys.exit(main())
