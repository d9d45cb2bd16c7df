"""Files that are broken, endless or explosive: each is named with its reason, the rest is read in bounded memory."""

import bz2
import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from rayllm.core.errors import DataError
from rayllm.corpus.documents import BadRow, Document, FileRef
from rayllm.corpus.files.lines import EXPANSION_FREE_BYTES, DamagedFile, read_chunks

Read = Callable[..., list[Any]]
MEMORY_LIMIT_MB = 200
ZEROS = bytes(16 << 20)

#: Reads a source in a process of its own and tells by how much its memory grew, in MB, and what came out.
MEASURE = """
import json, resource, sys
from pydantic import TypeAdapter
from rayllm.corpus.documents import BadRow, Document
from rayllm.corpus.readers import read_unit
from rayllm.corpus.sources import Source, list_units

def read(source):
    parsed, documents, bad = TypeAdapter(Source).validate_python(source), 0, []
    for unit in list_units({"d": [parsed]}, "train", 8 << 20):
        for row in read_unit(unit, parsed, max_row_bytes=16 << 20, seed=0):
            documents += isinstance(row, Document)
            bad += [row.kind] if isinstance(row, BadRow) else []
    return documents, bad

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

warm, source = map(json.loads, sys.argv[1:])
read(warm)
before = peak()
documents, bad = read(source)
print(json.dumps([peak() - before, documents, bad]))
"""


def measured(source: dict[str, Any], warm: Path) -> tuple[int, list[str]]:
    """Documents and bad rows of a source, whose reading must keep to the limit of memory."""
    small = {"kind": "text", "path": str(warm / "warm.txt")}
    (warm / "warm.txt").write_text("x")
    command = [sys.executable, "-c", MEASURE, json.dumps(small), json.dumps(source)]
    growth, documents, bad = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert growth < MEMORY_LIMIT_MB, f"{growth:.0f} MB"
    return documents, bad


def zstd_bomb() -> bytes:
    """2 GiB in one frame of 64 KiB."""
    compressor = zstandard.ZstdCompressor(1).compressobj()
    return b"".join([*(compressor.compress(ZEROS) for _ in range(128)), compressor.flush()])


BOMBS: dict[str, Callable[[], bytes]] = {
    ".gz": lambda: gzip.compress(ZEROS, 1) * 128,
    ".bz2": lambda: bz2.compress(ZEROS) * 128,
    ".zst": zstd_bomb,
}


@pytest.mark.fault("P8", "a compressed file that becomes gigabytes", "named, not expanded")
@pytest.mark.parametrize("suffix", BOMBS)
@pytest.mark.parametrize("kind", ["jsonl", "text"])
def test_a_file_that_becomes_gigabytes_is_named_and_not_expanded(tmp_path: Path, suffix: str, kind: str) -> None:
    path = tmp_path / f"bomb{suffix}"
    path.write_bytes(BOMBS[suffix]())
    assert path.stat().st_size < 10 << 20
    assert measured({"kind": kind, "path": str(path)}, tmp_path) == (0, ["compression_bomb"])


def test_what_came_before_a_bomb_is_kept_and_the_next_file_is_read(tmp_path: Path, read: Read) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "first"}\n') + BOMBS[".gz"]())
    (tmp_path / "b.jsonl").write_text('{"text": "next"}\n')
    rows = read({"kind": "jsonl", "path": str(tmp_path / "*")}, unit_bytes=1 << 30)
    assert [row.text for row in rows if isinstance(row, Document)] == ["first", "next"]
    (bad,) = [row for row in rows if isinstance(row, BadRow)]
    assert (bad.source, bad.kind) == (str(tmp_path / "a.jsonl.gz"), "compression_bomb")
    assert "more than 200 times as many" in bad.detail


def test_ordinary_repetition_is_no_bomb(tmp_path: Path) -> None:
    line = json.dumps({"text": "the same line again", "n": 12345}).encode() + b"\n"
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(line * ((EXPANSION_FREE_BYTES - 1) // len(line))))
    assert sum(map(len, read_chunks(FileRef(uri=str(path), label="a")))) > EXPANSION_FREE_BYTES - len(line) - 1
    noisy = tmp_path / "b.gz"
    noisy.write_bytes(gzip.compress(b"".join(b"%d %s\n" % (i, b"x" * 500) for i in range(150_000)), 1))
    assert sum(map(len, read_chunks(FileRef(uri=str(noisy), label="b")))) > EXPANSION_FREE_BYTES


@pytest.mark.fault("P8", "half a gigabyte in one line", "named; its neighbours are read")
@pytest.mark.parametrize("kind", ["jsonl", "text", "code"])
def test_half_a_gigabyte_in_one_line_is_named_and_its_neighbours_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "long.py"
    with path.open("wb") as file:
        file.write(b'{"text": "one"}\n{"text": "')
        file.truncate(500 << 20)  # a hole: the disk holds nothing
        file.seek(0, 2)
        file.write(b'"}\n{"text": "two"}\n')
    source = {"kind": kind, "path": str(tmp_path if kind == "code" else path)}
    expected = {"jsonl": (2, ["line_too_long"]), "text": (2, ["line_too_long"]), "code": (0, ["file_too_long"])}
    settings = {"max_file_bytes": "1Gi"} if kind == "code" else {}
    assert measured({**source, **settings}, tmp_path) == expected[kind]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_huge_block_of_rows_is_read_in_bounded_memory(tmp_path: Path, kind: str) -> None:
    table = pa.table({"text": [bytes(range(32, 127)).decode() * 400 + str(i) for i in range(10_000)]})
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":  # 380 MB in one row group
        pq.write_table(table, path, compression="none", row_group_size=1 << 20, use_dictionary=False)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=1000)
    assert measured({"kind": kind, "path": str(path)}, tmp_path) == (10_000, [])


def test_a_row_group_that_expands_too_much_is_named_and_the_others_are_read(tmp_path: Path, read: Read) -> None:
    path = tmp_path / "a.parquet"
    schema = pa.schema([("text", pa.string())])
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:
        for texts in (["one"], ["x" * (1 << 20)] * 100, ["two"]):
            writer.write_table(pa.table({"text": texts}))
    rows = read({"kind": "parquet", "path": str(path)})
    assert [row.text for row in rows if isinstance(row, Document)] == ["one", "two"]
    assert [row.kind for row in rows if isinstance(row, BadRow)] == ["compression_bomb"]


def test_a_parquet_file_with_a_broken_footer_is_named(tmp_path: Path, read: Read) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x"] * 1000}), path)
    data = bytearray(path.read_bytes())
    data[-200:-8] = b"\xff" * 192
    path.write_bytes(data)
    (bad,) = read({"kind": "parquet", "path": str(path)})
    assert (bad.source, bad.row, bad.kind) == (str(path), None, "damaged_file")


def test_zstd_frames_to_be_skipped_are_skipped(tmp_path: Path) -> None:
    frame = zstandard.ZstdCompressor().compress(b"text")
    path = tmp_path / "a.zst"
    path.write_bytes(b"\x50\x2a\x4d\x18\x03\0\0\0abc" + frame + b"\x51\x2a\x4d\x18\0\0\0\0" + frame)
    assert b"".join(read_chunks(FileRef(uri=str(path), label="a"))) == b"texttext"


@pytest.mark.fault("P8", "a bit of a compressed file flipped", "named as damage")
@pytest.mark.parametrize("suffix", BOMBS)
def test_a_flipped_bit_in_a_compressed_file_is_damage(tmp_path: Path, suffix: str) -> None:
    data = bytes(range(256)) * 4000
    compress: dict[str, Callable[[bytes], bytes]] = {
        ".gz": gzip.compress,
        ".bz2": bz2.compress,
        ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    }
    stored = bytearray(compress[suffix](data))
    stored[len(stored) // 2] ^= 16
    path = tmp_path / f"a{suffix}"
    path.write_bytes(stored)
    with pytest.raises(DamagedFile):
        list(read_chunks(FileRef(uri=str(path), label="a")))


def test_a_stage_bears_a_few_damaged_files_and_fails_beyond_the_share(
    tmp_path: Path, prepare: Callable[..., Any]
) -> None:
    good = [json.dumps({"text": f"row {i} of the good file"}) + "\n" for i in range(300)]
    (tmp_path / "good.jsonl").write_text("".join(good))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress("".join(good).encode())[:-100])
    (tmp_path / "bomb.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(ZEROS * 5))
    (tmp_path / "latin.jsonl").write_bytes('{"text": "caf\u00e9"}\n'.encode("latin-1") * 12)
    sources = {"web": {"kind": "jsonl", "path": str(tmp_path / "*.jsonl*")}}
    counts = prepare(tmp_path / "out", sources, max_bad_frac=0.05)["web"]
    assert counts["quarantined"] == {"invalid_utf8": 12, "compression_bomb": 1, "damaged_file": 1}
    lines = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    named = {Path(line["source"]).name: line["reason"].partition(":")[0] for line in lines}
    assert named == {
        "cut.jsonl.gz": "damaged_file",
        "bomb.jsonl.zst": "compression_bomb",
        "latin.jsonl": "invalid_utf8",
    }
    with pytest.raises(DataError, match=r"14 of \d+ rows of a source cannot be used"):
        prepare(tmp_path / "out", sources, max_bad_frac=0.01)
