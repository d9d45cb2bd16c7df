"""Best-fit indexes on disk: found again, made again when they do not hold, refused if a plan has others."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from packing_fixture import make_packed

from rayllm.core.errors import DataError
from rayllm.data.batches import open_reader
from rayllm.data.mixing.plan import Plan, StageRow
from rayllm.data.packing import row_index
from rayllm.data.packing.best_fit import pack_documents
from rayllm.data.packing.row_index import describe_fill, index_row, open_index
from rayllm.data.shards.packed import PackedData


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return Path(make_packed(tmp_path_factory.mktemp("packed"), count=60).uri)


@pytest.fixture
def packed(original, tmp_path) -> PackedData:
    shutil.copytree(original, tmp_path / "packed")
    return PackedData.open(str(tmp_path / "packed"), cache_dir=tmp_path / "cache")


@pytest.fixture
def made(monkeypatch) -> list[int]:
    """The lengths for which an index was worked out."""
    found: list[int] = []

    def pack(starts, num_tokens, seq_len):
        found.append(seq_len)
        return pack_documents(starts, num_tokens, seq_len)

    monkeypatch.setattr(row_index, "pack_documents", pack)
    return found


def beside(packed: PackedData, seq_len: int = 64) -> Path:
    return Path(packed.uri) / "index" / "train" / "math" / f"best_fit-{seq_len}.safetensors"


def same(a: row_index.BestFitIndex, b: row_index.BestFitIndex) -> bool:
    names = ("first_segment", "start", "length")
    return a.sha256 == b.sha256 and all(np.array_equal(getattr(a.table, n), getattr(b.table, n)) for n in names)


def test_an_index_is_made_once_for_each_length_and_lies_beside_the_shards(packed, made):
    first = open_index(packed, "train", "math", 64)
    assert beside(packed).is_file()
    again = open_index(packed, "train", "math", 64)
    assert same(first, again)
    assert open_index(packed, "train", "math", 32).sha256 != first.sha256
    assert made == [64, 32]


def test_the_table_is_that_of_the_documents(packed):
    stream = packed.stream("train", "math")
    open_index(packed, "train", "math", 64)
    expected = pack_documents(stream.document_starts(), stream.num_tokens, 64)
    found = open_index(packed, "train", "math", 64).table
    assert found.first_segment.tolist() == expected.first_segment.tolist()
    assert (found.start.tolist(), found.length.tolist()) == (expected.start.tolist(), expected.length.tolist())


@pytest.mark.parametrize("damage", ["byte", "short", "header", "empty", "other"])
def test_an_index_that_does_not_hold_is_made_again(packed, made, damage):
    first = open_index(packed, "train", "math", 64)
    path = beside(packed)
    data = path.read_bytes()
    if damage == "other":  # an index of another domain under this name
        open_index(packed, "train", "code", 64)
        shutil.copy(Path(packed.uri) / "index/train/code/best_fit-64.safetensors", path)
        made.clear()
        made.append(64)
    else:
        damaged = {"byte": data[:-3] + b"\x07" + data[-2:], "short": data[:-8], "header": b"\x00" * 40, "empty": b""}
        path.write_bytes(damaged[damage])
    assert same(open_index(packed, "train", "math", 64), first)
    assert made == [64, 64]
    assert path.read_bytes() == data


def test_read_only_data_keeps_its_index_in_the_cache(packed, made, monkeypatch):
    monkeypatch.setattr(row_index.os, "access", lambda path, mode: str(path).startswith(str(packed.cache_dir)))
    first = open_index(packed, "train", "math", 64)
    assert not beside(packed).exists()
    assert len(list(packed.cache_dir.rglob("*.safetensors"))) == 1
    assert same(open_index(packed, "train", "math", 64), first)
    assert made == [64]


def test_remote_data_keeps_its_index_in_the_cache(original, tmp_path, made):
    import fsspec

    fsspec.filesystem("memory").put(str(original), "/row-index-test", recursive=True)
    remote = PackedData.open("memory://row-index-test", cache_dir=tmp_path / "cache")
    expected = open_index(PackedData.open(str(original)), "train", "math", 64)
    made.clear()
    assert same(open_index(remote, "train", "math", 64), expected)
    assert same(open_index(remote, "train", "math", 64), expected)
    assert made == [64]


def make_plan(packed: PackedData) -> Plan:
    sizes = {name: packed.stream("train", name).num_tokens for name in packed.domains("train")}
    stages = (StageRow(3, 32, 4, (512, 512)), StageRow(3, 64, 2, (512, 512)))
    return Plan(1, sizes, stages, "best_fit", (index_row(packed, "train", 32), index_row(packed, "train", 64)))


def test_a_plan_reads_the_indexes_that_it_was_made_with(packed):
    reader = open_reader(packed, make_plan(packed))
    batch = reader.rows(4, range(2))
    assert batch.input_ids.shape == (2, 64)
    assert (batch.input_ids[:, 0] == packed.separator_id).any()


def test_a_plan_with_other_indexes_is_refused(packed):
    plan = make_plan(packed)
    first, second = plan.indexes
    other = dataclasses.replace(second, sha256=(second.sha256[0], "0" * 64))
    with pytest.raises(DataError, match="not the one that this run was planned with") as caught:
        open_reader(packed, dataclasses.replace(plan, indexes=(first, other)))
    assert "train/math" in caught.value.where


def test_the_plan_survives_json_with_its_indexes(packed):
    plan = make_plan(packed)
    assert Plan.from_json(plan.to_json()) == plan


def test_cut_documents_and_padding_are_told_for_every_length_and_domain(packed):
    plan = make_plan(packed)
    lines = describe_fill(packed, plan)
    assert [line.partition(":")[0] for line in lines] == [
        f"best_fit packing of {domain}" for _ in range(2) for domain in ("code", "math")
    ]
    assert [f"rows of {length} tokens" in line for length, line in zip((32, 32, 64, 64), lines, strict=True)] == [
        True
    ] * 4
    assert "% padding, 0 tokens in no row" in lines[0]
    sliced = describe_fill(packed, dataclasses.replace(plan, packing="concat", indexes=()))
    assert "0.000% padding" in sliced[0]
