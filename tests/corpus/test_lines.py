import bz2
import gzip
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from rayllm.corpus.documents import FileRef
from rayllm.corpus.files import lines as lines_module
from rayllm.corpus.files.lines import DamagedFile, read_chunks, read_lines, split_lines

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def ref(path: Path) -> FileRef:
    return FileRef(uri=str(path), label=path.name)


@given(st.lists(st.binary(max_size=6).map(lambda b: b.replace(b"\n", b"")), max_size=8), st.integers(1, 9))
def test_lines_do_not_depend_on_chunks(rows: list[bytes], size: int) -> None:
    data = b"".join(row + b"\n" for row in rows)
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    found = list(split_lines(iter(chunks), 100))
    assert [line for line, _ in found] == rows
    assert sum(length for _, length in found) == len(data)


@given(st.lists(st.integers(0, 12), max_size=12), st.integers(1, 30), st.booleans(), st.integers(1, 7))
def test_ranges_that_tile_a_file_yield_each_line_once(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], step: int, closed: bool, chunk: int
) -> None:
    rows = [bytes([97 + index]) * size for index, size in enumerate(sizes)]
    data = b"\n".join(rows) + (b"\n" if closed and rows else b"")
    path = tmp_path_factory.mktemp("lines") / "x.jsonl"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines_module, "CHUNK_BYTES", chunk)
        ranges = [(start, min(start + step, len(data))) for start in range(0, len(data), step)]
        found = [line for start, stop in ranges for line in read_lines(ref(path), start, stop, max_bytes=99)]
    expected = data.split(b"\n")
    assert found == (expected[:-1] if expected[-1] == b"" else expected)


def test_only_newline_ends_a_line(tmp_path: Path) -> None:
    text = '{"text": "a\u2028b\u0085c\x0bd"}\r\n{"x": 1}'
    (tmp_path / "a").write_bytes(text.encode())
    assert [line and line.decode() for line in read_lines(ref(tmp_path / "a"), max_bytes=99)] == text.split("\n")


def test_lines_that_are_too_long_are_skipped_without_being_held() -> None:
    chunks = [b"ab\n", *[b"x" * 10] * 50, b"\ncd\n", b"y" * 30]
    assert [line for line, _ in split_lines(iter(chunks), 20)] == [b"ab", None, b"cd", None]
    assert sum(length for _, length in split_lines(iter(chunks), 20)) == sum(map(len, chunks))


@pytest.mark.parametrize("suffix", COMPRESS)
def test_every_member_of_a_compressed_file_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(COMPRESS[suffix](b"one\n" * 1000) + COMPRESS[suffix](b"two\n"))
    assert b"".join(read_chunks(ref(path))) == b"one\n" * 1000 + b"two\n"


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_cut_off_compressed_file_is_damaged_after_its_good_lines(tmp_path: Path, suffix: str) -> None:
    numbers = Random(0)
    noise = b"".join(b"%d\n" % numbers.getrandbits(40) for _ in range(150_000))
    data = COMPRESS[suffix](noise)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data[: len(data) * 4 // 5])
    found: list[bytes | None] = []

    def read() -> None:
        for line in read_lines(ref(path), max_bytes=99):
            found.append(line)

    with pytest.raises(DamagedFile):
        read()
    assert found == noise.split(b"\n")[: len(found)]
    assert len(found) > 10_000


@pytest.mark.parametrize("suffix", COMPRESS)
def test_bytes_that_are_not_compressed_at_all_are_damaged(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"plain text, not compressed")
    with pytest.raises(DamagedFile):
        list(read_chunks(ref(path)))


def test_a_gzip_file_may_be_padded_with_zeros(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"x") + bytes(512))
    assert b"".join(read_chunks(ref(tmp_path / "a.gz"))) == b"x"
