"""What is known, what an item's standing is, and which orphan it may be."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from indexer.sources import SourceItem
from indexer.sync import (
    Comparison,
    KnownItems,
    Orphans,
    SkippedBefore,
    Standing,
    image_content_hash,
    paths_below,
    stamp_of_item,
    stamp_of_known,
    text_content_hash,
)
from sightline.storage.records import KnownItem, LedgerEntry
from sightline.types import ItemId, Modality, RunId
from tests.indexer.corpus import NOON

ROOT = "/photos/"


def _item(key: str, *, source: str = ROOT, size_bytes: int = 10, mtime_ns: int = 100, text: str | None = None) -> SourceItem:
    return SourceItem(source=source, key=key, modality=Modality.IMAGE, size_bytes=size_bytes, mtime_ns=mtime_ns, text=text)


def _sha(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def _known(item: SourceItem, item_id: int, *, content: str = "") -> KnownItem:
    is_text = item.modality is Modality.TEXT
    content_hash = text_content_hash(item) if is_text else image_content_hash(_sha(content or item.key), item)
    return KnownItem(ItemId(item_id), item.key, item.source, item.modality, content_hash, item.size_bytes, item.mtime_ns)


def _known_items(items: Iterable[KnownItem], *, roots: tuple[str, ...] = (ROOT,), existing: bool = True) -> KnownItems:
    return KnownItems(items, roots=roots, folder_exists=lambda _: existing)


def _comparison(*known: KnownItem, ledger: Iterable[LedgerEntry] = ()) -> Comparison:
    return Comparison(_known_items(known), SkippedBefore(ledger))


def test_an_item_is_unchanged_while_size_time_and_description_are() -> None:
    item = _item("a.jpg", text="a cat")
    comparison = _comparison(_known(item, 1))

    assert comparison.compare(item).standing is Standing.UNCHANGED
    for changed in (
        replace(item, size_bytes=11),
        replace(item, mtime_ns=101),
        replace(item, text="a dog"),
        replace(item, metadata={"a": 1}),
    ):
        assert comparison.compare(changed).standing is Standing.SUSPECT
    assert comparison.compare(_item("b.jpg")).standing is Standing.NEW


def test_a_text_is_compared_by_content_alone() -> None:
    item = SourceItem("/notes.txt", "notes.txt:1", Modality.TEXT, size_bytes=5, mtime_ns=0, text="hello")
    comparison = Comparison(_known_items([_known(item, 1)], roots=("/notes.txt",)), SkippedBefore(()))

    assert comparison.compare(item).standing is Standing.UNCHANGED
    assert comparison.compare(replace(item, text="hellx")).standing is Standing.SUSPECT
    assert comparison.compare(replace(item, metadata={"by": "Ann"})).standing is Standing.SUSPECT


@given(
    st.text(max_size=20),
    st.integers(0, 2**60),
    st.integers(0, 2**60),
    st.none() | st.text(max_size=9),
    st.dictionaries(st.text(), st.integers()),
)
def test_the_stamps_of_an_item_and_of_what_is_known_of_it_are_equal(
    key: str, size_bytes: int, mtime_ns: int, text: str | None, metadata: dict[str, int]
) -> None:
    for modality in Modality:
        item = SourceItem(
            ROOT, key, modality, size_bytes, mtime_ns, text=text if modality is Modality.IMAGE else text or "", metadata=metadata
        )
        assert stamp_of_item(item) == stamp_of_known(_known(item, 1))


@given(st.sets(st.integers(0, 200)), st.sets(st.integers(0, 200)))
def test_gone_is_what_is_known_and_was_not_seen(known_numbers: set[int], present: set[int]) -> None:
    comparison = _comparison(*(_known(_item(f"{number}.jpg"), number) for number in known_numbers))

    standings = {number: comparison.compare(_item(f"{number}.jpg")).standing for number in present}

    known = comparison.known
    assert set(known.item_ids(known.gone_rows())) == known_numbers - present
    assert {number for number, standing in standings.items() if standing is Standing.NEW} == present - known_numbers


def test_items_of_other_sources_are_never_gone() -> None:
    known = _known_items([_known(_item("a.jpg", source=source), number) for number, source in enumerate(("/other/", "/photos.csv", ROOT))])

    assert known.item_ids(known.gone_rows()) == [2]


def test_an_item_of_a_folder_above_is_gone_where_this_one_had_it() -> None:
    items = [_known(_item(key, source="/photos/"), number) for number, key in enumerate(("2024/a.jpg", "2025/b.jpg"))]
    known = _known_items(items, roots=("/photos/2024/",))

    assert known.item_ids(known.gone_rows()) == [0]


def test_a_file_is_the_same_item_from_whichever_source_it_came() -> None:
    known = _known_items([_known(_item("2024/a.jpg"), 1)], roots=("/photos/2024/",))

    work = Comparison(known, SkippedBefore(())).compare(_item("a.jpg", source="/photos/2024/"))

    assert work.standing is Standing.UNCHANGED
    assert work.row is not None
    assert known.item_id(work.row) == 1


def test_items_of_a_folder_inside_are_adopted() -> None:
    inner = _item("a.jpg", source="/photos/2024/")
    comparison = _comparison(_known(inner, 1), _known(_item("b.jpg"), 2))

    assert comparison.is_adopted(comparison.compare(_item("2024/a.jpg")))
    assert not comparison.is_adopted(comparison.compare(_item("b.jpg")))
    assert not comparison.is_adopted(comparison.compare(_item("new.jpg")))


def test_a_key_that_another_source_holds_is_replaced_by_the_location() -> None:
    comparison = _comparison(_known(_item("a.jpg", source="/other/"), 1))

    assert comparison.key_for(_item("a.jpg")) == "/photos/a.jpg"
    assert comparison.key_for(_item("b.jpg")) == "b.jpg"
    assert _item("/photos/a.jpg").location == _item("a.jpg").location


def test_what_is_hidden_is_not_gone() -> None:
    items = [_known(_item(key), number) for number, key in enumerate(("a/1.jpg", "ab/2.jpg", "a.jpg"))]
    known = _known_items(items)

    known.see_below(items, tuple(paths_below(["/photos/a"])))

    assert sorted(known.item_ids(known.gone_rows())) == [1, 2]


def test_the_root_itself_hides_everything() -> None:
    assert list(paths_below(["/photos/.", "/photos/a", "/shards/0.tar"])) == ["/photos/", "/photos/a/", "/shards/0.tar/"]


def test_an_orphan_is_claimed_once() -> None:
    items = [_known(_item(key), number, content="same") for number, key in enumerate(("a.jpg", "b.jpg"))]
    known = _known_items(items)
    orphans = Orphans(known)

    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda _: orphans.claim(_sha("same"), key="c.jpg"), range(20)))

    assert sorted(known.item_id(row) for row in rows if row is not None) == [0, 1]
    assert orphans.claim(_sha("other"), key="c.jpg") is None
    assert len(known.gone_rows()) == 0


def test_an_item_that_is_still_there_is_no_orphan() -> None:
    item = _item("a.jpg")
    comparison = _comparison(_known(item, 1, content="same"))
    comparison.compare(item)

    assert len(Orphans(comparison.known)) == 0


def test_a_folder_that_vanished_is_taken_over_under_the_same_keys_only() -> None:
    known = _known_items([_known(_item("a.jpg", source="/old/"), 1, content="same")], existing=False)
    orphans = Orphans(known)

    assert orphans.claim(_sha("same"), key="b.jpg") is None
    row = orphans.claim(_sha("same"), key="a.jpg")
    assert row is not None
    assert known.item_id(row) == 1


def test_a_folder_that_exists_keeps_its_items() -> None:
    known = _known_items([_known(_item("a.jpg", source="/old/"), 1, content="same")], existing=True)

    assert Orphans(known).claim(_sha("same"), key="a.jpg") is None


def _ledger_entry(item: SourceItem, content_hash: str | None) -> LedgerEntry:
    return LedgerEntry(RunId(1), item.key, item.source, "broken", "UnreadableImage", item.size_bytes, item.mtime_ns, content_hash, NOON)


def test_what_was_skipped_is_left_alone_until_it_changes() -> None:
    item = _item("bad.jpg", text="a cat")
    comparison = _comparison(ledger=[_ledger_entry(item, image_content_hash(_sha("x"), item))])

    assert comparison.compare(item).standing is Standing.SKIPPED_BEFORE
    assert comparison.compare(replace(item, mtime_ns=101)).standing is Standing.NEW


def test_what_could_not_be_read_at_all_is_tried_again() -> None:
    item = _item("locked.jpg")

    assert _comparison(ledger=[_ledger_entry(item, None)]).compare(item).standing is Standing.NEW


def test_a_million_items_take_tens_of_megabytes() -> None:
    """Measured on 20,000: the arrays' bytes an item, as the module's docstring has them."""
    known = _known_items(_known(_item(f"{number}.jpg"), number) for number in range(20_000))

    columns = known._columns
    arrays = [getattr(columns, name) for name in columns.__slots__] + [known._sorted_keys, known._is_seen]
    assert sum(np.asarray(column).nbytes for column in arrays) == 55 * 20_000
