"""Folders: what is found, under which key, with which caption, and what is told of the rest."""

import json
import os
from pathlib import Path

import pytest

from indexer.sources import ByteRange, Hidden, SourceItem, open_source
from indexer.sources.folder import FolderSource
from sightline.errors import InvalidSource
from sightline.locations import locate
from sightline.types import Modality
from tests.indexer.corpus import broken_inputs, num_passed_over, scanned_items, unreadable, write_picture


def _keys(folder: Path) -> list[str]:
    return [item.key for item in scanned_items(FolderSource(folder))]


def test_pictures_of_all_depths_are_found_in_order(photos: Path) -> None:
    for name in ("b.jpg", "a/z.PNG", "a/b/c.webp", "c.tif"):
        write_picture(photos / name)

    assert _keys(photos) == ["a/b/c.webp", "a/z.PNG", "b.jpg", "c.tif"]


def test_an_item_tells_all_that_can_be_known_without_reading_it(photos: Path) -> None:
    path = write_picture(photos / "sub" / "cat.png")

    (item,) = scanned_items(FolderSource(photos))

    assert item == SourceItem(
        source=f"{photos}/",
        key="sub/cat.png",
        modality=Modality.IMAGE,
        size_bytes=path.stat().st_size,
        mtime_ns=path.stat().st_mtime_ns,
        content=ByteRange(path),
    )
    assert item.location == str(path) == locate(item.source, item.key)


def test_the_same_folder_however_it_is_written_is_one_source(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos.parent)
    (photos.parent / "link").symlink_to(photos)

    names = {FolderSource(Path(spec)).name for spec in ("photos", "photos/", "./photos/../photos", "link", str(photos))}

    assert names == {f"{photos}/"}


def test_hidden_files_and_copies_of_systems_are_passed_over(photos: Path) -> None:
    for name in (".hidden.jpg", ".thumbnails/a.jpg", "@eaDir/a.jpg", "__MACOSX/._a.jpg", "seen.jpg"):
        write_picture(photos / name)

    assert _keys(photos) == ["seen.jpg"]


def test_a_hidden_folder_that_is_asked_for_is_indexed(tmp_path: Path) -> None:
    write_picture(tmp_path / ".cache" / "a.jpg")

    assert _keys(tmp_path / ".cache") == ["a.jpg"]


def test_other_files_are_counted(photos: Path) -> None:
    write_picture(photos / "a.jpg")
    for name in ("notes.md", "movie.mp4", "data.h5", "a.txt", "alone.txt"):
        (photos / name).write_text("x")

    assert num_passed_over(FolderSource(photos)) == 4  # a.txt describes a.jpg


@pytest.mark.parametrize(
    ("sidecars", "text", "metadata"),
    [
        ({"cat.txt": "a cat\n\n on a mat \n"}, "a cat\non a mat", {}),
        ({"cat.json": {"caption": "a cat", "place": "home", "year": 2024}}, "a cat", {"place": "home", "year": 2024}),
        ({"cat.json": {"captions": ["a cat", "", "an animal"], "tags": ["x"]}}, "a cat\nan animal", {"tags": ["x"]}),
        ({"cat.txt": "a cat", "cat.json": {"caption": "an animal", "n": None}}, "an animal\na cat", {}),
        ({"cat.TXT": "a cat"}, "a cat", {}),
        ({"cat.txt": "\ufeffna\u00efve"}, "na\u00efve", {}),
        ({"dog.txt": "a dog"}, None, {}),
        ({"cat.txt": " \n"}, None, {}),
        ({"cat.json": {"nan": float("nan"), "nul": "a\0b", "half": "\ud800"}}, None, {"nan": None, "nul": "ab", "half": "?"}),
    ],
)
def test_files_of_the_same_stem_are_caption_and_metadata(
    photos: Path, sidecars: dict[str, object], text: str | None, metadata: dict[str, object]
) -> None:
    write_picture(photos / "cat.png")
    for name, content in sidecars.items():
        (photos / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")

    (item,) = scanned_items(FolderSource(photos))

    assert (item.text, item.metadata) == (text, metadata)


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("cat.json", b"{broken", "not JSON"),
        ("cat.json", b"[1, 2]", "a JSON list where an object"),
        ("cat.txt", b"\xff\xfe\xfa", "not UTF-8"),
        ("cat.txt", b"x" * 1_000_001, "more than the 1,000,000"),
    ],
)
def test_a_bad_sidecar_costs_its_line_and_not_the_picture(photos: Path, name: str, content: bytes, cause: str) -> None:
    write_picture(photos / "cat.png")
    (photos / name).write_bytes(content)
    source = FolderSource(photos)

    (item,), (broken,) = scanned_items(source), broken_inputs(source)

    assert (item.key, item.text) == ("cat.png", None)
    assert broken.key == name
    assert cause in broken.cause


def test_links_inside_add_nothing_and_links_outside_are_followed(photos: Path, tmp_path: Path) -> None:
    write_picture(photos / "a.jpg")
    write_picture(tmp_path / "elsewhere" / "b.jpg")
    (photos / "again.jpg").symlink_to(photos / "a.jpg")
    (photos / "self").symlink_to(photos)
    (photos / "outside").symlink_to(tmp_path / "elsewhere")
    (photos / "one.jpg").symlink_to(tmp_path / "elsewhere" / "b.jpg")

    assert _keys(photos) == ["a.jpg", "one.jpg", "outside/b.jpg"]


def test_links_in_a_circle_end(photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_picture(other / "b.jpg")
    (photos / "out").symlink_to(other)
    (other / "back").symlink_to(photos)
    (other / "self").symlink_to(other)
    write_picture(photos / "a.jpg")

    assert _keys(photos) == ["a.jpg", "out/b.jpg"]


def test_a_link_to_nowhere_may_be_a_disk_that_is_not_there(photos: Path, tmp_path: Path) -> None:
    (photos / "nas").symlink_to(tmp_path / "unmounted")

    (broken,) = broken_inputs(FolderSource(photos))

    assert (broken.key, broken.hides) == ("nas", Hidden.BELOW)


def test_sockets_and_pipes_are_nothing(photos: Path) -> None:
    os.mkfifo(photos / "pipe.jpg")

    assert list(FolderSource(photos).scan()) == []


def test_a_name_that_is_no_text_is_told(photos: Path) -> None:
    path = write_picture(photos / "a.png")
    path.rename(os.fsdecode(os.fsencode(photos) + b"/caf\xe9.png"))
    source = FolderSource(photos)

    assert scanned_items(source) == []
    (broken,) = broken_inputs(source)
    assert broken.key == "caf\\udce9.png"
    assert "not valid UTF-8" in broken.cause


def test_an_unreadable_subfolder_hides_what_is_below_it(photos: Path) -> None:
    write_picture(photos / "a.jpg")
    write_picture(photos / "locked" / "b.jpg")
    source = FolderSource(photos)

    with unreadable(photos / "locked"):
        items, (broken,) = scanned_items(source), broken_inputs(source)

    assert [item.key for item in items] == ["a.jpg"]
    assert (broken.key, broken.hides) == ("locked", Hidden.BELOW)
    assert "Permission denied" in broken.cause


def test_a_folder_that_may_not_be_read_is_no_source(photos: Path) -> None:
    with unreadable(photos):
        for folder in (photos, photos / "below"):
            with pytest.raises(InvalidSource, match=f"{folder} cannot be read: Permission denied"):
                open_source(folder)
