"""Shards: what is written is read back, at any position; what is damaged is named."""

import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayllm.core.errors import ArtifactDamaged, DataError
from rayllm.data.shards.format import DTypeName, PackedIndex, dtype_for
from rayllm.data.shards.packed import PackedData
from rayllm.data.shards.writer import ShardWriter

SEPARATOR = 0


def write_shard(directory: Path, name: str, documents: Sequence[Sequence[int]], dtype: DTypeName = "uint16"):
    """One shard, a document at a time; the text of a document is as long as its ids."""
    with ShardWriter(str(directory), name, dtype) as writer:
        for ids in documents:
            writer.append(np.array([SEPARATOR, *ids]), np.array([0]), len(ids))
    return writer.record


def write_packed(directory: Path, shards: Sequence[Sequence[Sequence[int]]], dtype: DTypeName = "uint16") -> PackedData:
    records = [write_shard(directory, f"train/web/{i:05d}", docs, dtype) for i, docs in enumerate(shards)]
    index = PackedIndex(
        dtype=dtype,
        vocab_size=1 << (16 if dtype == "uint16" else 17),
        tokenizer_sha256="a" * 64,
        separator_id=SEPARATOR,
        splits={"train": {"web": records}},
    )
    index.write(str(directory))
    return PackedData.open(str(directory))


def flat(shards: Sequence[Sequence[Sequence[int]]]) -> list[int]:
    return [token for docs in shards for ids in docs for token in (SEPARATOR, *ids)]


ids = st.integers(1, 65_535)
shard_lists = st.lists(st.lists(st.lists(ids, max_size=6), max_size=4), max_size=4)


@settings(max_examples=40, deadline=None)
@given(shards=shard_lists, data=st.data())
def test_every_slice_equals_the_slice_of_all_tokens(tmp_path_factory, shards, data):
    stream = write_packed(tmp_path_factory.mktemp("packed"), shards).stream("train", "web")
    expected = flat(shards)
    start = data.draw(st.integers(0, len(expected)))
    count = data.draw(st.integers(0, len(expected) - start))
    assert stream.read(start, count).tolist() == expected[start : start + count]
    assert stream.num_tokens == len(expected)
    assert stream.num_documents == sum(map(len, shards))
    assert stream.num_bytes == sum(len(doc) for docs in shards for doc in docs)


@settings(max_examples=20, deadline=None)
@given(shards=shard_lists)
def test_a_separator_stands_at_every_document_start(tmp_path_factory, shards):
    stream = write_packed(tmp_path_factory.mktemp("packed"), shards).stream("train", "web")
    tokens = stream.read(0, stream.num_tokens)
    assert stream.document_starts().tolist() == np.flatnonzero(tokens == SEPARATOR).tolist()


def test_reads_are_int64_and_ids_above_uint16_survive(tmp_path):
    stream = write_packed(tmp_path, [[[70_000, 131_071]]], "uint32").stream("train", "web")
    tokens = stream.read(0, 3)
    assert tokens.dtype == np.int64
    assert tokens.tolist() == [0, 70_000, 131_071]


def test_the_vocabulary_chooses_the_smallest_dtype():
    assert [dtype_for(size) for size in (300, 65_536, 65_537)] == ["uint16", "uint16", "uint32"]


def test_files_are_little_endian_on_disk(tmp_path):
    write_packed(tmp_path, [[[258]]])
    assert (tmp_path / "train/web/00000.tokens").read_bytes() == b"\x00\x00\x02\x01"
    assert (tmp_path / "train/web/00000.bounds").read_bytes() == bytes(8)


def test_a_read_beyond_the_end_is_refused(tmp_path):
    stream = write_packed(tmp_path, [[[1, 2, 3]]]).stream("train", "web")
    for start, count in ((0, 5), (4, 1), (-1, 1)):
        with pytest.raises(ValueError, match="not within 0 to 4"):
            stream.read(start, count)


@pytest.mark.parametrize("ending", ["tokens", "bounds"])
def test_a_truncated_shard_is_named(tmp_path, ending):
    packed = write_packed(tmp_path, [[[1, 2, 3]], [[4, 5]]])
    path = tmp_path / f"train/web/00001.{ending}"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactDamaged, match=f"00001.{ending}"):
        packed.stream("train", "web").check()


def test_a_missing_shard_is_named(tmp_path):
    packed = write_packed(tmp_path, [[[1, 2, 3]]])
    (tmp_path / "train/web/00000.tokens").unlink()
    with pytest.raises(ArtifactDamaged, match=r"00000\.tokens"):
        packed.stream("train", "web").read(0, 1)


def test_an_index_with_the_other_dtype_is_refused(tmp_path):
    write_packed(tmp_path, [[[1, 2, 3]]])
    index = json.loads((tmp_path / "packed.json").read_text())
    (tmp_path / "packed.json").write_text(json.dumps(index | {"dtype": "uint32"}))
    with pytest.raises(ArtifactDamaged, match=r"8 bytes; 4 numbers of uint32 are 16"):
        PackedData.open(str(tmp_path)).stream("train", "web").read(0, 1)


def test_a_directory_without_an_index_is_not_packed_data(tmp_path):
    with pytest.raises(ArtifactDamaged, match=r"packed\.json is missing"):
        PackedData.open(str(tmp_path))
    (tmp_path / "packed.json").write_text('{"dtype": "int8"}')
    with pytest.raises(ArtifactDamaged, match="dtype"):
        PackedData.open(str(tmp_path))


def test_an_unknown_domain_lists_those_that_exist(tmp_path):
    with pytest.raises(DataError, match="there are train/web"):
        write_packed(tmp_path, [[[1]]]).stream("train", "wbe")


def test_another_tokenizer_is_refused_with_both_hashes(tmp_path):
    packed = write_packed(tmp_path, [[[1]]])
    packed.check_tokenizer("a" * 64)
    with pytest.raises(ArtifactDamaged, match=f"{'b' * 64}; expected {'a' * 64}"):
        packed.check_tokenizer("b" * 64)


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    def fail_while_writing() -> None:
        with ShardWriter(str(tmp_path), "train/web/00000", "uint16") as writer:
            writer.append(np.array([0, 1]), np.array([0]), 1)
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail_while_writing()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_record_holds_the_hashes_of_the_files(tmp_path):
    import hashlib

    record = write_shard(tmp_path, "train/web/00000", [[1, 2], [3]])
    for ending, sha256 in (("tokens", record.tokens_sha256), ("bounds", record.bounds_sha256)):
        assert hashlib.sha256((tmp_path / f"train/web/00000.{ending}").read_bytes()).hexdigest() == sha256


def test_a_pickled_stream_reads_the_same_and_carries_no_tokens(tmp_path):
    stream = write_packed(tmp_path, [[list(range(1, 50_000))]]).stream("train", "web")
    expected = stream.read(0, 100).tolist()
    data = pickle.dumps(stream)
    assert len(data) < 2_000
    assert pickle.loads(data).read(0, 100).tolist() == expected  # noqa: S301  our own bytes, made on the line above


masked = st.lists(
    st.lists(st.tuples(st.lists(st.tuples(ids, st.booleans()), max_size=6), st.booleans()), max_size=4), max_size=4
)


@settings(max_examples=40, deadline=None)
@given(shards=masked, data=st.data())
def test_every_slice_of_the_mask_equals_the_slice_of_all_of_it(tmp_path_factory, shards, data):
    directory = tmp_path_factory.mktemp("masked")
    records, expected = [], []
    for number, documents in enumerate(shards):
        with ShardWriter(str(directory), f"train/web/{number:05d}", "uint16") as writer:
            for tokens, has_mask in documents:
                learnt = np.array([True, *(counts for _, counts in tokens)])
                writer.append(
                    np.array([SEPARATOR, *(i for i, _ in tokens)]), np.array([0]), 0, learnt if has_mask else None
                )
                expected += learnt.tolist() if has_mask else [True] * len(learnt)
        records.append(writer.record)
        assert (writer.record.mask_sha256 is not None) == any(has_mask for _, has_mask in documents)
    PackedIndex(
        dtype="uint16", vocab_size=300, tokenizer_sha256="a", separator_id=0, splits={"train": {"web": records}}
    ).write(str(directory))
    stream = PackedData.open(str(directory)).stream("train", "web")
    stream.check()
    start = data.draw(st.integers(0, len(expected)))
    count = data.draw(st.integers(0, len(expected) - start))
    assert stream.read_mask(start, count).tolist() == expected[start : start + count]
    assert stream.has_mask == any(record.mask_sha256 for record in records)


def test_a_mask_of_another_length_than_its_tokens_is_refused(tmp_path):
    with (
        pytest.raises(ValueError, match="a loss mask of 1 for 2 tokens"),
        ShardWriter(str(tmp_path), "train/web/00000", "uint16") as writer,
    ):
        writer.append(np.array([0, 5]), np.array([0]), 1, np.array([True]))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_shards_without_a_mask_keep_the_index_that_they_had(tmp_path):
    write_packed(tmp_path, [[[1, 2, 3]]])
    assert "mask" not in (tmp_path / "packed.json").read_text()
    assert not PackedData.open(str(tmp_path)).stream("train", "web").has_mask


def test_a_truncated_mask_is_named(tmp_path):
    with ShardWriter(str(tmp_path), "train/web/00000", "uint16") as writer:
        writer.append(np.array([0, 5]), np.array([0]), 1, np.array([False, True]))
    assert [file.path for file in writer.record.files("uint16")] == [
        f"train/web/00000.{end}" for end in ("tokens", "bounds", "mask")
    ]
    index = {"dtype": "uint16", "vocab_size": 9, "tokenizer_sha256": "a", "separator_id": 0}
    PackedIndex(**index, splits={"train": {"web": [writer.record]}}).write(str(tmp_path))
    (tmp_path / "train/web/00000.mask").write_bytes(b"\x01")
    with pytest.raises(ArtifactDamaged, match=r"00000\.mask"):
        PackedData.open(str(tmp_path)).stream("train", "web").check()
