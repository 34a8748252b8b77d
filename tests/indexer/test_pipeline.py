"""Collections in step with their sources: with a real store, real pictures and a small deterministic encoder."""

import contextlib
import logging
import os
import resource
import shutil
import struct
import tarfile
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from indexer.maintenance import delete_items
from indexer.options import GonePolicy, IndexOptions, SkippedPolicy
from indexer.progress import PlannedWork, Progress, SilentProgress, SkippedInput
from indexer.sources import SourceKind, open_source
from sightline.errors import CollectionNotFound, EncoderMismatch, InvalidSource, ItemNotFound, OutOfSpace, StorageError, StoreBusy
from sightline.settings import load_settings
from sightline.storage.records import RunCounts, RunState
from sightline.storage.store import Store, StoreOptions
from sightline.types import Embeddings, Modality
from tests.histogram_encoder import HistogramEncoder
from tests.indexer.corpus import index, items_by_key, write_picture, write_pictures

PRUNE = IndexOptions(gone=GonePolicy.PRUNE)
RETRY = IndexOptions(skipped=SkippedPolicy.RETRY)


class CountingEncoder(HistogramEncoder):
    """Counts what goes through the network."""

    def __init__(self) -> None:
        super().__init__()
        self.num_images = 0
        self.batch_sizes: list[int] = []

    def embed_pixels(self, pixels: NDArray[Any]) -> Embeddings:
        self.num_images += len(pixels)
        self.batch_sizes.append(len(pixels))
        return super().embed_pixels(pixels)


class RecordingProgress(SilentProgress):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.work: PlannedWork | None = None
        self.last: Progress | None = None
        self.num_committed = 0
        self.num_commits = 0
        self.skipped_keys: list[str] = []

    def planned(self, work: PlannedWork) -> None:
        self.work = work

    def advanced(self, progress: Progress) -> None:
        self.last = progress

    def skipped(self, skipped: SkippedInput) -> None:
        self.skipped_keys.append(skipped.key)

    def committed(self, num_items: int) -> None:
        self.num_committed += num_items
        self.num_commits += 1


def _found(store: Store, words: str, *, k: int = 3) -> list[str]:
    record = store.collection("photos")
    xq = HistogramEncoder().embed_texts([words])
    candidates = store.snapshot(record.collection_id).search(xq, k, modality=Modality.IMAGE)[0]
    items = store.items(record.collection_id, [candidate.item_id for candidate in candidates])
    return [items[candidate.item_id].key for candidate in candidates]


def _assert_in_step(store: Store, folder: Path, *, collection: str = "photos") -> None:
    """Every picture is an item with the embedding that it has when it is embedded alone, and nothing else is an item."""
    encoder = HistogramEncoder()
    items = items_by_key(store, collection=collection)
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.png")}
    assert items.keys() == paths.keys()
    snapshot = store.snapshot(store.collection(collection).collection_id)
    for key, path in paths.items():
        with Image.open(path) as image:
            expected = encoder.embed_pixels(encoder.prepare(image.convert("RGB"))[None])[0]
        stored = snapshot.embeddings(np.array([items[key].item_id]))[0]
        np.testing.assert_allclose(stored, expected, atol=1e-3)  # rows are stored in 16 bits


def test_a_folder_becomes_searchable(store: Store, photos: Path) -> None:
    for colour in ("red", "green", "blue"):
        write_picture(photos / f"{colour}.png", colour)

    report = index(store, photos)

    assert report.counts == RunCounts(new=3)
    assert (report.num_embedded, report.source, report.collection) == (3, f"{photos}/", "photos")
    assert _found(store, "green", k=1) == ["green.png"]
    _assert_in_step(store, photos)


def test_an_item_keeps_what_its_source_told(store: Store, photos: Path) -> None:
    path = write_picture(photos / "sub" / "a.png", side=30)
    (photos / "sub" / "a.txt").write_text("a red square")

    index(store, photos)

    item = items_by_key(store)["sub/a.png"]
    assert (item.source, item.text, item.width, item.height) == (f"{photos}/", "a red square", 30, 30)
    assert (item.size_bytes, item.mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)
    assert len(item.content_hash) == 64 + 1 + 16


def test_a_second_run_reads_nothing(store: Store, photos: Path) -> None:
    write_pictures(photos, 20)
    index(store, photos)
    encoder = CountingEncoder()

    report = index(store, photos, encoder=encoder)

    assert report.counts == RunCounts(unchanged=20)
    assert encoder.num_images == 0


def test_new_changed_moved_touched_and_gone(store: Store, photos: Path) -> None:
    for serial, name in enumerate(("stays", "changes", "moves", "touched", "goes")):
        write_picture(photos / f"{name}.png", serial=serial)
    index(store, photos)
    before = items_by_key(store)
    write_picture(photos / "new.png", serial=77)
    write_picture(photos / "changes.png", "blue", serial=78)
    (photos / "moves.png").rename(photos / "moved.png")
    os.utime(photos / "touched.png", ns=(1, 1))
    (photos / "goes.png").unlink()
    encoder = CountingEncoder()

    report = index(store, photos, encoder=encoder)

    after = items_by_key(store)
    assert report.counts == RunCounts(new=1, changed=1, moved=1, unchanged=2, gone=1)
    assert encoder.num_images == 2
    assert after["moved.png"].item_id == before["moves.png"].item_id
    assert after["changes.png"].item_id == before["changes.png"].item_id
    assert after["touched.png"].mtime_ns == 1
    assert "goes.png" in after
    assert index(store, photos, options=PRUNE).counts == RunCounts(unchanged=5, gone=1, pruned=1)
    _assert_in_step(store, photos)


def test_two_files_may_swap_their_names(store: Store, photos: Path) -> None:
    write_picture(photos / "a.png", "red")
    write_picture(photos / "b.png", "blue")
    index(store, photos)
    (photos / "a.png").rename(photos / "x")
    (photos / "b.png").rename(photos / "a.png")
    (photos / "x").rename(photos / "b.png")

    index(store, photos)

    _assert_in_step(store, photos)


def test_a_copy_is_new_and_of_two_copies_one_may_have_moved(store: Store, photos: Path) -> None:
    write_picture(photos / "a.png")
    index(store, photos)
    shutil.copy(photos / "a.png", photos / "copy.png")
    assert index(store, photos).counts == RunCounts(new=1, unchanged=1)

    (photos / "a.png").rename(photos / "b.png")
    shutil.copy(photos / "b.png", photos / "c.png")

    assert index(store, photos).counts == RunCounts(new=1, moved=1, unchanged=1)
    _assert_in_step(store, photos)


def test_a_changed_caption_is_a_change(store: Store, photos: Path) -> None:
    write_picture(photos / "a.png")
    (photos / "a.txt").write_text("before")
    index(store, photos)
    (photos / "a.txt").write_text("after")

    assert index(store, photos).counts == RunCounts(changed=1)
    assert items_by_key(store)["a.png"].text == "after"
    (photos / "a.txt").unlink()
    assert index(store, photos).counts == RunCounts(changed=1)
    assert items_by_key(store)["a.png"].text is None


def test_a_folder_that_was_renamed_keeps_its_embeddings(store: Store, photos: Path) -> None:
    write_pictures(photos, 9)
    index(store, photos)
    before = items_by_key(store)
    renamed = photos.rename(photos.parent / "pictures")
    encoder = CountingEncoder()

    report = index(store, renamed, encoder=encoder)

    after = items_by_key(store)
    assert report.counts == RunCounts(moved=9)
    assert encoder.num_images == 0
    assert {key: item.item_id for key, item in after.items()} == {key: item.item_id for key, item in before.items()}
    assert {item.source for item in after.values()} == {f"{renamed}/"}


def test_two_folders_with_the_same_names_are_two_sets_of_items(store: Store, tmp_path: Path) -> None:
    for folder, colour in (("a", "red"), ("b", "blue")):
        write_picture(tmp_path / folder / "1.png", colour)
        index(store, tmp_path / folder)

    assert items_by_key(store).keys() == {"1.png", f"{tmp_path}/b/1.png"}
    for folder in ("a", "b"):
        assert index(store, tmp_path / folder).counts == RunCounts(unchanged=1)
    write_picture(tmp_path / "b" / "1.png", "green")
    assert index(store, tmp_path / "b").counts == RunCounts(changed=1)
    (tmp_path / "b" / "1.png").rename(tmp_path / "b" / "2.png")
    assert index(store, tmp_path / "b").counts == RunCounts(moved=1)
    assert items_by_key(store).keys() == {"1.png", "2.png"}


def test_pruning_one_folder_leaves_the_other(store: Store, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_pictures(tmp_path / folder, 5)
        index(store, tmp_path / folder)
    for path in sorted((tmp_path / "a").rglob("*.png"))[1:]:
        path.unlink()
    shutil.rmtree(tmp_path / "b")

    assert index(store, tmp_path / "a", options=PRUNE).counts == RunCounts(unchanged=1, gone=4, pruned=4)
    assert len(items_by_key(store)) == 1 + 5


def test_a_folder_inside_an_indexed_one_adds_nothing_twice(store: Store, photos: Path) -> None:
    write_pictures(photos, 6)
    index(store, photos)
    (photos / "part1" / "00001.png").unlink()
    write_picture(photos / "part1" / "00004.png", "white", serial=99)
    write_picture(photos / "part1" / "new.png", serial=100)

    report = index(store, photos / "part1", options=PRUNE)

    assert report.counts == RunCounts(new=1, changed=1, gone=1, pruned=1)
    assert items_by_key(store).keys() >= {"part1/00004.png", "new.png"}
    assert index(store, photos).counts == RunCounts(unchanged=6)
    _assert_in_step(store, photos)  # the outer folder has adopted new.png as part1/new.png


def test_a_folder_around_an_indexed_one_adopts_its_items(store: Store, photos: Path) -> None:
    write_pictures(photos, 6)
    index(store, photos / "part0")

    assert index(store, photos).counts == RunCounts(new=4, unchanged=2)
    _assert_in_step(store, photos)
    shutil.rmtree(photos / "part0")
    assert index(store, photos, options=PRUNE).counts == RunCounts(unchanged=4, gone=2, pruned=2)


def test_a_missing_or_empty_folder_prunes_nothing(store: Store, photos: Path) -> None:
    write_pictures(photos, 4)
    index(store, photos)
    shutil.rmtree(photos)
    with pytest.raises(InvalidSource, match="does not exist"):
        index(store, photos, options=PRUNE)
    photos.mkdir()  # as a mount point without its disk

    with pytest.raises(InvalidSource, match=r"nothing to index, while 4 items of the collection come from it: is its disk mounted\?"):
        index(store, photos, options=PRUNE)

    assert len(items_by_key(store)) == 4
    assert len(store.runs()) == 1


def test_an_empty_folder_is_an_error_and_leaves_no_trace(store: Store, photos: Path) -> None:
    (photos / "notes.md").write_text("x")

    with pytest.raises(InvalidSource, match=r"holds nothing to index \(1 other files\)"):
        index(store, photos)

    assert store.collections() == []
    assert store.runs() == []


def test_what_lies_where_it_cannot_be_looked_into_is_not_pruned(store: Store, photos: Path) -> None:
    write_pictures(photos, 6)
    index(store, photos)
    (photos / "part1" / "00001.png").unlink()

    with _unmounted(photos / "part0"):
        report = index(store, photos, options=PRUNE)

    assert report.counts == RunCounts(unchanged=3, gone=1, pruned=1, skipped=1)
    assert (report.num_hidden, report.skipped[0].key) == (2, "part0")
    assert len(items_by_key(store)) == 5


@contextlib.contextmanager
def _unmounted(folder: Path) -> Iterator[None]:
    """A link to nowhere in the folder's place, as unreadable to root as to anybody."""
    aside = folder.with_name(f".{folder.name}")
    folder.rename(aside)
    folder.symlink_to("/nowhere/at/all")
    yield
    folder.unlink()
    aside.rename(folder)


BROKEN_FILES = {
    "cut.jpg": "it is cut short",
    "empty.png": "the file is empty",
    "huge.png": "60,000 x 60,000 pixels",
    "text.jpg": "it holds text, not a picture",
}


def _png_that_claims(width: int, height: int) -> bytes:
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0" * 999)), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content)) for name, content in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def _write_broken_files(folder: Path) -> None:
    write_picture(folder / "cut.jpg", side=400)
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:1500])
    (folder / "empty.png").touch()
    (folder / "huge.png").write_bytes(_png_that_claims(60_000, 60_000))
    (folder / "text.jpg").write_text("not a picture")


def test_bad_pictures_cost_a_line_each(store: Store, photos: Path) -> None:
    write_pictures(photos, 10)
    _write_broken_files(photos)
    progress = RecordingProgress()

    report = index(store, photos, progress=progress)

    assert report.counts == RunCounts(new=10, skipped=4)
    ledger = {entry.key: entry for entry in store.ledger()}
    assert ledger.keys() == BROKEN_FILES.keys() == set(progress.skipped_keys)
    for key, cause in BROKEN_FILES.items():
        assert cause in ledger[key].cause
        assert ledger[key].source == f"{photos}/"
    assert ledger["huge.png"].error_class == "ImageTooLarge"
    assert {skipped.key for skipped in report.skipped} == BROKEN_FILES.keys()


def test_what_was_skipped_is_left_until_it_changes_or_is_asked_for(store: Store, photos: Path) -> None:
    write_pictures(photos, 2)
    _write_broken_files(photos)
    index(store, photos)

    report = index(store, photos)
    assert (report.counts, report.num_skipped_before) == (RunCounts(unchanged=2, skipped=4), 4)
    assert len(store.ledger()) == 4

    write_picture(photos / "empty.png", serial=5)
    assert index(store, photos).counts == RunCounts(new=1, unchanged=2, skipped=3)
    assert {entry.key for entry in store.ledger(unresolved_only=True)} == BROKEN_FILES.keys() - {"empty.png"}

    report = index(store, photos, options=RETRY)
    assert (report.counts, report.num_skipped_before) == (RunCounts(unchanged=3, skipped=3), 0)
    assert len(store.ledger(unresolved_only=True)) == 3


def test_a_picture_that_breaks_keeps_its_item(store: Store, photos: Path) -> None:
    write_pictures(photos, 3)
    index(store, photos)
    (photos / "part0" / "00000.png").write_text("overwritten")

    assert index(store, photos, options=PRUNE).counts == RunCounts(unchanged=2, skipped=1)
    assert len(items_by_key(store)) == 3


def test_a_picture_that_the_encoder_cannot_take_costs_a_line(store: Store, photos: Path) -> None:
    class Picky(HistogramEncoder):
        def prepare(self, image: Image.Image) -> NDArray[Any]:
            if image.width == 4:
                raise ValueError("too narrow")
            return super().prepare(image)

    write_picture(photos / "a.png", side=4)
    write_picture(photos / "b.png")

    report = index(store, photos, encoder=Picky())

    assert report.counts == RunCounts(new=1, skipped=1)
    assert report.skipped[0].cause == "the encoder cannot take it (ValueError: too narrow)"


def test_a_file_that_vanishes_between_listing_and_reading_costs_a_line(store: Store, photos: Path) -> None:
    paths = sorted(write_pictures(photos, 3).rglob("*.png"))

    class Vanishing(SilentProgress):
        def planned(self, work: PlannedWork) -> None:
            """After the survey, before the work: the listing of the second look is made of a link without a file."""
            paths[0].unlink()
            paths[0].symlink_to(photos / "gone.png")

    report = index(store, photos, progress=Vanishing())

    assert report.counts.new == 2
    assert report.counts.skipped == 1


def test_a_file_of_a_manifest_that_vanished(store: Store, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_picture(tmp_path / f"{name}.png")
    (tmp_path / "m.csv").write_text("path,caption\na.png,one\nb.png,two\nmissing.png,three\n")
    assert index(store, tmp_path / "m.csv").counts == RunCounts(new=2, skipped=1)
    (tmp_path / "b.png").unlink()

    report = index(store, tmp_path / "m.csv", options=PRUNE)

    assert report.counts == RunCounts(unchanged=1, skipped=2)  # named by the manifest still, so not gone
    assert [(entry.key, entry.cause) for entry in store.ledger(unresolved_only=True)] == [
        ("b.png", "row 3: no such file"),
        ("missing.png", "row 4: no such file"),
    ]


@pytest.mark.parametrize("bad_row", ['b.png,"two', "b.png,two,too many", "caf\\xe9.png,two", ",two"])
def test_nothing_is_pruned_while_a_row_of_the_manifest_cannot_be_read(store: Store, tmp_path: Path, bad_row: str) -> None:
    manifest = tmp_path / "m.csv"
    rows = [f"{name}.png,{number}" for number, name in enumerate("abcd")]
    for serial, name in enumerate("abcd"):
        write_picture(tmp_path / f"{name}.png", serial=serial)
    write_picture(tmp_path / "others" / "e.png", serial=9)
    index(store, tmp_path / "others")
    manifest.write_text("\n".join(["path,caption", *rows]) + "\n")
    index(store, manifest)
    lines = ["path,caption", rows[0], bad_row, rows[2]]  # b's row is damaged, d's is not there any more
    manifest.write_bytes("\n".join(lines).encode().replace(rb"\xe9", b"\xe9") + b"\n")

    report = index(store, manifest, options=PRUNE)

    assert (report.counts.gone, report.counts.pruned, report.counts.skipped) == (0, 0, 1)
    assert report.num_hidden >= 2
    assert items_by_key(store).keys() == {"a.png", "b.png", "c.png", "d.png", "e.png"}

    manifest.write_text("\n".join(["path,caption", *rows[:3]]) + "\n")
    mended = index(store, manifest, options=PRUNE)
    assert mended.counts == RunCounts(unchanged=3, gone=1, pruned=1)
    assert mended.num_hidden == 0


def test_texts_of_a_line_that_is_damaged_are_not_pruned(store: Store, tmp_path: Path) -> None:
    texts = tmp_path / "t.jsonl"
    texts.write_text('["a red car", "the blue sea"]\n"green grass"\n')
    index(store, open_source(texts, SourceKind.TEXTS))
    texts.write_text('["a red car", "the blue s\n"green grass"\n')

    report = index(store, open_source(texts, SourceKind.TEXTS), options=PRUNE)

    assert (report.counts, report.num_hidden) == (RunCounts(unchanged=1, skipped=1), 2)
    assert len(items_by_key(store)) == 3


def test_texts_are_items_of_modality_text(store: Store, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a red car\n\nthe blue sea\n")

    assert index(store, tmp_path / "notes.txt").counts == RunCounts(new=2)

    items = items_by_key(store)
    assert {key: item.text for key, item in items.items()} == {"notes.txt:1": "a red car", "notes.txt:3": "the blue sea"}
    assert {item.modality for item in items.values()} == {Modality.TEXT}
    assert index(store, tmp_path / "notes.txt").counts == RunCounts(unchanged=2)
    (tmp_path / "notes.txt").write_text("a red car\n\nthe black sea\na new line\n")
    assert index(store, tmp_path / "notes.txt").counts == RunCounts(new=1, changed=1, unchanged=1)


def test_pictures_and_texts_of_one_manifest_share_a_commit(store: Store, tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    (tmp_path / "m.jsonl").write_text('{"path": "a.png"}\n{"text": "green"}\n')
    progress = RecordingProgress()

    index(store, tmp_path / "m.jsonl", progress=progress)

    assert progress.num_commits == 1
    assert Counter(item.modality for item in items_by_key(store).values()) == {Modality.IMAGE: 1, Modality.TEXT: 1}


def test_shards_may_grow_and_be_rewritten(store: Store, photos: Path, tmp_path: Path) -> None:
    def write(number: int, serials: range) -> None:
        with tarfile.open(tmp_path / f"train-{number}.tar", "w") as tar:
            for serial in serials:
                tar.add(write_picture(photos / "x.png", serial=serial), arcname=f"{serial}.png")

    write(0, range(3))
    assert index(store, f"{tmp_path}/train-{{0..0}}.tar").counts == RunCounts(new=3)
    write(1, range(3, 5))
    assert index(store, f"{tmp_path}/train-{{0..1}}.tar").counts == RunCounts(new=2, unchanged=3)
    write(0, range(1, 3))
    report = index(store, f"{tmp_path}/train-{{0..1}}.tar", options=PRUNE)
    assert report.counts == RunCounts(unchanged=4, gone=1, pruned=1)
    assert items_by_key(store).keys() == {f"train-{number}.tar/{serial}.png" for serial, number in ((1, 0), (2, 0), (3, 1), (4, 1))}


def test_a_shard_that_breaks_keeps_its_items_and_the_others_are_indexed(store: Store, photos: Path, tmp_path: Path) -> None:
    for number in range(3):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as tar:
            tar.add(write_picture(photos / "x.png", serial=number), arcname="x.png")
    index(store, f"{tmp_path}/{{0..1}}.tar")
    (tmp_path / "1.tar").write_bytes(b"")

    report = index(store, f"{tmp_path}/{{0..2}}.tar", options=PRUNE)

    assert (report.counts, report.num_hidden) == (RunCounts(new=1, unchanged=1, skipped=1), 1)
    assert items_by_key(store).keys() == {"0.tar/x.png", "1.tar/x.png", "2.tar/x.png"}
    assert [entry.key for entry in store.ledger(unresolved_only=True)] == ["1.tar"]


def test_the_kind_decides_what_a_table_is(store: Store, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,text\nnowhere.png,a poem\n")

    assert index(store, open_source(tmp_path / "t.csv", SourceKind.TEXTS)).counts == RunCounts(new=1)


def test_another_encoder_is_refused(store: Store, photos: Path) -> None:
    write_pictures(photos, 1)
    index(store, photos)

    with pytest.raises(EncoderMismatch, match=r"embedded by histogram .* not by histogram"):
        index(store, photos, encoder=HistogramEncoder(version="2"))


def test_one_writer_at_a_time(store: Store, photos: Path) -> None:
    write_pictures(photos, 1)

    with store.writer(), pytest.raises(StoreBusy):
        index(store, photos)


@pytest.mark.parametrize("batch_images", [1, 7, 32])
def test_batches_are_full_but_for_the_last(store: Store, photos: Path, batch_images: int) -> None:
    write_pictures(photos, 30)
    encoder = CountingEncoder()

    index(store, photos, encoder=encoder, options=IndexOptions(batch_images=batch_images))

    assert encoder.batch_sizes[:-1] == [batch_images] * (len(encoder.batch_sizes) - 1)
    assert sum(encoder.batch_sizes) == 30


def test_commits_come_by_items_and_by_seconds(store: Store, photos: Path) -> None:
    write_pictures(photos, 40)
    by_items, by_seconds = RecordingProgress(), RecordingProgress()

    index(store, photos, collection="a", progress=by_items, options=IndexOptions(batch_images=4, commit_items=8))
    index(store, photos, collection="b", progress=by_seconds, options=IndexOptions(batch_images=32, commit_seconds=1e-9))

    assert (by_items.num_commits, by_items.num_committed) == (5, 40)
    assert (by_seconds.num_commits, by_seconds.num_committed) == (40, 40)
    _assert_in_step(store, photos, collection="a")
    _assert_in_step(store, photos, collection="b")


def test_progress_ends_where_it_was_planned_to(store: Store, photos: Path) -> None:
    write_pictures(photos, 12)
    index(store, photos)
    write_pictures(photos, 5, start=100)
    _write_broken_files(photos)
    (photos / "part0" / "00000.png").unlink()
    progress = RecordingProgress()

    index(store, photos, progress=progress)

    assert progress.work == PlannedWork(num_inputs=20, num_to_do=9, num_unchanged=11, num_gone=1, num_passed_over=0)
    assert progress.last is not None
    assert (progress.last.num_done, progress.last.num_to_do, progress.last.num_embedded, progress.last.num_skipped) == (9, 9, 5, 4)
    assert progress.last.inputs_per_s > 0
    assert progress.last.remaining_s == 0


def test_runs_are_recorded(store: Store, photos: Path) -> None:
    write_pictures(photos, 3)
    report = index(store, photos)

    (run,) = store.runs()

    assert (run.run_id, run.state, run.source, run.counts) == (report.run_id, RunState.FINISHED, f"{photos}/", report.counts)


class StoppingEncoder(HistogramEncoder):
    """Raises in the middle of the work."""

    def __init__(self, error: BaseException, *, after_batches: int) -> None:
        super().__init__()
        self._error = error
        self._batches_left = after_batches

    def embed_pixels(self, pixels: NDArray[Any]) -> Embeddings:
        if self._batches_left == 0:
            raise self._error
        self._batches_left -= 1
        return super().embed_pixels(pixels)


def test_an_interrupt_commits_what_is_whole_and_goes_on(store: Store, photos: Path) -> None:
    write_pictures(photos, 20)
    options = IndexOptions(batch_images=4)

    with pytest.raises(KeyboardInterrupt):
        index(store, photos, encoder=StoppingEncoder(KeyboardInterrupt(), after_batches=3), options=options)

    assert len(items_by_key(store)) == 12
    assert store.runs()[0].state is RunState.INTERRUPTED
    assert store.runs()[0].counts == RunCounts(new=12)
    assert index(store, photos).counts == RunCounts(new=8, unchanged=12)
    _assert_in_step(store, photos)


@pytest.mark.parametrize("num_batches", [0, 3])
def test_what_an_interrupt_shows_as_done_is_what_is_committed(store: Store, photos: Path, num_batches: int) -> None:
    """Pictures that were decoded, and embedded in no batch or in the one that broke off, are read again."""
    write_pictures(photos, 20)
    progress, options = RecordingProgress(), IndexOptions(batch_images=4)

    with pytest.raises(KeyboardInterrupt):
        index(store, photos, encoder=StoppingEncoder(KeyboardInterrupt(), after_batches=num_batches), options=options, progress=progress)

    assert progress.last is not None
    assert progress.last.num_done == progress.num_committed == 4 * num_batches


def test_no_thread_outlives_a_run(store: Store, photos: Path) -> None:
    write_pictures(photos, 20)
    before = threading.active_count()

    with pytest.raises(KeyboardInterrupt):
        index(store, photos, encoder=StoppingEncoder(KeyboardInterrupt(), after_batches=0), options=IndexOptions(batch_images=4))

    assert threading.active_count() == before


def test_a_failure_of_the_network_ends_the_run_and_keeps_the_commits(store: Store, photos: Path) -> None:
    write_pictures(photos, 20)
    options = IndexOptions(batch_images=4, commit_items=8)

    with pytest.raises(RuntimeError, match="out of memory"):
        index(store, photos, encoder=StoppingEncoder(RuntimeError("out of memory"), after_batches=3), options=options)

    assert len(items_by_key(store)) == 8
    assert store.runs()[0].state is RunState.FAILED
    assert store.runs()[0].counts == RunCounts(new=8)


def test_a_full_disk_stops_cleanly_and_keeps_what_was_committed(tmp_path: Path, photos: Path) -> None:
    write_pictures(photos, 20)
    free_bytes = shutil.disk_usage(tmp_path).free
    with Store.open(tmp_path / "store") as store:
        index(store, photos / "part0")
    options = StoreOptions(index_memory_bytes=1_000_000_000, min_free_bytes=free_bytes * 2)

    with (
        Store.open(tmp_path / "store", options=options) as full,
        pytest.raises(OutOfSpace, match="run again; what was committed is intact"),
    ):
        index(full, photos)

    with Store.open(tmp_path / "store") as store:
        assert len(items_by_key(store)) == 7
        assert index(store, photos).counts == RunCounts(new=13, unchanged=7)
        _assert_in_step(store, photos)


def test_a_catalogue_that_cannot_be_written_is_told_in_a_sentence(store: Store, photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_pictures(photos, 4)
    soft_limit, hard_limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    class BreakingDisk(SilentProgress):
        def planned(self, work: PlannedWork) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard_limit))  # from here on every write fails, as on a broken disk

    try:
        with caplog.at_level(logging.INFO), pytest.raises(StorageError) as raised:
            index(store, photos, progress=BreakingDisk())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft_limit, hard_limit))

    assert "\n" not in str(raised.value)
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.getMessage().startswith("run=1 could not be marked as failed: ")
    assert "\n" not in warning.getMessage()
    assert warning.exc_info is None


def test_items_are_deleted_by_key(store: Store, photos: Path) -> None:
    write_pictures(photos, 4)
    index(store, photos)

    assert delete_items(store, "photos", ["part0/00000.png", "part1/00001.png", "part0/00000.png"]) == 2
    assert len(items_by_key(store)) == 2
    with pytest.raises(ItemNotFound):
        delete_items(store, "photos", ["part2/00002.png", "nonsense"])
    with pytest.raises(CollectionNotFound):
        delete_items(store, "phots", ["part2/00002.png"])
    assert len(items_by_key(store)) == 2
    assert index(store, photos).counts == RunCounts(new=2, unchanged=2)


def test_options_come_from_the_settings() -> None:
    options = IndexOptions.from_settings(load_settings(batch_images=8, decode_workers=3), prune=True, retry_skipped=True)

    assert (options.batch_images, options.num_workers, options.look_ahead) == (8, 3, 24)
    assert (options.gone, options.skipped) == (GonePolicy.PRUNE, SkippedPolicy.RETRY)
    assert IndexOptions().num_workers >= 1


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from(["write", "move", "copy", "remove", "touch"]), st.integers(0, 7), st.integers(0, 7)), max_size=8
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_history_of_a_folder_ends_in_step(tmp_path_factory: pytest.TempPathFactory, rounds: list[list[tuple[str, int, int]]]) -> None:
    """Whatever happens to files between runs, after pruning the collection is what a fresh one of the folder would be."""
    folder = tmp_path_factory.mktemp("history")
    photos = folder / "photos"
    write_picture(photos / "always.png", serial=1000)
    serial = 0
    with Store.open(folder / "store") as store:
        for changes in rounds:
            for change, source, target in changes:
                serial += 1
                _change(photos, change, photos / f"{source}.png", photos / f"{target % 2}" / f"{target}.png", serial=serial)
            index(store, photos, options=PRUNE)
            _assert_in_step(store, photos)


def _change(photos: Path, change: str, source: Path, target: Path, *, serial: int) -> None:
    if change == "write":
        write_picture(source, ("red", "green", "blue")[serial % 3], serial=serial % 5)
        os.utime(source, ns=(serial, serial))  # file systems may have coarse clocks; contents of one size would look unchanged
    elif source.exists():
        target.parent.mkdir(exist_ok=True)
        match change:
            case "move":
                source.rename(target)
            case "copy":
                shutil.copy2(source, target)
            case "remove":
                source.unlink()
            case _:
                os.utime(source, ns=(serial, serial))
