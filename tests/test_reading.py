"""Every bad row is named and counted; nothing the file may hold breaks the reader."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import unicodedata
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cllm.errors import InputError
from cllm.reading import Row, clean_text, read_rows

ROWS = [Row("leek soup", "Soup", "1"), Row("plum pie", "Pie", "2")]
RECORDS = [{"text": row.text, "title": row.title, "id": row.id} for row in ROWS]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def json_lines(*records: object) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


@pytest.mark.parametrize("zipped", ["", ".gz"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", json_lines(*RECORDS)),
        ("a.ndjson", b"\xef\xbb\xbf" + json_lines(RECORDS[0]) + b"\n" + json_lines(RECORDS[1])),
        ("a.csv", b"id,title,text\r\n1,Soup,leek soup\r\n\r\n2,Pie,plum pie"),
        ("a.csv", b'text,id,title\n"leek\nsoup",1,Soup\nplum pie,2,Pie\n'),
        ("a.tsv", b"id\ttitle\ttext\n1\tSoup\tleek soup\n2\tPie\tplum pie\n"),
    ],
)
def test_formats(tmp_path: Path, name: str, content: bytes, zipped: str) -> None:
    reading = read_rows(write(tmp_path / (name + zipped), content))
    assert list(reading) == ROWS
    assert (reading.count, reading.bad) == (2, [])


def test_plain_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.TXT", b"leek soup\n\n  plum   pie ")
    assert [row.text for row in read_rows(path)] == ["leek soup", "plum pie"]


def test_parquet_with_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    broken = pa.array([b"plum pie", b"\xff", None, b"fig"]).view(pa.string())
    pq.write_table(pa.table({"text": broken, "id": [1, 2, 3, 4]}), path)
    reading = read_rows(path)
    assert list(reading) == [Row("plum pie", id="1"), Row("fig", id="4")]
    assert [str(bad) for bad in reading.bad] == [
        "a.parquet:2: not UTF-8 (byte 0xff at 0)",
        "a.parquet:3: text is null",
    ]


def test_column_names_are_the_callers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", json_lines({"body": "fig", "name": "F", "key": 7}))
    reading = read_rows(path, text_column="body", title_column="name", id_column="key")
    assert list(reading) == [Row("fig", "F", "7")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "half', "not JSON (Invalid control character at character 15)"),
        (b'["a list"]', "a JSON list, not an object"),
        (b'{"body": "leek"}', "column 'text' is missing"),
        (b'{"text": 7}', "text is of type int, not a string"),
        (b'{"text": NaN}', "text is NaN"),
        (b'{"text": null}', "text is null"),
        (b'{"text": " \\u0000\\u200b\\n "}', "text is empty"),
        (b'{"text": "caf\xe9"}', "not UTF-8 (byte 0xe9 at 13)"),
        (b"[" * 100_000, "not usable JSON"),
        (b'{"text": ' + b"1" * 5000 + b"}", "not usable JSON"),
        (b'{"text": "' + b"a" * 200_000 + b'"}', "line is longer than 150,000 bytes"),
    ],
)
def test_bad_line_is_named_and_the_rest_is_read(tmp_path: Path, line: bytes, reason: str) -> None:
    path = write(tmp_path / "a.jsonl", json_lines(RECORDS[0]) + line + b"\n" + b'{"text": "fig"}')
    reading = read_rows(path, max_line_bytes=150_000)
    assert [row.text for row in reading] == ["leek soup", "fig"]
    assert reading.count == 3
    assert str(reading.bad[0]).startswith(f"a.jsonl:2: {reason}")
    assert len(reading.bad) == 1


def test_bad_csv_rows(tmp_path: Path) -> None:
    content = b"id,text\n1,leek\n2,plum,pie\n3\n4,caf\xe9\n5," + b"x" * 99 + b"\n6,fig\n"
    reading = read_rows(write(tmp_path / "a.csv", content), max_line_bytes=50)
    assert [row.text for row in reading] == ["leek", "fig"]
    assert [str(bad) for bad in reading.bad] == [
        "a.csv:3: 3 fields where the header has 2",
        "a.csv:4: 1 fields where the header has 2",
        "a.csv:5: not UTF-8 (byte 0xe9 at 5)",
        "a.csv:6: line is longer than 50 bytes",
    ]
    assert reading.count == 6


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [(20_000, "field larger than field limit"), (50, "unexpected end of data")],
)
def test_an_unclosed_csv_quote_costs_its_own_row(tmp_path: Path, rows: int, complaint: str) -> None:
    content = b'id,text\n1,leek\n2,"open\n' + b"".join(b"%d,soup\n" % i for i in range(rows))
    reading = read_rows(write(tmp_path / "a.csv", content))
    assert sum(1 for _ in reading) == rows + 1
    assert reading.count == rows + 2
    assert [bad.line for bad in reading.bad] == [3]
    assert complaint in str(reading.bad[0])


def test_a_stray_csv_quote_does_not_reach_the_next_quoted_row(tmp_path: Path) -> None:
    content = b'text\nfig\n"open\nleek\n"plum, ripe"\n"two\nlines"\npear\n'
    reading = read_rows(write(tmp_path / "a.csv", content))
    assert [row.text for row in reading] == ["fig", "leek", "plum, ripe", "two lines", "pear"]
    assert [bad.line for bad in reading.bad] == [3]


def test_long_line_is_not_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as stream:
        stream.write(json_lines(RECORDS[0]) + b'{"text": "')
        for _ in range(50):
            stream.write(b"a" * 1_000_000)
        stream.write(b'"}\n' + json_lines(RECORDS[1]))
    reading = read_rows(path, max_line_bytes=1_000_000)
    tracemalloc.start()
    assert list(reading) == ROWS
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6_000_000
    assert [bad.line for bad in reading.bad] == [2]


def test_line_exactly_at_the_limit_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"12345\r\n123456\r\n12345\n1234567\n12345")
    reading = read_rows(path, max_line_bytes=5)
    assert [row.text for row in reading] == ["12345"] * 3
    assert [bad.line for bad in reading.bad] == [2, 4]


def test_gives_up_after_max_bad_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", json_lines(RECORDS[0], *[{"text": ""}] * 5))
    assert len(list(read_rows(path, max_bad_rows=5))) == 1
    with pytest.raises(InputError, match=r"5 bad of 6 read.*a\.jsonl:2: text is empty.*raise"):
        list(read_rows(path, max_bad_rows=4))


@pytest.mark.parametrize("limit", [1, 100])
def test_wrong_text_column_lists_those_found(tmp_path: Path, limit: int) -> None:
    lines = write(tmp_path / "a.jsonl", json_lines({"body": "a"}, {"body": "b", "tag": 1}))
    cells = write(tmp_path / "a.csv", b"body,tag\na,1\n")
    pq.write_table(pa.table({"body": ["a"], "tag": [1]}), tmp_path / "a.parquet")
    for path in (lines, cells, tmp_path / "a.parquet"):
        with pytest.raises(InputError, match=r"no column 'text'; its columns are body, tag;"):
            list(read_rows(path, max_bad_rows=limit))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b"", "holds no rows"),
        ("a.jsonl", b"\n \n", "holds no rows"),
        ("a.csv", b"", "holds no rows"),
        ("a.csv", b"id,text\n", "holds no rows"),
        ("a.csv", b"id,t\xe9xt\n1,fig\n", "header: not UTF-8"),
        ("a.jsonl.gz", b"", "holds no rows"),
        ("a.jsonl", b'{"text": 1}\n', r"no usable row \(1 bad of 1 read\)"),
        ("a.json", b"{}", "unknown kind of file"),
        ("a.parquet.gz", b"", "unknown kind of file"),
        ("a", b"fig", "unknown kind of file"),
        ("a.parquet", b"no parquet at all", "damaged Parquet file"),
        ("a.parquet", b"", "damaged Parquet file"),
    ],
)
def test_unusable_file(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(InputError, match=words) as caught:
        list(read_rows(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_gzip(tmp_path: Path) -> None:
    whole = gzip.compress(json_lines(*[{"text": f"text {i * 7919}"} for i in range(2000)]))
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    for content in (whole[:-1000], bytes(flipped), b"not gzip"):
        (tmp_path / "a.jsonl.gz").write_bytes(content)
        with pytest.raises(InputError, match="damaged gzip"):
            list(read_rows(tmp_path / "a.jsonl.gz"))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").mkdir()
    for name in ("a.jsonl", "a.parquet"):
        with pytest.raises(InputError, match=r"cannot be read \(.*; check the path"):
            list(read_rows(tmp_path / name))


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  cr\u00e8me\t br\u00fbl\u00e9e\n", "cr\u00e8me br\u00fbl\u00e9e"),
        ("cre\u0300me", "cr\u00e8me"),  # NFC
        ("cr\u00c3\u00a8me", "cr\u00e8me"),  # UTF-8 once read as Latin-1
        ("a\x00b\u00adc \u200b d\ufeff", "abc d"),
        ("salt &amp; pepper", "salt & pepper"),
        ("\U0001f468\u200d\U0001f373", "\U0001f468\u200d\U0001f373"),  # the cook keeps its joiner
        ("a\ud800b", "a\ufffdb"),
    ],
)
def test_clean_text(raw: str, clean: str) -> None:
    assert clean_text(raw) == clean


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_clean_text_is_plain(raw: str) -> None:
    text = clean_text(raw)
    text.encode("utf-8")
    assert text == " ".join(text.split())
    assert all(unicodedata.category(sign) != "Cc" for sign in text)
    assert unicodedata.is_normalized("NFC", text)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes
) -> None:
    folder = tmp_path_factory.mktemp("any")
    for name in ("a.jsonl", "a.csv", "a.txt", "a.tsv", "a.parquet", "b.jsonl.gz"):
        (folder / name).write_bytes(raw)
        reading = read_rows(folder / name)
        with suppress(InputError):
            rows = list(reading)
            assert len(rows) + len(reading.bad) == reading.count > 0
