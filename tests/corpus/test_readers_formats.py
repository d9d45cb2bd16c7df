"""Arrow, Markdown, web archives, code by language, rows by licence, nested fields."""

import gzip
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from fastwarc.warc import WarcRecord, WarcRecordType

from rayllm.core.errors import SetupError
from rayllm.corpus.documents import BadRow, Document, Unwanted
from rayllm.corpus.readers import read_unit
from rayllm.corpus.sources import CodeSource, JsonlSource, WarcSource, list_units

Read = Callable[..., list[Any]]
Jsonl = Callable[..., str]


def documents(rows: list[Any]) -> list[str]:
    return [row.text for row in rows if isinstance(row, Document)]


def everything(source: Any) -> list[Any]:
    """What is read, left-out documents among it."""
    units = list_units({"d": [source]}, "train", 1 << 20)
    return [row for unit in units for row in read_unit(unit, source, max_row_bytes=1 << 20, seed=1)]


def reasons(rows: list[Any]) -> list[str]:
    return [row.reason for row in rows if isinstance(row, Unwanted)]


# Rows


def test_fields_are_found_in_mappings_and_lists(read: Read, jsonl: Jsonl) -> None:
    row = {"meta": {"id": 3}, "answers": [{"text": "forty"}, {"text": "two"}], "lines": ["a", "b"], "a.b": "flat"}
    path = jsonl("a.jsonl", [row])
    for name, text in {"answers.1.text": "two", "lines": "a\nb", "a.b": "flat"}.items():
        (found,) = read({"kind": "jsonl", "path": path, "text": name, "metadata": ["meta.id"]})
        assert (found.text, dict(found.metadata)) == (text, {"meta.id": 3})
    (found,) = read({"kind": "jsonl", "path": path, "template": "{meta.id}: {lines}"})
    assert found.text == "3: a\nb"


@pytest.mark.parametrize(
    ("name", "told"), [("lines", "an empty list"), ("answers", "a list of other"), ("m.x", "null")]
)
def test_what_holds_no_text_is_told(read: Read, jsonl: Jsonl, name: str, told: str) -> None:
    (row,) = read({"kind": "jsonl", "path": jsonl("a.jsonl", [{"lines": [], "answers": [1], "m": {}}]), "text": name})
    assert (row.kind, told in row.detail) == ("wrong_type", True)


def test_nested_columns_of_parquet_are_the_only_ones_read(tmp_path: Path, read: Read) -> None:
    row = {"a": {"text": "x", "big": "y" * 1000}, "list": [{"text": "one"}], "b.c": "flat", "raw": b"caf\xc3\xa9"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    for name, text in {"a.text": "x", "list.0.text": "one", "b.c": "flat", "raw": "caf\u00e9"}.items():
        assert documents(read({"kind": "parquet", "path": str(tmp_path / "a.parquet"), "text": name})) == [text]


LICENSES = [["MIT"], ["MIT", "GPL-3.0-only"], [], None, "apache-2.0", "GPL-3.0 OR BSD-3-Clause"]


def test_rows_are_taken_by_licence_and_the_others_counted(jsonl: Jsonl) -> None:
    path = jsonl("a.jsonl", [{"text": str(i), "lic": names} for i, names in enumerate(LICENSES)])
    filter_ = {"field": "lic", "allow": ["MIT", "Apache-2.0", "BSD-*"]}
    rows = everything(JsonlSource.model_validate({"path": path, "licenses": filter_}))
    assert documents(rows) == ["0", "4", "5"]
    assert reasons(rows) == ["license_not_allowed", "license_unknown", "license_unknown"]
    rows = everything(JsonlSource.model_validate({"path": path, "licenses": {**filter_, "unknown": "keep"}}))
    assert documents(rows) == ["0", "2", "3", "4", "5"]


# Arrow


def write_arrow(path: Path, texts: list[Any], *, stream: bool, batch: int = 10) -> dict[str, Any]:
    table = pa.table({"n": list(range(len(texts))), "text": texts})
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as sink, make(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch)
    return {"kind": "arrow", "path": str(path), "metadata": ["n"]}


@pytest.mark.parametrize("stream", [False, True])
def test_arrow_files_and_streams_are_read_whole_in_order(tmp_path: Path, read: Read, stream: bool) -> None:
    source = write_arrow(tmp_path / "a.arrow", [f"text {i}" for i in range(35)], stream=stream)
    rows = read(source, unit_bytes=1)
    assert [(row.text, row.metadata["n"]) for row in rows] == [(f"text {i}", i) for i in range(35)]


def test_arrow_files_are_cut_by_batch_and_streams_are_not(tmp_path: Path) -> None:
    for stream, count in ((False, 4), (True, 1)):
        source = write_arrow(tmp_path / "a.arrow", ["x"] * 35, stream=stream)
        from rayllm.corpus.sources import ArrowSource

        assert len(list_units({"d": [ArrowSource.model_validate(source)]}, "train", 1)) == count


@pytest.mark.parametrize("stream", [False, True])
def test_a_cut_off_arrow_file_is_damaged(tmp_path: Path, read: Read, stream: bool) -> None:
    path = tmp_path / "a.arrow"
    source = write_arrow(path, ["x" * 1000] * 35, stream=stream)
    path.write_bytes(path.read_bytes()[:-15_000])
    *good, bad = read(source)
    assert (bad.row, bad.kind) == (None, "damaged_file")
    assert len(good) == (20 if stream else 0)


def test_bad_bytes_in_an_arrow_batch_cost_their_own_row(tmp_path: Path, read: Read) -> None:
    offsets, data = pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffb")
    table = pa.table({"text": pa.StringArray.from_buffers(3, offsets, data)})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    rows = read({"kind": "arrow", "path": str(tmp_path / "a.arrow")})
    assert documents(rows) == ["a", "b"]
    assert [(row.row, row.kind) for row in rows if isinstance(row, BadRow)] == [(2, "invalid_utf8")]


# Markdown

PAGE = """---
title: A page
tags: [one, two]
---
Before. <!-- hidden --> After.
<!-- a comment
## of two lines -->

# First

```md
## not a heading
<!-- kept -->
```

## Second
text
"""


def test_markdown_loses_comments_keeps_code_and_has_its_front_matter_as_metadata(tmp_path: Path, read: Read) -> None:
    (tmp_path / "a.md").write_text(PAGE)
    (row,) = read({"kind": "markdown", "path": str(tmp_path / "*.md")})
    assert dict(row.metadata) == {"title": "A page", "tags": ["one", "two"], "path": str(tmp_path / "a.md")}
    assert row.text.startswith("Before.  After.\n\n# First")
    assert "<!-- kept -->" in row.text
    assert "hidden" not in row.text
    (row,) = read({"kind": "markdown", "path": str(tmp_path / "*.md"), "front_matter": ["title"]})
    assert "tags" not in row.metadata


def test_markdown_is_cut_at_its_headings(tmp_path: Path, read: Read) -> None:
    (tmp_path / "a.md").write_text(PAGE)
    rows = read({"kind": "markdown", "path": str(tmp_path / "a.md"), "documents": "section"})
    assert [row.metadata["section"] for row in rows] == ["", "First", "Second"]
    assert rows[2].text == "## Second\ntext\n"
    rows = read({"kind": "markdown", "path": str(tmp_path / "a.md"), "documents": "section", "section_level": 1})
    assert [row.metadata["section"] for row in rows] == ["", "First"]


# Web archives


def warc(*pages: tuple[str, bytes, bytes]) -> bytes:
    """An archive of responses: status, type, body."""
    sink = io.BytesIO()
    for number, (status, kind, body) in enumerate(pages):
        record = WarcRecord()
        record.init_headers(record_type=WarcRecordType.response)
        record.headers["WARC-Target-URI"] = f"https://example.org/{number}"
        record.headers["Content-Type"] = "application/http; msgtype=response"
        record.set_bytes_content(b"HTTP/1.1 " + status.encode() + b"\r\nContent-Type: " + kind + b"\r\n\r\n" + body)
        record.write(sink)
    return sink.getvalue()


ARTICLE = b"<html><body><nav>menu</nav><main><h1>Title</h1><p>Some caf\xe9 text that is long enough.</p></main></body>"
PAGES = (
    ("200 OK", b"text/html; charset=iso-8859-1", ARTICLE),
    ("404 Not Found", b"text/html", b"<p>gone"),
    ("200 OK", b"image/png", b"\x89PNG"),
    ("200 OK", b"text/html", b"<script>1</script>"),
    ("200 OK", b"text/html", b"<p>" + b"x" * 5000),
)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_pages_of_an_archive_become_their_main_text(tmp_path: Path, suffix: str) -> None:
    compress = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}[suffix]
    (tmp_path / f"a.warc{suffix}").write_bytes(compress(warc(*PAGES)))
    source = WarcSource(path=[str(tmp_path / "*")], max_page_bytes=4000)
    first, *others = everything(source)
    assert first.text == "Title\n\nSome caf\u00e9 text that is long enough."
    assert first.metadata["url"] == "https://example.org/0"
    assert reasons(others) == ["not_a_page", "not_html", "no_text"]
    assert [(row.row, row.kind) for row in others if isinstance(row, BadRow)] == [(5, "page_too_long")]
    assert "menu" in everything(source.model_copy(update={"main_content": False}))[0].text


def test_damage_in_an_archive_keeps_what_came_before(tmp_path: Path, read: Read) -> None:
    data = warc(PAGES[0], PAGES[0], PAGES[0])
    (tmp_path / "cut.warc.gz").write_bytes(b"".join(gzip.compress(part) for part in (data, data))[:-20])
    (tmp_path / "broken.warc").write_bytes(data.replace(b"WARC/1.1", b"XXXX", 2).replace(b"XXXX", b"WARC/1.1", 1))
    (tmp_path / "other.warc").write_bytes(b'{"text": "no archive at all"}\n')
    counts = {}
    for name in ("cut.warc.gz", "broken.warc", "other.warc"):
        *good, bad = read({"kind": "warc", "path": str(tmp_path / name)})
        assert (bad.row, bad.kind) == (None, "damaged_file")
        counts[name] = len(good)
    assert counts["cut.warc.gz"] >= 3
    assert counts["broken.warc"] == 1
    assert counts["other.warc"] == 0


def test_wet_records_are_texts_as_they_are(tmp_path: Path, read: Read) -> None:
    record, sink = WarcRecord(), io.BytesIO()
    record.init_headers(record_type=WarcRecordType.conversion)
    record.headers["WARC-Target-URI"] = "https://example.org/"
    record.headers["Content-Type"] = "text/plain"
    record.set_bytes_content("Caf\u00e9 <b>text</b>".encode())
    record.write(sink)
    (tmp_path / "a.wet").write_bytes(sink.getvalue())
    assert documents(read({"kind": "warc", "path": str(tmp_path / "a.wet")})) == ["Caf\u00e9 <b>text</b>"]


def test_a_real_archive_is_read_whole(shared_data: Path, read: Read) -> None:
    rows = read({"kind": "warc", "path": str(shared_data / "text/sample-0000.warc.gz")})
    assert len(documents(rows)) == len(rows) == 22
    assert all("<div" not in text and len(text) > 50 for text in documents(rows))


def test_without_the_packages_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Read) -> None:
    monkeypatch.setitem(sys.modules, "fastwarc", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"fastwarc[\s\S]*pip install 'rayllm\[warc\]'"):
        read({"kind": "warc", "path": str(tmp_path / "a.warc")})


# Code

MIT = "MIT License\n\nPermission is hereby granted, free of charge, to any person\n... The software is provided as is"
GPL = "GNU GENERAL PUBLIC LICENSE\nVersion 3, 29 June 2007\n... GNU Affero General Public License ..."


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    files = {
        "free/LICENSE": MIT,
        "free/src/a.rs": "fn a() {}",
        "free/src/b.py": "b = 1",
        "free/vendor/COPYING": GPL,
        "free/vendor/c.py": "c = 1",
        "free/vendor/d.py": "# SPDX-License-Identifier: Apache-2.0\nd = 1",
        "none/e.py": "e = 1",
        "dual/LICENSE-MIT": MIT,
        "dual/LICENSE-GPL": GPL,
        "dual/f.py": "f = 1",
        "none/Dockerfile": "FROM scratch",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def names(rows: list[Any]) -> list[str]:
    return [Path(row.source).name for row in rows if isinstance(row, Document)]


def test_languages_and_suffixes_choose_the_files_of_a_tree(tree: Path) -> None:
    def found(**settings: Any) -> list[str]:
        return names(everything(CodeSource.model_validate({"path": str(tree), **settings})))

    assert found() == found(languages=["python"]) == ["f.py", "b.py", "c.py", "d.py", "e.py"]
    assert found(languages=["rust", "dockerfile"]) == ["a.rs", "Dockerfile"]
    assert found(suffixes=[".rs"]) == ["a.rs"]


def test_code_is_taken_by_its_tag_or_the_nearest_licence_file(tree: Path) -> None:
    source = CodeSource.model_validate({"path": str(tree), "licenses": {"allow": ["mit", "Apache-*"]}})
    rows = everything(source)
    assert names(rows) == ["f.py", "b.py", "d.py"]
    assert sorted((Path(row.document.source).name, row.reason) for row in rows if isinstance(row, Unwanted)) == [
        ("c.py", "license_not_allowed"),
        ("e.py", "license_unknown"),
    ]
    licenses = {Path(row.source).name: row.metadata["license"] for row in rows if isinstance(row, Document)}
    assert licenses == {"f.py": "GPL-3.0 OR MIT", "b.py": "MIT", "d.py": "Apache-2.0"}
    assert rows[0].metadata["language"] == "python"


def test_left_out_rows_are_counted_by_reason_and_written_if_wanted(
    tmp_path: Path, jsonl: Jsonl, prepare: Callable[..., Any]
) -> None:
    rows = [{"text": f"row {i} of the file", "lic": "MIT" if i % 5 else "GPL-3.0"} for i in range(50)]
    source = {"kind": "jsonl", "path": jsonl("a.jsonl", rows), "licenses": {"field": "lic", "allow": ["MIT"]}}
    counts = prepare(tmp_path / "out", {"code": source}, keep_dropped=True)["code"]
    assert counts["dropped"] == {"license_not_allowed": 10}
    dropped = [row for path in (tmp_path / "out/dropped/code").glob("*") for row in pq.read_table(path).to_pylist()]
    assert {row["reason"] for row in dropped} == {"license_not_allowed"}
    assert sorted(row["text"] for row in dropped) == sorted(f"row {i} of the file" for i in range(0, 50, 5))
