"""Run files and judgements, written, read back, read by trec_eval's own parser, and refused in a sentence."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from search.evaluation import Ranking, Run
from search.evaluation_files import check_writable, read_judgement_table, read_qrels, read_run_file, write_run_file
from search.judgements import JudgedBy
from sightline.errors import InvalidInput

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, content: str) -> Path:
        path = tmp_path / name
        path.write_text(content, encoding="utf-8", newline="")
        return path

    return write


NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
SCORES = st.floats(-1, 1, width=32).map(lambda value: float(np.float32(value)) + 0.0)  # + 0.0: minus zero is zero
RANKINGS = st.dictionaries(NAMES, SCORES, min_size=1, max_size=5).map(
    lambda score_by_key: Ranking(*zip(*sorted(score_by_key.items(), key=lambda pair: (-pair[1], pair[0])), strict=True))
)
RUNS = st.dictionaries(NAMES, st.dictionaries(NAMES, RANKINGS, min_size=1, max_size=3), min_size=1, max_size=2)


@given(RUNS)
def test_runs_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, rankings_by_name: dict[str, dict[str, Ranking]]) -> None:
    runs = [Run(name, rankings) for name, rankings in rankings_by_name.items()]
    path = tmp_path_factory.mktemp("runs") / "run.trec"
    write_run_file(path, runs)
    assert read_run_file(path) == {run.name: run for run in runs}
    assert [each.name for each in path.parent.iterdir()] == ["run.trec"]


def test_a_run_file_is_what_trec_eval_reads(tmp_path: Path) -> None:
    run = Run("text-to-image", {"a b.jpg#1": Ranking(("a b.jpg", "100%.jpg"), (0.5, 0.25)), "ü#2": Ranking(("ü",), (-0.125,))})
    write_run_file(tmp_path / "run.trec", [run])

    text = (tmp_path / "run.trec").read_text(encoding="utf-8")
    assert text.splitlines()[0] == "a%20b.jpg#1 Q0 a%20b.jpg 1 0.5 text-to-image"
    assert pytrec_eval.parse_run(text.splitlines()) == {"a%20b.jpg#1": {"a%20b.jpg": 0.5, "100%25.jpg": 0.25}, "ü#2": {"ü": -0.125}}


def test_equal_similarities_keep_the_order_of_the_search(tmp_path: Path) -> None:
    run = Run("text-to-image", {"q": Ranking(("z", "a", "m"), (0.5, 0.5, 0.5))})
    write_run_file(tmp_path / "run.trec", [run])
    assert read_run_file(tmp_path / "run.trec")["text-to-image"].ranking_by_query["q"].keys == ("z", "a", "m")


def test_runs_of_others_are_ordered_by_score_then_rank_then_key(write: Write) -> None:
    path = write("run.trec", "q\tQ0\tlow\t1\t0.1\tbm25\n\nq Q0 late 3 0.5 bm25\nq Q0 b 2 0.5 bm25\nq Q0 a 2 0.5 bm25\n")
    assert read_run_file(path) == {"bm25": Run("bm25", {"q": Ranking(("a", "b", "late", "low"), (0.5, 0.5, 0.5, 0.1))})}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "run.trec is empty"),
        ("q Q0 k 1 0.5\n", "line 1: a line is `QUERY Q0 KEY RANK SCORE NAME`, not 'q Q0 k 1 0.5'"),
        ("q Q0 k 1 high n\n", "line 1: 'high' is no number"),
        ("q Q0 k 1 nan n\n", "line 1: 'nan' is no number"),
        ("q Q0 k first 1 n\n", "line 1: 'first' is no number"),
        ("q Q0 k 1 1 n\nq Q0 k 2 0 n\n", "line 2: the key 'k' is there for the second time"),
    ],
)
def test_what_is_no_run_file_is_refused(write: Write, content: str, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        read_run_file(write("run.trec", content))


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"nowhere\.trec cannot be read: No such file"):
        read_run_file(tmp_path / "nowhere.trec")
    (tmp_path / "picture.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(InvalidInput, match=r"is not UTF-8 text \(byte 0\)"):
        read_run_file(tmp_path / "picture.jpg")


def test_a_place_where_nothing_can_be_written_is_told_at_once(tmp_path: Path) -> None:
    check_writable(tmp_path / "run.trec")
    with pytest.raises(InvalidInput, match="it is a folder"):
        check_writable(tmp_path)
    with pytest.raises(InvalidInput, match=r"there is no folder .*missing"):
        check_writable(tmp_path / "missing" / "run.trec")
    with pytest.raises(InvalidInput, match="cannot be written: No such file"):
        write_run_file(tmp_path / "missing" / "run.trec", [])


def test_qrels_with_their_texts(write: Write) -> None:
    qrels = write("qrels.txt", "7 0 a%20b.jpg 2\n7 0 c.jpg 0\n8 0 d.jpg 0\n9 0 e.jpg -1\n9 0 f.jpg 1\n")
    queries = write("queries.tsv", "\ufeff9\ta red wall \n7   two dogs\n\n10\tnobody judged this\n")

    judged = read_qrels(qrels, queries=queries)

    assert judged.judged_by is JudgedBy.PERSON
    assert judged.text_by_query == {"7": "two dogs", "9": "a red wall"}
    assert judged.judgements == {"7": {"a b.jpg": 2, "c.jpg": 0}, "9": {"e.jpg": -1, "f.jpg": 1}}


@pytest.mark.parametrize(
    ("qrels", "queries", "sentence"),
    [
        ("", "", r"qrels.txt names nothing relevant"),
        ("7 0 a 0\n", "7 dogs\n", r"qrels.txt names nothing relevant"),
        ("7 a 1\n", "7 dogs\n", r"qrels.txt, line 1: a line is `QUERY 0 KEY GRADE`, not '7 a 1'"),
        ("7 0 a much\n", "7 dogs\n", r"qrels.txt, line 1: 'much' is no number"),
        ("7 0 a 1.5\n", "7 dogs\n", r"qrels.txt, line 1: '1.5' is no number"),
        ("7 0 a 1\n8 0 a 1\n", "7 dogs\n", r"queries.tsv has no text for 1 of 2 judged queries, such as '8'"),
        ("7 0 a 1\n", "7 dogs\n8\n", r"queries.tsv, line 2: a line is a query's id and its text, not '8'"),
    ],
)
def test_what_are_no_qrels_is_refused(write: Write, qrels: str, queries: str, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        read_qrels(write("qrels.txt", qrels), queries=write("queries.tsv", queries))


def test_a_table_of_queries_and_relevant_keys(write: Write) -> None:
    path = write(
        "judged.csv", 'Query,relevant keys\r\na red wall,red.png\r\n\r\n"dogs, two of them",a b.jpg,c.jpg,\r\na red wall,rose.png\r\n'
    )

    judged = read_judgement_table(path)

    assert judged.text_by_query == {"a red wall": "a red wall", "dogs, two of them": "dogs, two of them"}
    assert judged.judgements == {"a red wall": {"red.png": 1, "rose.png": 1}, "dogs, two of them": {"a b.jpg": 1, "c.jpg": 1}}


def test_a_table_needs_no_header_and_a_query_may_be_called_query(write: Write) -> None:
    assert list(read_judgement_table(write("judged.csv", "dogs,a.jpg\nquery,b.jpg\n")).judgements) == ["dogs", "query"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "judged.csv holds no judgement"),
        ("query,relevant keys\n", "judged.csv holds no judgement"),
        ("dogs\n", "judged.csv, line 1: a row is a query and one or more relevant keys, not 'dogs'"),
        ("dogs,a.jpg\n,b.jpg\n", "judged.csv, line 2: .*',b.jpg'"),
        ('dogs,"a.jpg\n', "judged.csv is not CSV: unexpected end of data"),
    ],
)
def test_what_is_no_table_of_judgements_is_refused(write: Write, content: str, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        read_judgement_table(write("judged.csv", content))
