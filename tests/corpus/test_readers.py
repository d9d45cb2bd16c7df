import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from rayllm.core.errors import DataError
from rayllm.corpus.documents import BadRow, Document

Read = Callable[..., list[Any]]


def kinds(rows: list[Any]) -> list[tuple[int | None, str]]:
    return [(row.row, row.kind) for row in rows if isinstance(row, BadRow)]


def documents(rows: list[Any]) -> list[str]:
    return [row.text for row in rows if isinstance(row, Document)]


BAD_LINES = {
    b'{"text": "x"': "malformed_json",
    b'{"text": "\xff"}': "invalid_utf8",
    b'{"text": "\\ud800"}': "invalid_utf8",
    b'{"text": 3}': "wrong_type",
    b'{"text": null}': "wrong_type",
    b'["text"]': "wrong_type",
    b'{"other": "x"}': "missing_field",
    b'{"text": "a\x00b"}': "malformed_json",
    b"[" * 100_000: "malformed_json",
    b'{"text": "' + b"x" * 2_000_000 + b'"}': "line_too_long",
}


def test_bad_lines_are_named_and_numbered_and_the_others_are_read(tmp_path: Path, read: Read) -> None:
    lines = [b'{"text": "first"}', *BAD_LINES, b"", b'{"text": "a\xe2\x80\xa8b"}']
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    rows = read({"kind": "jsonl", "path": str(tmp_path / "a.jsonl")})
    assert documents(rows) == ["first", "a\u2028b"]
    assert kinds(rows) == [(number + 2, kind) for number, kind in enumerate(BAD_LINES.values())]


def test_a_missing_field_names_those_that_are_there(read: Read, jsonl: Callable[..., str]) -> None:
    (row,) = read({"kind": "jsonl", "path": jsonl("a.jsonl", [{"url": "u", "body": "b"}])})
    assert row.detail == "no field 'text'; fields here: url, body"


def test_templates_ids_and_metadata_come_from_fields(read: Read, jsonl: Callable[..., str]) -> None:
    path = jsonl("a.jsonl", [{"q": "How?", "a": 42, "meta": {"id": 7}, "level": 3}, {"q": "Why?"}])
    source = {"kind": "jsonl", "path": path, "template": "{q}\n= {a}", "id": "meta.id", "metadata": ["level"]}
    good, bad = read(source)
    assert (good.text, good.id, dict(good.metadata), good.source) == ("How?\n= 42", "7", {"level": 3}, path)
    assert bad.kind == "missing_field"


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_byte_order_marks_and_compression_are_transparent(tmp_path: Path, read: Read, suffix: str) -> None:
    data = b'\xef\xbb\xbf{"text": "one"}\r\n{"text": "two"}'
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes({"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}[suffix](data))
    assert documents(read({"kind": "jsonl", "path": str(path)})) == ["one", "two"]


def test_ranges_of_a_large_file_read_what_one_reader_reads(read: Read, jsonl: Callable[..., str]) -> None:
    path = jsonl("a.jsonl", [{"text": "x" * (number % 50)} for number in range(200)])
    source = {"kind": "jsonl", "path": path}
    assert documents(read(source, unit_bytes=97)) == documents(read(source)) == ["x" * (n % 50) for n in range(200)]


def test_a_cut_off_gzip_keeps_what_came_before(tmp_path: Path, read: Read) -> None:
    lines = b"".join(json.dumps({"text": str(number * 7919)}).encode() + b"\n" for number in range(50_000))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines)[:-5000])
    rows = read({"kind": "jsonl", "path": str(tmp_path / "a.jsonl.gz")})
    assert kinds(rows) == [(None, "damaged_file")]
    assert len(documents(rows)) > 40_000


def write_parquet(path: Path, texts: list[Any], row_group_size: int = 10) -> str:
    pq.write_table(pa.table({"text": texts, "n": list(range(len(texts)))}), path, row_group_size=row_group_size)
    return str(path)


def test_parquet_row_groups_are_units(tmp_path: Path, read: Read) -> None:
    texts = [f"text {number}" for number in range(35)]
    source = {"kind": "parquet", "path": write_parquet(tmp_path / "a.parquet", texts), "metadata": ["n"]}
    rows = read(source, unit_bytes=1)
    assert documents(rows) == texts
    assert [row.metadata["n"] for row in rows] == list(range(35))


def test_bad_parquet_rows_are_numbered_through_the_file(tmp_path: Path, read: Read) -> None:
    texts = ["a", None, "b"] * 5
    path = write_parquet(tmp_path / "a.parquet", texts, row_group_size=4)
    assert kinds(read({"kind": "parquet", "path": path}, unit_bytes=1)) == [
        (number, "wrong_type") for number in (2, 5, 8, 11, 14)
    ]


def test_invalid_utf8_in_parquet_costs_its_own_row_only(tmp_path: Path, read: Read) -> None:
    offsets, data = pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffb")
    array = pa.StringArray.from_buffers(3, offsets, data)
    pq.write_table(pa.table({"text": array}), tmp_path / "a.parquet")
    rows = read({"kind": "parquet", "path": str(tmp_path / "a.parquet")})
    assert documents(rows) == ["a", "b"]
    assert [row for row, _ in kinds(rows)] == [2]


@pytest.mark.parametrize("keep", [100, 2000])
def test_a_cut_off_parquet_is_a_bad_file(tmp_path: Path, read: Read, keep: int) -> None:
    path = Path(write_parquet(tmp_path / "a.parquet", ["x" * number for number in range(500)]))
    path.write_bytes(path.read_bytes()[:keep])
    assert kinds(read({"kind": "parquet", "path": str(path)})) == [(None, "damaged_file")]


def test_a_damaged_page_loses_the_rest_of_its_unit_only(tmp_path: Path, read: Read) -> None:
    path = Path(write_parquet(tmp_path / "a.parquet", [f"{n} " + "x" * n for n in range(400)], row_group_size=100))
    data = bytearray(path.read_bytes())
    offset = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data[offset : offset + 40] = bytes(40)
    path.write_bytes(data)
    rows = read({"kind": "parquet", "path": str(path)}, unit_bytes=1)
    assert kinds(rows) == [(None, "damaged_file")]
    assert len(documents(rows)) == 300


def test_text_is_cut_by_file_line_or_separator(tmp_path: Path, read: Read) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n<|endoftext|>\n\nthree\n")
    source = {"kind": "text", "path": str(tmp_path / "a.txt")}
    assert documents(read(source)) == ["one\ntwo\n<|endoftext|>\n\nthree"]
    assert documents(read({**source, "documents": "separator"})) == ["one\ntwo", "\nthree"]
    assert documents(read({**source, "documents": "line"})) == ["one", "two", "<|endoftext|>", "three"]


def test_a_book_is_cut_at_blank_lines_and_nothing_is_lost(tmp_path: Path, read: Read) -> None:
    book = "\n\n".join(f"paragraph {number}\n" + "word " * 20 for number in range(40))
    (tmp_path / "a.txt").write_text(book)
    pieces = documents(read({"kind": "text", "path": str(tmp_path / "a.txt"), "piece_bytes": 500}))
    assert "\n".join(pieces) == book
    assert all(piece.startswith("paragraph") and len(piece) < 700 for piece in pieces)
    assert len(documents(read({"kind": "text", "path": str(tmp_path / "a.txt"), "piece_bytes": None}))) == 1


def test_binary_and_latin_files_are_bad_rows(tmp_path: Path, read: Read) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\0b")
    (tmp_path / "b.txt").write_bytes("caf\u00e9".encode("latin-1"))
    (tmp_path / "c.txt").write_bytes(b"fine")
    rows = read({"kind": "text", "path": str(tmp_path / "*.txt")})
    assert documents(rows) == ["fine"]
    assert [kind for _, kind in kinds(rows)] == ["binary", "invalid_utf8"]


def test_code_trees_are_filtered_and_labelled(tmp_path: Path, read: Read) -> None:
    for name, text in {"a.py": "x = 1", "b.txt": "no", "tests/c.py": "no", "d.py": "", "e.py": "y" * 300}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "f.py").write_bytes(b"\0")
    source = {"kind": "code", "path": str(tmp_path), "exclude": ["tests"], "max_file_bytes": 200}
    rows = read(source)
    assert documents(rows) == ["x = 1"]
    assert kinds(rows) == [(None, "binary")]


def test_a_file_that_cannot_be_opened_is_an_error_with_its_name(
    tmp_path: Path, read: Read, jsonl: Callable[..., str]
) -> None:
    path = jsonl("a.jsonl", [{"text": "x"}])

    def listed_then_gone() -> None:
        from rayllm.corpus.readers import read_unit
        from rayllm.corpus.sources import JsonlSource, list_units

        source = JsonlSource(path=[path])
        (unit,) = list_units({"d": [source]}, "train", 1000)
        Path(path).unlink()
        list(read_unit(unit, source, max_row_bytes=100, seed=1))

    with pytest.raises(DataError, match="a source cannot be read"):
        listed_then_gone()


def test_the_standard_library_is_code_without_tests(read: Read) -> None:
    rows = read({"kind": "python_stdlib"})
    labels = {row.source.partition("/")[2] for row in rows}
    assert {"abc.py", "json/decoder.py"} <= labels
    assert not any("/tests/" in f"/{label}" or "site-packages" in label for label in labels)
    assert len(documents(rows)) > 400


def test_installed_prose_keeps_to_its_share_and_repeats_no_paragraph(read: Read) -> None:
    rows = read(
        {"kind": "installed_prose", "max_bytes": 300_000, "exclude": ["transformers", "torch", "ray"]},
        unit_bytes=1 << 30,
    )
    found = documents(rows)
    assert 100_000 < sum(len(text.encode()) for text in found) <= 300_000
    paragraphs = [paragraph for text in found for paragraph in text.split("\n\n")]
    assert len(paragraphs) == len(set(paragraphs))


def test_real_files_of_every_format_are_read_whole(shared_data: Path, read: Read) -> None:
    expected = {
        ("jsonl", "text/c4_en.jsonl"): 1562,
        ("jsonl", "text/openwebtext.jsonl.gz"): 743,
        ("parquet", "text/openstax.parquet"): 675,
    }
    for (kind, path), count in expected.items():
        rows = read({"kind": kind, "path": str(shared_data / path)}, unit_bytes=200_000)
        assert len(documents(rows)) == count
        assert not kinds(rows)
    stories = {"kind": "text", "path": str(shared_data / "text/tinystories.txt"), "documents": "separator"}
    assert len(documents(read(stories))) == 1763
    gsm8k = {"kind": "jsonl", "path": str(shared_data / "math/gsm8k_train.jsonl"), "template": "{question}\n{answer}"}
    assert all("\n####" in text for text in documents(read(gsm8k)))
