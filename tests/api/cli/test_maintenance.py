"""`sightline delete`, `verify`, `compact`, `runs` and `ledger`."""

from pathlib import Path

from tests.api.cli.conftest import Run


def test_deleted_items_are_no_hits(run: Run, indexed: Path) -> None:
    outcome = run("delete", "red.png", "blue.png")
    assert (outcome.code, outcome.out) == (0, "deleted 2 items from collection default\n")
    keys = {hit["key"] for hit in run("search", "red", "--json").json["hits"]}
    assert keys == {"green.png", "yellow.png", "black.png", "white.png"}


def test_one_key_that_does_not_exist_deletes_nothing(run: Run, indexed: Path) -> None:
    outcome = run("delete", "red.png", "purple.png")
    assert outcome.code == 33
    assert "purple.png" in outcome.err
    assert len(run("search", "red", "--json").json["hits"]) == 6


def test_a_sound_store_verifies(run: Run, indexed: Path) -> None:
    outcome = run("verify")
    assert (outcome.code, outcome.out) == (0, "everything is as it should be\n")
    assert run("verify", "--json", "-c", "default").json == []


def test_one_changed_byte_is_found_and_told(run: Run, indexed: Path, tmp_path: Path) -> None:
    (embeddings,) = (tmp_path / "store" / "segments").glob("*/*/embeddings.fp16")
    content = bytearray(embeddings.read_bytes())
    content[100] ^= 1
    embeddings.write_bytes(content)

    source = run("runs", "--json").json[0]["source"]
    outcome = run("verify")
    what = "embeddings.fp16 is damaged: its checksum is not the one in its manifest: bytes have changed"
    what_to_do = "`sightline verify --repair` gives the segment up; then index its sources again"
    assert outcome.code == 1
    assert outcome.out.splitlines() == [
        f"error: {what}",
        f"  where: {embeddings.parent}",
        f"  to do: {what_to_do}",
        f"  index again: {source} (collection default)",
    ]
    (finding,) = run("verify", "--json").json
    assert finding == {
        "severity": "error",
        "what": what,
        "where": str(embeddings.parent),
        "what_to_do": what_to_do,
        "collection": "default",
        "sources": [source],
    }


def test_a_damaged_segment_is_repaired_and_its_items_come_back(run: Run, indexed: Path, tmp_path: Path) -> None:
    (embeddings,) = (tmp_path / "store" / "segments").glob("*/*/embeddings.fp16")
    before = run("search", "red", "--json").json["hits"]
    content = bytearray(embeddings.read_bytes())
    content[100] ^= 1
    embeddings.write_bytes(content)

    source = run("runs", "--json").json[0]["source"]
    outcome = run("verify", "--repair", "--json")
    assert outcome.code == 1
    assert "index their sources again" in outcome.json[0]["what_to_do"]
    assert outcome.json[0]["sources"] == [source]
    assert outcome.err.splitlines() == [
        "6 items lost the embedding; index these sources again to embed anew:",
        f"  index again: {source} (collection default)",
    ]
    assert run("search", "red", "--json").json["hits"] == []
    listed = run("collections")
    assert listed.err == (
        "sightline: note: 6 items of collection default without an embedding; `sightline verify` names the sources to index again\n"
    )
    assert "without embedding" in run("collections", "show", "default").out

    assert run("index", indexed).code == 0
    after = run("search", "red", "--json").json["hits"]
    assert [(hit["key"], hit["item_id"], hit["similarity"]) for hit in after] == [
        (hit["key"], hit["item_id"], hit["similarity"]) for hit in before
    ]
    assert run("verify", "--json").json == []
    assert run("collections").err == ""


def test_repairing_what_is_sound_changes_nothing(run: Run, indexed: Path) -> None:
    outcome = run("verify", "--repair")
    assert (outcome.code, outcome.out, outcome.err) == (0, "everything is as it should be\n", "")
    assert len(run("search", "red", "--json").json["hits"]) == 6


def test_a_segment_cut_short_is_one_sentence(run: Run, indexed: Path, tmp_path: Path) -> None:
    (embeddings,) = (tmp_path / "store" / "segments").glob("*/*/embeddings.fp16")
    embeddings.write_bytes(embeddings.read_bytes()[:-10])
    outcome = run("search", "red")
    assert outcome.code == 61
    assert outcome.err.count("\n") == 1
    assert "embeddings.fp16" in outcome.err


def test_compacting_drops_deleted_rows(run: Run, indexed: Path) -> None:
    run("delete", "red.png")
    outcome = run("compact", "--force")
    assert outcome.code == 0
    assert outcome.out.startswith("default: merged 1 segment, dropped 1 row, 5 left; freed ")
    assert run("compact", "-c", "default", "--json").json["default"]["live_rows"] == 5
    assert len(run("search", "red", "--json").json["hits"]) == 5


def test_runs_are_listed_newest_first(run: Run, indexed: Path) -> None:
    run("index", indexed, "-c", "other")
    rows = run("runs", "--json").json
    assert [row["run_id"] for row in rows] == [2, 1]
    assert [row["counts"]["new"] for row in rows] == [6, 6]
    assert len(run("runs", "--json", "-c", "other").json) == 1
    table = run("runs").out.splitlines()
    assert table[0].split()[:5] == ["run", "collection", "source", "state", "started"]
    assert "finished" in table[2]


def test_the_ledger_has_every_skipped_input_with_its_cause(run: Run, indexed: Path) -> None:
    assert run("ledger").out == "nothing was skipped\n"
    (indexed / "empty.jpg").touch()
    (indexed / "text.jpg").write_text("no picture")
    run("index", indexed)

    out = run("ledger").out
    assert "the file is empty" in out
    assert "it holds text, not a picture" in out
    entries = run("ledger", "--run", "2", "--json").json
    assert {entry["key"] for entry in entries} == {"empty.jpg", "text.jpg"}
    assert run("ledger", "--run", "1", "--json").json == []


def test_a_run_that_does_not_exist_is_named(run: Run, indexed: Path) -> None:
    outcome = run("ledger", "--run", "999")
    assert (outcome.code, outcome.err) == (30, "sightline: there is no run 999; `sightline runs` lists them\n")


def test_a_store_that_is_not_there_is_named(run: Run, tmp_path: Path) -> None:
    for command in (["runs"], ["ledger"], ["verify"], ["compact"], ["delete", "x"], ["collections"]):
        outcome = run(*command)
        assert outcome.code == 31
        assert str(tmp_path / "store") in outcome.err
        assert not (tmp_path / "store").exists()
