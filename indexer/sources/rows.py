"""Rows of CSV, JSON lines and Parquet files and lines of plain text, one after the other, the bad ones with their cause."""

import codecs
import csv
import gzip
import io
import json
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from indexer.wording import counted
from sightline.errors import InvalidSource

CSV_SUFFIXES = frozenset({".csv", ".tsv"})
JSONL_SUFFIXES = frozenset({".jsonl", ".ndjson"})
PARQUET_SUFFIXES = frozenset({".parquet"})
TABLE_SUFFIXES = CSV_SUFFIXES | JSONL_SUFFIXES | PARQUET_SUFFIXES

_MAX_LINE_BYTES = 4_000_000
"""A longer line is a file without lines; reading it would take as much memory as the file is long."""

_DELIMITERS = ",;\t|"
_PARQUET_ROWS = 1024  # read at once
_SHOWN_COLUMNS = 10
_SHOWN_LETTERS = 40
_HEAD_BYTES = 4096  # enough for the first line of a table, or for the first null byte of a file that is none
_UNCLOSED = "a quotation mark is opened and not closed as it should be"


@dataclass(frozen=True, slots=True)
class Row:
    """One row; `number` counts lines of text files and rows of Parquet files, from 1."""

    number: int
    value: Any  # a dict by column name; of JSON lines whatever the line holds; of plain text the line


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be read."""

    number: int
    cause: str


def table_suffix(path: Path) -> str:
    """The suffix that tells the format, lower case, without a `.gz` after it."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def read_table(path: Path) -> Iterator[Row | BadRow]:
    """All rows of a CSV, JSONL or Parquet file in order. Raises `InvalidSource` where the file as a whole cannot be read."""
    suffix = table_suffix(path)
    if suffix in CSV_SUFFIXES:
        return _read_csv(path)
    if suffix in PARQUET_SUFFIXES:
        return _read_parquet(path)
    return _read_jsonl(path)


def column_names(path: Path) -> tuple[str, ...]:
    """Names of the columns in order; of JSON lines those of the first object. Empty if there is none. Raises as `read_table`."""
    suffix = table_suffix(path)
    if suffix in CSV_SUFFIXES:
        with _opened_as_text(path) as file:
            names = tuple(_header(file)[0])
        if any(_is_not_utf8(name) for name in names):
            raise InvalidSource(f"{path} is not UTF-8 text: its first line, which should name the columns, is not; save it as UTF-8")
        return names
    if suffix in PARQUET_SUFFIXES:
        with _parquet(path) as table:
            return tuple(table.schema_arrow.names)
    return _names_in_json_lines(path)


def told_columns(names: tuple[str, ...]) -> str:
    """`its columns are: id, body`: the first ten, and of each no more than what a sentence bears."""
    if not names:
        return "it has none (is it empty?)"
    shown = ", ".join(_printable(name[:_SHOWN_LETTERS]) for name in names[:_SHOWN_COLUMNS])
    more = f" and {len(names) - _SHOWN_COLUMNS:,} more" if len(names) > _SHOWN_COLUMNS else ""
    return f"its columns are: {shown}{more}"


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _names_in_json_lines(path: Path) -> tuple[str, ...]:
    """Names in the first object. Where there is none and most lines are no JSON, that is what is wrong, and not a column."""
    bad_rows: list[BadRow] = []
    num_rows = 0
    for row in islice(_read_jsonl(path), 1000):
        num_rows += 1
        if isinstance(row, BadRow):
            bad_rows.append(row)
        elif isinstance(row.value, dict):
            return tuple(row.value)
    if len(bad_rows) > num_rows / 2:
        cause = bad_rows[0].cause.replace("the line", f"line {bad_rows[0].number}", 1)
        raise InvalidSource(f"{path}: {cause}; JSON lines have a whole value on each line")
    return ()


def read_lines(path: Path) -> Iterator[Row | BadRow]:
    """The lines of a text file in UTF-8, without their ends; `Row.value` is a str. Raises as `read_table`."""
    with _translated(path), _opened(path) as file:
        number = 0
        while line := file.readline(_MAX_LINE_BYTES):
            number += 1
            if len(line) == _MAX_LINE_BYTES and not line.endswith(b"\n"):
                while (rest := file.readline(_MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                    pass
                yield BadRow(number, f"the line is longer than {_MAX_LINE_BYTES:,} bytes")
                continue
            try:
                yield Row(number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n"))
            except UnicodeDecodeError as error:
                yield BadRow(number, f"the line is not UTF-8 text (byte {error.start:,})")


def _read_jsonl(path: Path) -> Iterator[Row | BadRow]:
    for line in read_lines(path):
        if isinstance(line, BadRow):
            yield line
        elif line.value.strip():
            try:
                yield Row(line.number, json.loads(line.value))
            except (ValueError, RecursionError) as error:
                yield BadRow(line.number, f"the line is not JSON ({error})")


def _read_csv(path: Path) -> Iterator[Row | BadRow]:
    with _opened_as_text(path) as file:
        names, delimiter = _header(file)
        lines = _CsvLines(file)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        while True:
            number = lines.begin_row()
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield BadRow(number, f"the row is not CSV ({error if lines.num_in_row == 1 else _UNCLOSED})")
                lines.give_back()
                continue
            has_odd_quotes = lines.is_given_back and lines.num_quotes % 2 == 1
            if has_odd_quotes or (lines.num_in_row > 1 and len(fields) != len(names)):
                yield BadRow(number, f"the row is not CSV ({_UNCLOSED})")
                lines.give_back()
            elif fields:
                yield _csv_row(number, names, fields)


class _CsvLines:
    """The lines below the header, of which those that a bad row swallowed can be read again.

    A quote that is opened and never closed makes everything after it one field. So a row that spans lines and is bad costs its
    first line alone, and reading goes on with the second. What `csv` looks ahead is bounded by its limit for a field.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._given_back: deque[str] = deque()
        self._row: list[str] = []
        self._number = 2  # of the line on which the row begins; the header is line 1
        self.is_given_back = False  # whether the row begins on a line that was read as part of an earlier one

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        # A line beyond the limit is cut, and what follows becomes a line of its own: with that it is a bad row.
        line = self._given_back.popleft() if self._given_back else self._file.readline(_MAX_LINE_BYTES)
        if not line:
            raise StopIteration
        self._row.append(line)
        return line

    def begin_row(self) -> int:
        """Number of the line on which the next row begins."""
        self._number += len(self._row)
        self._row.clear()
        self.is_given_back = bool(self._given_back)
        return self._number

    @property
    def num_in_row(self) -> int:
        """Lines of this row so far."""
        return len(self._row)

    @property
    def num_quotes(self) -> int:
        """Quotation marks in this row, which a row that is whole has an even number of."""
        return sum(line.count('"') for line in self._row)

    def give_back(self) -> None:
        """Leave the row its first line, and read the others again."""
        self._given_back.extendleft(reversed(self._row[1:]))
        del self._row[1:]


def _csv_row(number: int, names: list[str], fields: list[str]) -> Row | BadRow:
    if len(fields) != len(names):
        return BadRow(number, f"the row has {counted(len(fields), 'field')}, the header {len(names)}")
    if _is_not_utf8("".join(fields)):
        return BadRow(number, "the row is not UTF-8 text")
    return Row(number, dict(zip(names, fields, strict=True)))


def _is_not_utf8(text: str) -> bool:
    """Whether it holds bytes that were no UTF-8, see `_opened_as_text`."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _header(file: IO[str]) -> tuple[list[str], str]:
    """Column names and delimiter, from the first line."""
    line = file.readline(_MAX_LINE_BYTES).strip("\r\n")
    delimiter = max(_DELIMITERS, key=line.count)
    names = next(csv.reader([line], delimiter=delimiter), [])
    return [name.strip() for name in names], delimiter


@contextmanager
def _opened_as_text(path: Path) -> Iterator[IO[str]]:
    # A byte that is no UTF-8 becomes half a surrogate pair, so that it costs its row and not the file.
    with _translated(path), _opened(path) as file, io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="") as text:
        yield text


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as file:
        if path.suffix.lower() != ".gz":
            _check_head(path, file)
            yield file
            return
        with gzip.open(file) as unpacked:
            _check_head(path, unpacked)  # type: ignore[arg-type]  # a GzipFile is one in all that is used here
            yield unpacked  # type: ignore[misc]


def _check_head(path: Path, file: IO[bytes]) -> None:
    """Refuse what is no UTF-8 text from the beginning; further on a byte that is none costs its line."""
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InvalidSource(f"{path} is UTF-16 text, not UTF-8; save it as UTF-8")
    if b"\0" in head.partition(b"\n")[0]:
        raise InvalidSource(f"{path} is not UTF-8 text: its first line holds null bytes, as binary files and UTF-16 do")


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:  # gzip raises all three for a file that is cut short or damaged
        raise InvalidSource(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _read_parquet(path: Path) -> Iterator[Row | BadRow]:
    with _parquet(path) as table:
        number = 0
        for batch in table.iter_batches(batch_size=_PARQUET_ROWS):
            for value in batch.to_pylist():
                number += 1
                yield Row(number, value)


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    """An open `pyarrow.parquet.ParquetFile`; pyarrow is imported here, since nothing else needs it."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise InvalidSource(f"{path} is a Parquet file, and reading those needs pyarrow: pip install pyarrow") from error
    try:
        with pq.ParquetFile(path) as table:
            yield table
    except (pa.ArrowException, OSError) as error:
        raise InvalidSource(f"{path} cannot be read as Parquet: {error}") from error
