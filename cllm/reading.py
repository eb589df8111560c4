"""Read texts from JSONL, CSV, TSV, Parquet or plain text, row by row, and say what is wrong.

Usage: `reading = read_rows(Path("recipes.jsonl.gz"))`, then `[row.text for row in reading]`;
after it `reading.count` is the number of rows and `reading.bad` the complaints, one a bad row.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
import unicodedata
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from cllm.errors import InputError

FORMATS = (".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".parquet")
MAX_ID_BYTES = 512  # a vector database keys its rows by them
_SHOWN = 3  # reasons in one message
# Controls that are not white space, soft hyphen, zero-width space, direction marks, BOM. The
# zero-width joiners stay: emoji and several scripts are spelt with them.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e"
    "\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb]"
)


@dataclass(frozen=True)
class Row:
    """One usable text, cleaned; `id` and `title` are None where the file has none."""

    text: str
    title: str | None = None
    id: str | None = None
    subject: str = ""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used: file, line (or row, for Parquet) counted from 1, and why."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass(frozen=True)
class _Columns:
    text: str
    title: str
    id: str
    subject: str


@dataclass
class Reading:
    """The rows of one file. Iterate once; the counts grow with it and are final at its end."""

    path: Path
    columns: _Columns
    max_bad_rows: int
    max_line_bytes: int
    count: int = 0  # rows seen, bad ones included
    bad: list[BadRow] = field(default_factory=list)
    _found: dict[str, None] = field(default_factory=dict)  # column names, in order
    _lacking: int = 0  # rows without the text column

    def __iter__(self) -> Iterator[Row]:
        for line, record in _records(self):
            self.count += 1
            row = _row(record, self.columns)
            if isinstance(row, Row):
                yield row
                continue
            self._note(record)
            self.bad.append(BadRow(self.path.name, line, row))
            if len(self.bad) > self.max_bad_rows:
                raise InputError(self._complaint())
        if self.count == len(self.bad):
            raise InputError(self._complaint())

    @property
    def sha256(self) -> str:
        """Of the file's bytes, hexadecimal."""
        with self.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def _note(self, record: dict[str, Any] | str) -> None:
        if isinstance(record, dict) and self.columns.text not in record:
            self._found |= dict.fromkeys(record)
            self._lacking += 1

    def _complaint(self) -> str:
        if self.count == 0:
            return f"{self.path} holds no rows; give a file with one text a row"
        if 2 * self._lacking > self.count:
            return _no_column(self.path, self.columns.text, self._found)
        reasons = "; ".join(str(each) for each in self.bad[:_SHOWN])
        what = "no usable row" if self.count == len(self.bad) else "too many bad rows"
        return (
            f"{self.path}: {what} ({len(self.bad)} bad of {self.count} read): {reasons}; "
            "mend the file, or raise --max-bad-rows to skip them"
        )


def read_rows(
    path: Path,
    text_column: str = "text",
    title_column: str = "title",
    id_column: str = "id",
    subject_column: str = "subject",
    max_bad_rows: int = 100,
    max_line_bytes: int = 10_000_000,
) -> Reading:
    """Open a corpus file; its format goes by its suffix (FORMATS, each but Parquet also .gz).

    Iterating raises InputError where the file is missing, empty, damaged, of unknown kind,
    lacks the text column altogether, or has more than `max_bad_rows` bad rows. Lines longer
    than `max_line_bytes` are bad rows and are skipped without being held in memory.
    """
    columns = _Columns(text_column, title_column, id_column, subject_column)
    return Reading(Path(path), columns, max_bad_rows, max_line_bytes)


def clean_text(text: str) -> str:
    """Mend broken encodings (ftfy), NFC, drop control characters, single spaces only."""
    if not text.isascii() or "&" in text or "\x1b" in text:
        import ftfy

        text = unicodedata.normalize("NFC", _INVISIBLE.sub("", ftfy.fix_text(text)))
    return " ".join(_INVISIBLE.sub("", text).split())


def _row(record: dict[str, Any] | str, columns: _Columns) -> Row | str:
    """The usable row of a record, or why there is none."""
    if isinstance(record, str):
        return record
    text = record.get(columns.text, ...)
    if text is ...:
        return f"column {columns.text!r} is missing"
    if text is None or text != text:  # NaN is the one value that differs from itself
        return f"{columns.text} is {'null' if text is None else 'NaN'}"
    if not isinstance(text, str):
        return f"{columns.text} is of type {type(text).__name__}, not a string"
    text = clean_text(text)
    if not text:
        return f"{columns.text} is empty"
    title, name, subject = map(record.get, (columns.title, columns.id, columns.subject))
    name = clean_text(str(name)) if name is not None else ""
    if len(name.encode()) > MAX_ID_BYTES:
        return f"{columns.id} has {len(name.encode())} bytes, more than {MAX_ID_BYTES}"
    return Row(
        text=text,
        title=clean_text(title) or None if isinstance(title, str) else None,
        id=name or None,
        subject=_subject(subject),
    )


def _subject(value: object) -> str:
    """A word or a number as it is written; "" of anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value != value:  # NaN
        return ""
    return clean_text(str(value)) if isinstance(value, str | int | float) else ""


# A record is a dict of columns, or a string that says what is wrong with the line.
_Record = tuple[int, dict[str, Any] | str]


def _records(reading: Reading) -> Iterator[_Record]:
    path = reading.path
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file in it")
    suffixes = [suffix.lower() for suffix in path.suffixes] or [""]
    zipped = suffixes[-1] == ".gz"
    kind = suffixes[-2] if zipped and len(suffixes) > 1 else suffixes[-1]
    if kind not in FORMATS or (zipped and kind == ".parquet"):
        raise InputError(
            f"{path}: unknown kind of file; name it {', '.join(FORMATS)} (or .gz of a text format)"
        )
    try:
        if kind == ".parquet":
            yield from _parquet_records(reading)
            return
        with path.open("rb") as raw:
            stream = io.BufferedReader(gzip.GzipFile(fileobj=raw)) if zipped else raw
            yield from _text_records(reading, kind, _lines(stream, reading.max_line_bytes))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(
            f"{path} is a damaged gzip file ({error}), found after {reading.count} rows; "
            "copy or make it again"
        ) from error
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror or error}); check the path"
        ) from error


def _text_records(
    reading: Reading, kind: str, lines: Iterator[tuple[int, bytes | str]]
) -> Iterator[_Record]:
    if kind in (".csv", ".tsv"):
        return _csv_records(reading, lines, "," if kind == ".csv" else "\t")
    if kind == ".txt":
        return _plain_records(lines, reading.columns.text)
    return _json_records(lines)


def _lines(stream: BinaryIO, limit: int) -> Iterator[tuple[int, bytes | str]]:
    """Numbered lines as bytes, or the complaint in place of a line longer than `limit` bytes."""
    number = 0
    while line := stream.readline(limit + 2):  # room for \r\n
        number += 1
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if len(line.rstrip(b"\r\n")) <= limit:
            yield number, line
            continue
        while not line.endswith(b"\n") and (line := stream.readline(1 << 20)):
            pass
        yield number, f"line is longer than {limit:,} bytes"


def _decoded(line: bytes | str) -> tuple[str, str | None]:
    """The line's text, and the complaint where it has none."""
    if isinstance(line, str):
        return "", line
    try:
        return line.decode("utf-8"), None
    except UnicodeDecodeError as error:
        return "", f"not UTF-8 (byte 0x{line[error.start]:02x} at {error.start})"


def _json_records(lines: Iterable[tuple[int, bytes | str]]) -> Iterator[_Record]:
    for number, line in lines:
        text, complaint = _decoded(line)
        if complaint or text.strip():
            yield number, complaint or _parsed(text)


def _parsed(text: str) -> dict[str, Any] | str:
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        return f"not JSON ({error.msg.removesuffix(' at')} at character {error.pos + 1})"
    except (ValueError, RecursionError) as error:
        return f"not usable JSON ({error})"
    return record if isinstance(record, dict) else f"a JSON {type(record).__name__}, not an object"


def _plain_records(lines: Iterable[tuple[int, bytes | str]], column: str) -> Iterator[_Record]:
    for number, line in lines:
        text, complaint = _decoded(line)
        if complaint or text.strip():
            yield number, complaint or {column: text}


def _csv_records(
    reading: Reading, lines: Iterator[tuple[int, bytes | str]], delimiter: str
) -> Iterator[_Record]:
    header: list[str] = []
    ahead: deque[tuple[int, str]] = deque()  # lines that are to be read again
    rest = _csv_lines(lines)
    while True:
        taken: list[tuple[int, str]] = []
        try:
            fields = next(csv.reader(_take(ahead, rest, taken), delimiter=delimiter, strict=True))
        except StopIteration:
            return
        except csv.Error as error:  # such as a quote that never closes: only its own line is lost
            ahead.extendleft(reversed(taken[1:]))
            yield taken[0][0], f"not CSV ({error})"
            continue
        if not fields:
            continue
        number = taken[0][0]
        if not header:
            header = [name.strip() for name in fields]
            if isinstance(complaint := _csv_record(header, fields), str):
                raise InputError(f"{reading.path}:{number}: header: {complaint}; mend the file")
            if reading.columns.text not in header:
                raise InputError(_no_column(reading.path, reading.columns.text, header))
            continue
        yield number, _csv_record(header, fields)


def _take(
    ahead: deque[tuple[int, str]], rest: Iterator[tuple[int, str]], taken: list[tuple[int, str]]
) -> Iterator[str]:
    """Lines as one record needs them, those read before first; `taken` remembers them."""
    while line := ahead.popleft() if ahead else next(rest, None):
        taken.append(line)
        yield line[1]


def _csv_lines(lines: Iterable[tuple[int, bytes | str]]) -> Iterator[tuple[int, str]]:
    """Lines for the csv module; one that is no text passes as a mark that _csv_record finds."""
    for number, line in lines:
        text, complaint = _decoded(line)
        yield number, f"\ud800{complaint}\n" if complaint else text


def _csv_record(header: list[str], fields: list[str]) -> dict[str, str] | str:
    marked = next((each for each in fields if "\ud800" in each), None)
    if marked is not None:
        return marked.partition("\ud800")[2].splitlines()[0]
    if len(fields) != len(header):
        return f"{len(fields)} fields where the header has {len(header)}"
    return dict(zip(header, fields, strict=True))


def _parquet_records(reading: Reading) -> Iterator[_Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, columns = reading.path, reading.columns
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            found = file.schema_arrow.names
            if columns.text not in found:
                raise InputError(_no_column(path, columns.text, found))
            every = (columns.text, columns.title, columns.id, columns.subject)
            wanted = [name for name in dict.fromkeys(every) if name in found]
            for batch in file.iter_batches(batch_size=1024, columns=wanted):
                for cells in zip(*batch.columns, strict=True):
                    number += 1
                    yield number, _parquet_record(wanted, cells)
    except pa.ArrowException as error:
        raise InputError(
            f"{path} is a damaged Parquet file ({str(error).splitlines()[0]}); make it again"
        ) from error


def _parquet_record(names: list[str], cells: tuple[Any, ...]) -> dict[str, Any] | str:
    try:
        return {name: cell.as_py() for name, cell in zip(names, cells, strict=True)}
    except UnicodeDecodeError as error:
        return f"not UTF-8 (byte 0x{error.object[error.start]:02x} at {error.start})"


def _no_column(path: Path, wanted: str, found: Iterable[str]) -> str:
    return (
        f"{path} has no column {wanted!r}; its columns are {', '.join(found) or '(none)'}; "
        "name the right one with --text-column"
    )
