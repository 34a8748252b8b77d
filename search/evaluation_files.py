"""Runs and judgements as files: TREC's run and qrels formats, texts of queries, and a table of queries with their relevant keys.

    run       QUERY Q0 KEY RANK SCORE NAME     one line a found key; several runs in one file have different names
    qrels     QUERY 0 KEY GRADE                a grade above 0 is relevant
    queries   QUERY TEXT                       the text is the rest of the line
    table     TEXT,KEY,KEY,...                 CSV; rows with the same text add up; a first row that begins with "query" is a header

In the first three columns are parted by white space, so what keys have of it is percent-encoded, as is the percent sign itself:
`my cat.jpg` is `my%20cat.jpg`.
"""

import csv
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar
from urllib.parse import unquote

from search.evaluation import Ranking, Run
from search.judgements import JudgedBy, JudgedTexts
from sightline.errors import InvalidInput

_Number = TypeVar("_Number", int, float)

_ENCODED = re.compile(r"[\s%\x00-\x1f\x7f]")


def write_run_file(path: Path, runs: Sequence[Run]) -> None:
    """All runs, one after the other, in the place of a file that is there. Scores come back to the last bit.

    Raises `InvalidInput` where it cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(line for run in runs for line in _run_lines(run))
        partial.replace(path)
    except OSError as error:
        raise InvalidInput(f"the run file {path} cannot be written: {error.strerror}") from error


def check_writable(path: Path) -> None:
    """Raises `InvalidInput` where `path` is a folder or is in none, before an hour is spent on what could not be kept."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        reason = "it is a folder" if path.is_dir() else f"there is no folder {path.absolute().parent}"
        raise InvalidInput(f"the run file {path} cannot be written: {reason}")


def read_run_file(path: Path) -> dict[str, Run]:
    """Runs by name. Keys are ordered by score, descending, equal scores as ranked in the file, then by key.

    Raises `InvalidInput` for a file that cannot be read, a line that is none of a run, and a key that is there twice.
    """
    found: dict[str, dict[str, list[tuple[float, int, str]]]] = {}
    seen: set[tuple[str, str, str]] = set()
    with _opened(path) as file:
        for number, (query, _, key, rank, score, name) in _columns(path, file, names=("query", "Q0", "key", "rank", "score", "name")):
            if (name, query, key) in seen:
                raise InvalidInput(f"{path}, line {number}: the key {key!r} is there for the second time")
            seen.add((name, query, key))
            entry = (
                -_number(float, score, where=f"{path}, line {number}"),
                _number(int, rank, where=f"{path}, line {number}"),
                unquote(key),
            )
            found.setdefault(name, {}).setdefault(unquote(query), []).append(entry)
    if not found:
        raise InvalidInput(f"the run file {path} is empty")
    return {unquote(name): Run(unquote(name), {q: _ranking(entries) for q, entries in lists.items()}) for name, lists in found.items()}


def read_qrels(qrels: Path, *, queries: Path) -> JudgedTexts:
    """Judgements in TREC's format and the texts that are asked; queries with nothing relevant are left out, as trec_eval does.

    Raises `InvalidInput` for files that cannot be read as what they should be, and for a judged query without a text.
    """
    grades_by_query: dict[str, dict[str, int]] = {}
    with _opened(qrels) as file:
        for number, (query, _, key, grade) in _columns(qrels, file, names=("query", "0", "key", "grade")):
            grades_by_query.setdefault(unquote(query), {})[unquote(key)] = _number(int, grade, where=f"{qrels}, line {number}")
    judgements = {query: grades for query, grades in grades_by_query.items() if max(grades.values()) > 0}
    if not judgements:
        raise InvalidInput(f"{qrels} names nothing relevant: a line is `QUERY 0 KEY GRADE`, with a grade above 0 for what should be found")
    text_by_query = _query_texts(queries)
    missing = [query for query in judgements if query not in text_by_query]
    if missing:
        raise InvalidInput(f"{queries} has no text for {len(missing):,} of {len(judgements):,} judged queries, such as {missing[0]!r}")
    return JudgedTexts(JudgedBy.PERSON, {query: text_by_query[query] for query in judgements}, judgements)


def read_judgement_table(path: Path) -> JudgedTexts:
    """Queries with their relevant keys from CSV; the text is the query's id. Raises `InvalidInput`."""
    judgements: dict[str, dict[str, int]] = {}
    with _opened(path) as file:
        reader = csv.reader(file, strict=True)
        for row in _csv_rows(path, reader):
            text, keys = row[0].strip(), [key.strip() for key in row[1:] if key.strip()]
            if reader.line_num == 1 and text.lower() == "query":
                continue
            if not text or not keys:
                raise InvalidInput(
                    f"{path}, line {reader.line_num}: a row is a query and one or more relevant keys, not {','.join(row)[:60]!r}"
                )
            judgements.setdefault(text, {}).update(dict.fromkeys(keys, 1))
    if not judgements:
        raise InvalidInput(f"{path} holds no judgement: a row is a query and one or more relevant keys")
    return JudgedTexts(JudgedBy.PERSON, {text: text for text in judgements}, judgements)


def _run_lines(run: Run) -> Iterator[str]:
    name = _encoded(run.name)
    for query, ranking in run.ranking_by_query.items():
        for rank, (key, run_score) in enumerate(zip(ranking.keys, ranking.run_scores, strict=True), start=1):
            yield f"{_encoded(query)} Q0 {_encoded(key)} {rank} {run_score!r} {name}\n"


def _ranking(entries: list[tuple[float, int, str]]) -> Ranking:
    entries.sort()
    return Ranking(tuple(key for _, _, key in entries), tuple(-negated for negated, _, _ in entries))


def _query_texts(path: Path) -> dict[str, str]:
    text_by_query: dict[str, str] = {}
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                query, *text = line.strip().split(maxsplit=1)
                if not text:
                    raise InvalidInput(f"{path}, line {number}: a line is a query's id and its text, not {line.strip()[:60]!r}")
                text_by_query[unquote(query)] = text[0]
    return text_by_query


def _columns(path: Path, lines: Iterable[str], *, names: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """Line number and columns of every line that is not blank."""
    for number, line in enumerate(lines, start=1):
        columns = line.split()
        if columns and len(columns) != len(names):
            wanted = " ".join(name.upper() if name.islower() else name for name in names)
            raise InvalidInput(f"{path}, line {number}: a line is `{wanted}`, not {line.strip()[:60]!r}")
        if columns:
            yield number, columns


def _csv_rows(path: Path, reader: Iterable[list[str]]) -> Iterator[list[str]]:
    try:
        yield from (row for row in reader if any(field.strip() for field in row))
    except csv.Error as error:
        raise InvalidInput(f"{path} is not CSV: {error}") from error


def _number(convert: Callable[[str], _Number], text: str, *, where: str) -> _Number:
    try:
        value = convert(text)
    except ValueError as error:
        raise InvalidInput(f"{where}: {text!r} is no number") from error
    if math.isnan(value):
        raise InvalidInput(f"{where}: {text!r} is no number")
    return value


def _encoded(text: str) -> str:
    return _ENCODED.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), text)


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 text (byte {error.start:,})") from error
