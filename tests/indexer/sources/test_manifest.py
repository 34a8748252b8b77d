"""Manifests: pictures and texts by row, and what is told of rows that are neither."""

import gzip
import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.sources.manifest import ManifestSource
from indexer.sources.source import Hidden
from sightline.errors import InvalidSource
from sightline.types import Modality
from tests.indexer.corpus import broken_inputs, scanned_items, write_picture

ROWS: list[dict[str, Any]] = [
    {"path": "img/cat.png", "caption": "a cat", "place": "home"},
    {"path": "dog.png", "caption": "a dog", "place": ""},
]


def _csv(path: Path, rows: list[dict[str, Any]], *, delimiter: str = ",") -> Path:
    lines = [delimiter.join(rows[0]), *(delimiter.join(str(value) for value in row.values()) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_picture(tmp_path / "img" / "cat.png")
    write_picture(tmp_path / "dog.png")
    return tmp_path


def _write(folder: Path, format_name: str) -> Path:
    match format_name:
        case "csv":
            return _csv(folder / "m.csv", ROWS)
        case "semicolons":
            return _csv(folder / "m.csv", ROWS, delimiter=";")
        case "tsv":
            return _csv(folder / "m.tsv", ROWS, delimiter="\t")
        case "jsonl":
            return _jsonl(folder / "m.jsonl", ROWS)
        case "jsonl.gz":
            path = folder / "m.jsonl.gz"
            path.write_bytes(gzip.compress(_jsonl(folder / "m.jsonl", ROWS).read_bytes()))
            return path
        case _:
            pq.write_table(pa.Table.from_pylist(ROWS), folder / "m.parquet")
            return folder / "m.parquet"


@pytest.mark.parametrize("format_name", ["csv", "semicolons", "tsv", "jsonl", "jsonl.gz", "parquet"])
def test_every_format_gives_the_same_items(folder: Path, format_name: str) -> None:
    path = _write(folder, format_name)

    items = scanned_items(ManifestSource(path))

    assert [(item.key, item.text, item.metadata) for item in items] == [
        ("img/cat.png", "a cat", {"place": "home"}),
        ("dog.png", "a dog", {}),
    ]
    assert {item.source for item in items} == {str(path)}
    assert [item.location for item in items] == [str(folder / "img" / "cat.png"), str(folder / "dog.png")]
    assert all(item.size_bytes and item.mtime_ns and item.modality is Modality.IMAGE for item in items)


def test_a_path_has_one_key_however_it_is_written(folder: Path) -> None:
    outside = write_picture(folder.parent / "elsewhere.png")
    rows = [{"path": path} for path in ("./img/../img/cat.png", str(folder / "dog.png"), "../elsewhere.png")]

    items = scanned_items(ManifestSource(_jsonl(folder / "m.jsonl", rows)))

    assert [item.key for item in items] == ["img/cat.png", "dog.png", str(outside)]


def test_texts_and_pictures_may_be_mixed(folder: Path) -> None:
    rows = [{"text": "a poem", "author": "Ann"}, {"path": "dog.png", "text": "a dog"}, {"text": "x", "caption": "y"}]
    path = _jsonl(folder / "m.jsonl", rows)

    poem, dog, other = scanned_items(ManifestSource(path))

    assert (poem.modality, poem.key, poem.text, poem.metadata) == (Modality.TEXT, "m.jsonl:1", "a poem", {"author": "Ann"})
    assert poem.location == f"{path}:1"
    assert (dog.modality, dog.text) == (Modality.IMAGE, "a dog")
    assert (other.text, other.metadata) == ("x", {"captions": ["y"]})


def test_rows_that_follow_each_other_with_one_picture_are_one_item(folder: Path) -> None:
    rows = [("dog.png", "a dog"), ("dog.png", "an animal"), ("dog.png", "a dog"), ("img/cat.png", "a cat"), ("dog.png", "again")]
    source = ManifestSource(_csv(folder / "captions.csv", [{"path": path, "caption": caption} for path, caption in rows]))

    assert [(item.key, item.text) for item in scanned_items(source)] == [("dog.png", "a dog\nan animal"), ("img/cat.png", "a cat")]
    (broken,) = broken_inputs(source)
    assert (broken.key, broken.cause) == ("captions.csv:6", "names dog.png again, which an earlier row did already")


@pytest.mark.parametrize("format_name", ["csv", "jsonl", "parquet"])
def test_a_missing_column_is_said_with_those_that_there_are(tmp_path: Path, format_name: str) -> None:
    rows = [{"image": "a.png", "label": "cat"}]
    path = tmp_path / f"m.{format_name}"
    match format_name:
        case "csv":
            _csv(path, rows)
        case "jsonl":
            _jsonl(path, rows)
        case _:
            pq.write_table(pa.Table.from_pylist(rows), path)

    with pytest.raises(InvalidSource, match="no column 'path' and no column 'text'; its columns are: image, label"):
        ManifestSource(path)


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl", "m.csv.gz"])
@pytest.mark.parametrize(
    ("encoding", "sentence"),
    [
        ("utf-16", "is UTF-16 text, not UTF-8; save it as UTF-8"),
        ("utf-16-le", "is not UTF-8 text: its first line holds null bytes, as binary files and UTF-16 do"),
    ],
)
def test_utf_16_is_said(folder: Path, name: str, encoding: str, sentence: str) -> None:
    content = ('{"path": "dog.png"}\n' if "jsonl" in name else "path,caption\ndog.png,a dog\n").encode(encoding)
    (folder / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)

    with pytest.raises(InvalidSource) as raised:
        ManifestSource(folder / name)

    assert str(raised.value) == f"{folder / name} {sentence}"


@pytest.mark.parametrize("content", ["path,caption\ndog.png,a dog\n", '"path","caption"\n"dog.png","a dog"\n'])
def test_a_byte_order_mark_is_no_part_of_a_name(folder: Path, content: str) -> None:
    (folder / "m.csv").write_text(content, encoding="utf-8-sig")
    (folder / "m.jsonl").write_text('{"path": "dog.png", "caption": "a dog"}\n', encoding="utf-8-sig")

    for name in ("m.csv", "m.jsonl"):
        assert [(item.key, item.text) for item in scanned_items(ManifestSource(folder / name))] == [("dog.png", "a dog")]


@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.jsonl"])
def test_a_picture_that_is_called_a_table_is_said_without_its_bytes(folder: Path, name: str) -> None:
    for picture in (write_picture(folder / "a.png"), write_picture(folder / "a.jpg")):
        (folder / name).write_bytes(picture.read_bytes())

        with pytest.raises(InvalidSource, match="not UTF-8 text") as raised:
            ManifestSource(folder / name)

        assert str(raised.value).isprintable()
        assert len(str(raised.value)) < len(str(folder)) + 200


def test_columns_are_told_shortly_and_without_what_cannot_be_printed(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(",".join(["\x1b[31mred", "x" * 99, *(f"c{number}" for number in range(1_010))]) + "\n")

    with pytest.raises(InvalidSource, match=rf"are: \ufffd\[31mred, {'x' * 40}, c0, .*, c7 and 1,002 more$"):
        ManifestSource(tmp_path / "m.csv")


def test_a_file_of_which_most_lines_are_no_json_is_said_with_its_first_line(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('\n{"path":\n  "dog.png"\n}\n')

    with pytest.raises(InvalidSource, match=r"m\.jsonl: line 2 is not JSON \(.*\); JSON lines have a whole value on each line"):
        ManifestSource(tmp_path / "m.jsonl")


def test_a_first_line_that_is_not_json_costs_itself(folder: Path) -> None:
    (folder / "m.jsonl").write_text('{"path":\n{"path": "dog.png"}\n')
    source = ManifestSource(folder / "m.jsonl")

    assert [item.key for item in scanned_items(source)] == ["dog.png"]
    assert [broken.key for broken in broken_inputs(source)] == ["m.jsonl:1"]


def test_an_empty_file_has_no_columns(tmp_path: Path) -> None:
    for name in ("m.csv", "m.jsonl"):
        (tmp_path / name).touch()
        with pytest.raises(InvalidSource, match="is it empty"):
            ManifestSource(tmp_path / name)


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("dog.png,b,c,d", "4 fields, the header 2"),
        ("dog.png", "1 field, the header 2"),
        (",nothing", "neither path nor text"),
        ('"dog.png"x,b', "not CSV"),
        ('dog.png,"b', "a quotation mark is opened and not closed"),
        ('"dog.png,b', "a quotation mark is opened and not closed"),
        ('dog.png,""b"', "not CSV"),
        ("https://example.org/a.jpg,b", "a URL"),
        ("gone.png,b", "no such file"),
        ("caf\\xe9.png,b", "not UTF-8"),
    ],
)
def test_a_bad_row_in_the_middle_of_a_csv_costs_one_line(folder: Path, line: str, cause: str) -> None:
    content = f"path,caption\nimg/cat.png,a cat\n{line}\ndog.png,a dog\n".encode().replace(b"\\xe9", b"\xe9")
    (folder / "m.csv").write_bytes(content)
    source = ManifestSource(folder / "m.csv")

    assert [item.key for item in scanned_items(source)] == ["img/cat.png", "dog.png"]
    (broken,) = broken_inputs(source)
    assert cause in broken.cause
    assert broken.key == ("gone.png" if line.startswith("gone") else "m.csv:3")
    assert broken.hides is (Hidden.NONE if line.startswith(("gone", "https")) else Hidden.SOURCE)


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ('{"path": ', "not JSON"),
        ("[1]", "a JSON list"),
        ('{"path": 3}', "path is 3, not a string"),
        ('{"path": "a\\u0000.png"}', "null byte"),
        ('{"caption": "x"}', "neither path nor text"),
        ("\udce9", "not UTF-8"),
    ],
)
def test_a_bad_row_in_the_middle_of_json_lines_costs_one_line(folder: Path, line: str, cause: str) -> None:
    content = f'{{"path": "img/cat.png"}}\n\n{line}\n{{"path": "dog.png"}}\n'
    (folder / "m.jsonl").write_bytes(content.encode("utf-8", "surrogateescape"))
    source = ManifestSource(folder / "m.jsonl")

    assert [item.key for item in scanned_items(source)] == ["img/cat.png", "dog.png"]
    (broken,) = broken_inputs(source)
    assert cause in broken.cause


@pytest.mark.parametrize(
    ("lines", "keys", "bad_lines"),
    [
        (['"one', "two", '"three"', '"fo""ur"', "five"], [3, 4, 5, 6], [2]),
        (["one", "two", '"three'], [2, 3], [4]),
        (['"one', '"two', "three", '"four', '4"', "five"], [4, 5, 7], [2, 3]),
        (['"one', "two", 'three"'], [2], []),  # legal: one text of three lines
        (['"one', "two", 'three"x', "four"], [3, 5], [2, 4]),
    ],
)
def test_a_quote_that_is_not_closed_costs_its_line(tmp_path: Path, lines: list[str], keys: list[int], bad_lines: list[int]) -> None:
    (tmp_path / "m.csv").write_text("\n".join(["text", *lines]) + "\n")
    source = ManifestSource(tmp_path / "m.csv")

    assert [item.key for item in scanned_items(source)] == [f"m.csv:{number}" for number in keys]
    assert [broken.key for broken in broken_inputs(source)] == [f"m.csv:{number}" for number in bad_lines]


def test_a_row_of_several_lines_with_a_field_too_many_costs_its_lines(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text('name,text\na,"one\ntwo",three\nb,four\nc,"five\nsix"\n')
    source = ManifestSource(tmp_path / "m.csv")

    assert [item.text for item in scanned_items(source)] == ["four", "five\nsix"]
    assert [broken.key for broken in broken_inputs(source)] == ["m.csv:2", "m.csv:3"]


def test_a_quote_that_is_not_closed_loses_one_row_of_many(tmp_path: Path) -> None:
    lines = [f'{number},"text ""{number}"" of\nmany"' for number in range(20_000)]
    lines[50] = '50,"text'
    (tmp_path / "m.csv").write_text("\n".join(["id,text", *lines]) + "\n")
    source = ManifestSource(tmp_path / "m.csv")

    assert [item.metadata["id"] for item in scanned_items(source)] == [str(number) for number in range(20_000) if number != 50]
    (broken,) = broken_inputs(source)
    assert broken.key == "m.csv:102"


def test_rows_of_several_lines_are_numbered_by_their_first(folder: Path) -> None:
    (folder / "m.csv").write_text('text\n"one\ntwo"\nthree\n')

    assert [item.key for item in scanned_items(ManifestSource(folder / "m.csv"))] == ["m.csv:2", "m.csv:4"]


def test_types_that_json_does_not_have_become_text_or_numbers(folder: Path) -> None:
    row = {"path": "dog.png", "day": date(2024, 5, 1), "price": Decimal("1.5"), "raw": b"\x01", "share": float("inf"), "n": 3}
    pq.write_table(pa.Table.from_pylist([row]), folder / "m.parquet")

    (item,) = scanned_items(ManifestSource(folder / "m.parquet"))

    assert item.metadata == {"day": "2024-05-01", "price": 1.5, "raw": "01", "share": None, "n": 3}


def test_a_damaged_file_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "m.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "m.csv.gz").write_bytes(gzip.compress(b"path\n" + bytes(range(256)) * 99)[:60])

    with pytest.raises(InvalidSource, match="cannot be read as Parquet"):
        ManifestSource(tmp_path / "m.parquet")
    with pytest.raises(InvalidSource, match=r"m\.csv\.gz cannot be read"):
        list(ManifestSource(tmp_path / "m.csv.gz").scan())
