"""What a path or pattern names."""

import tarfile
from pathlib import Path

import pytest

from indexer.sources import SourceKind, open_source
from indexer.sources.folder import FolderSource
from indexer.sources.manifest import ManifestSource
from indexer.sources.texts import TextsSource
from indexer.sources.webdataset import WebDatasetSource
from sightline.errors import InvalidSource
from tests.indexer.corpus import write_picture


@pytest.mark.parametrize(
    ("name", "expected"),
    [("m.csv", ManifestSource), ("m.tsv", ManifestSource), ("m.jsonl", ManifestSource), ("notes.txt", TextsSource), ("notes", TextsSource)],
)
def test_files_by_their_suffix(tmp_path: Path, name: str, expected: type) -> None:
    path = tmp_path / name
    path.write_text('{"text": "x"}\n' if name.endswith("jsonl") else "text\nx\n")

    assert type(open_source(path)) is expected


def test_folders_and_shards(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w"):
        pass

    assert type(open_source(tmp_path)) is FolderSource
    assert type(open_source(tmp_path / "a.tar")) is WebDatasetSource
    assert type(open_source(f"{tmp_path}/*.tar")) is WebDatasetSource
    assert type(open_source(f"{tmp_path}/{{a,a}}.tar")) is WebDatasetSource


def test_the_kind_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("text\nx\n")

    assert type(open_source(tmp_path / "m.csv", SourceKind.TEXTS)) is TextsSource


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    assert open_source("~").name == f"{tmp_path}/"


@pytest.mark.parametrize("name", ["Picturse", "missing.csv", "missing.txt", "missing.jpg"])
def test_what_does_not_exist_is_said_with_what_does(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidSource, match=rf"{name}.* does not exist \({tmp_path} does\)"):
        open_source(tmp_path / "sub" / name)


def test_what_is_no_source_is_said(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.jpg")
    (tmp_path / "movie.mp4").write_bytes(b"x")

    with pytest.raises(InvalidSource, match="a single picture; give the folder"):
        open_source(tmp_path / "a.jpg")
    with pytest.raises(InvalidSource, match="a source is a folder, a manifest"):
        open_source(tmp_path / "movie.mp4")
    with pytest.raises(InvalidSource, match=r"z\.tar\.gz: shards must not be compressed, .*; unpack it to a \.tar"):
        open_source(tmp_path / "z.tar.gz")
    with pytest.raises(InvalidSource, match=r"shards must not be compressed"):
        open_source(f"{tmp_path}/z-{{0..3}}.tgz")
    with pytest.raises(InvalidSource, match="empty"):
        open_source(" ")
    with pytest.raises(InvalidSource, match="a folder, which a source of kind manifest is not"):
        open_source(tmp_path, SourceKind.MANIFEST)
    with pytest.raises(InvalidSource, match="a file, which a source of kind folder is not"):
        open_source(tmp_path / "a.jpg", SourceKind.FOLDER)
