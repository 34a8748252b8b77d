"""Shards: samples by their members, read by offset, and what damage costs."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from indexer.sources.source import Hidden
from indexer.sources.webdataset import WebDatasetSource
from sightline.errors import InvalidSource
from tests.indexer.corpus import broken_inputs, num_passed_over, scanned_items, write_picture


def _write_shard(path: Path, members: list[tuple[str, bytes]], *, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]  # the mode is a literal to typeshed
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def picture(tmp_path: Path) -> bytes:
    return write_picture(tmp_path / "picture.png").read_bytes()


def test_members_of_one_sample_are_one_item(tmp_path: Path, picture: bytes) -> None:
    fields = {"captions": ["a cat", "an animal"], "domain": "photo"}
    members = [
        ("0001.png", picture),
        ("0001.json", json.dumps(fields).encode()),
        ("0001.cls", b"7\n"),
        ("0002.txt", b"a dog"),
        ("0002.png", picture),
    ]
    shard = _write_shard(tmp_path / "train-0.tar", members)

    first, second = scanned_items(WebDatasetSource(str(shard)))

    assert (first.key, first.text) == ("train-0.tar/0001.png", "a cat\nan animal")
    assert first.metadata == {"domain": "photo", "class": 7}
    assert (second.key, second.text) == ("train-0.tar/0002.png", "a dog")
    assert first.source == str(shard)
    assert first.location == f"{shard}/0001.png"


def test_pictures_are_read_from_their_offset(tmp_path: Path, picture: bytes) -> None:
    shard = _write_shard(tmp_path / "a.tar", [("x.txt", b"x" * 1000), ("x.png", picture), ("y.png", picture)])

    for item in scanned_items(WebDatasetSource(str(shard))):
        assert item.content is not None
        with item.content.path.open("rb") as file:
            file.seek(item.content.offset)
            assert file.read(item.content.num_bytes) == picture


def test_names_have_folders_dots_and_several_pictures(tmp_path: Path, picture: bytes) -> None:
    names = ["a/1.left.png", "a/1.right.png", "a/1.txt", "b/1.png", "._1.png", "long/" + "n" * 200 + ".png"]
    shard = _write_shard(tmp_path / "a.tar", [(name, b"caption" if name.endswith("txt") else picture) for name in names])

    items = scanned_items(WebDatasetSource(str(shard)))

    assert [item.key.removeprefix("a.tar/") for item in items] == [names[0], names[1], names[3], names[5]]
    assert [item.text for item in items] == ["caption", "caption", None, None]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("train-{00..02}.tar", ["train-00.tar", "train-01.tar", "train-02.tar"]),
        ("train-{0..2}.tar", ["train-0.tar", "train-1.tar", "train-2.tar"]),
        ("{train,val}-{8..10}.tar", [f"{split}-{number}.tar" for split in ("train", "val") for number in (8, 9, 10)]),
        ("*-0?.tar", ["train-00.tar", "train-01.tar"]),
        ("one.tar", ["one.tar"]),
    ],
)
def test_patterns(tmp_path: Path, pattern: str, names: list[str]) -> None:
    for name in names:
        _write_shard(tmp_path / name, [])

    assert WebDatasetSource(f"{tmp_path}/{pattern}").roots == tuple(str(tmp_path / name) for name in names)


def test_missing_shards_are_named(tmp_path: Path) -> None:
    _write_shard(tmp_path / "a-0.tar", [])

    with pytest.raises(InvalidSource, match=r"5 of 6 shards do not exist: .*a-1.tar, .*a-2.tar, .*a-3.tar and 2 more"):
        WebDatasetSource(f"{tmp_path}/a-{{0..5}}.tar")
    with pytest.raises(InvalidSource, match="no shard is named like"):
        WebDatasetSource(f"{tmp_path}/b-*.tar")


def test_shards_of_one_name_in_two_folders_have_keys_of_their_own(tmp_path: Path, picture: bytes) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        _write_shard(tmp_path / folder / "0.tar", [("x.png", picture)])

    items = scanned_items(WebDatasetSource(f"{tmp_path}/{{a,b}}/0.tar"))

    assert [item.key for item in items] == [item.location for item in items] == [f"{tmp_path}/a/0.tar/x.png", f"{tmp_path}/b/0.tar/x.png"]


def test_compressed_tars_and_other_files_are_refused(tmp_path: Path, picture: bytes) -> None:
    _write_shard(tmp_path / "a.tar", [("x.png", picture)], mode="w:gz")
    (tmp_path / "b.tar").write_bytes(b"no tar at all" * 100)
    (tmp_path / "c.tar").touch()

    for name, cause in (("a", "is compressed; unpack it"), ("b", "is not a tar"), ("c", "is empty")):
        with pytest.raises(InvalidSource, match=rf"{name}\.tar: the shard {cause}"):
            WebDatasetSource(f"{tmp_path}/{name}.tar")
    with pytest.raises(InvalidSource, match=r"none of the 3 shards can be read; the first, .*a\.tar: the shard is compressed"):
        WebDatasetSource(f"{tmp_path}/*.tar")


def test_bad_shards_cost_a_line_each_and_the_others_are_read(tmp_path: Path, picture: bytes) -> None:
    (tmp_path / "0.tar").touch()
    (tmp_path / "1.tar").write_bytes(b"no tar at all" * 100)
    _write_shard(tmp_path / "2.tar", [("x.png", picture)], mode="w:gz")
    _write_shard(tmp_path / "3.tar", [("x.png", picture)])
    source = WebDatasetSource(f"{tmp_path}/{{0..3}}.tar")

    assert [item.key for item in scanned_items(source)] == ["3.tar/x.png"]
    broken = broken_inputs(source)
    assert [one.key for one in broken] == ["0.tar", "1.tar", "2.tar"]
    assert {one.hides for one in broken} == {Hidden.BELOW}
    for one, cause in zip(broken, ("is empty", "not a tar", "compressed; unpack it"), strict=True):
        assert cause in one.cause


def test_a_shard_cut_short_gives_what_is_whole_and_says_so(tmp_path: Path, picture: bytes) -> None:
    shard = _write_shard(tmp_path / "a.tar", [(f"{number}.png", picture) for number in range(5)])
    member_bytes = 512 + -(-len(picture) // 512) * 512
    shard.write_bytes(shard.read_bytes()[: 3 * member_bytes])
    source = WebDatasetSource(str(shard))

    assert len(scanned_items(source)) == 3
    (broken,) = broken_inputs(source)
    assert "cut short or damaged" in broken.cause
    assert broken.hides is Hidden.BELOW


def test_a_damaged_header_in_the_middle_is_told(tmp_path: Path, picture: bytes) -> None:
    shard = _write_shard(tmp_path / "a.tar", [(f"{number}.png", picture) for number in range(5)])
    content = bytearray(shard.read_bytes())
    member_bytes = 512 + -(-len(picture) // 512) * 512
    content[2 * member_bytes : 2 * member_bytes + 512] = b"\xff" * 512
    shard.write_bytes(content)
    source = WebDatasetSource(str(shard))

    assert len(scanned_items(source)) == 2
    assert [broken.hides for broken in broken_inputs(source)] == [Hidden.BELOW]


def test_samples_without_picture_names_used_twice_and_bad_captions(tmp_path: Path, picture: bytes) -> None:
    members = [("1.txt", b"alone"), ("2.png", picture), ("2.json", b"{"), ("3.png", picture), ("2.png", picture)]
    source = WebDatasetSource(str(_write_shard(tmp_path / "a.tar", members)))

    assert [item.key for item in scanned_items(source)] == ["a.tar/2.png", "a.tar/3.png"]
    assert num_passed_over(source) == 1
    bad_caption, twice = broken_inputs(source)
    assert "not JSON" in bad_caption.cause
    assert twice.cause == "the shard holds a member of this name already"
