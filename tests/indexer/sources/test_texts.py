"""Text corpora: an item a line or row."""

import json
from pathlib import Path

import pytest

from indexer.sources.texts import TextsSource
from sightline.errors import InvalidSource
from sightline.types import Modality
from tests.indexer.corpus import broken_inputs, scanned_items


def test_plain_lines(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("\ufefffirst\n\n  third \r\nfourth", encoding="utf-8", newline="")

    items = scanned_items(TextsSource(path))

    assert [(item.key, item.text) for item in items] == [("notes.txt:1", "first"), ("notes.txt:3", "third"), ("notes.txt:4", "fourth")]
    assert {item.modality for item in items} == {Modality.TEXT}
    assert items[1].location == f"{path}:3"


def test_json_lines_of_objects_strings_and_lists(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "a", "by": "Ann", "caption": "kept"}\n"b"\n["c", "d"]\n{"other": 1}\n{"text": ""}\n')
    source = TextsSource(path)

    assert [(item.key, item.text, item.metadata) for item in scanned_items(source)] == [
        ("t.jsonl:1", "a", {"by": "Ann", "caption": "kept"}),
        ("t.jsonl:2", "b", {}),
        ("t.jsonl:3.1", "c", {}),
        ("t.jsonl:3.2", "d", {}),
    ]
    assert [(broken.key, broken.cause) for broken in broken_inputs(source)] == [
        ("t.jsonl:4", "the row has no text ({'other': 1})"),
        ("t.jsonl:5", "the text is empty"),
    ]


def test_json_lines_of_strings_alone(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps(["a", "b"]) + "\n")

    assert [item.text for item in scanned_items(TextsSource(tmp_path / "t.jsonl"))] == ["a", "b"]


def test_csv_wants_a_column_text(tmp_path: Path) -> None:
    (tmp_path / "good.csv").write_text("id,text\n7,hello\n")
    (tmp_path / "bad.csv").write_text("id,body\n7,hello\n")

    (item,) = scanned_items(TextsSource(tmp_path / "good.csv"))
    assert (item.key, item.text, item.metadata) == ("good.csv:2", "hello", {"id": "7"})
    with pytest.raises(InvalidSource, match="no column 'text'; its columns are: id, body"):
        TextsSource(tmp_path / "bad.csv")


def test_bad_lines_cost_themselves(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"first\n\xff\xff\n" + b"x" * 4_000_001 + b"\nlast\n")
    source = TextsSource(path)

    assert [item.key for item in scanned_items(source)] == ["notes.txt:1", "notes.txt:4"]
    not_utf8, too_long = broken_inputs(source)
    assert "not UTF-8" in not_utf8.cause
    assert "longer than 4,000,000 bytes" in too_long.cause
