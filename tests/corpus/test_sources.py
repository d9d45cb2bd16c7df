from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter, ValidationError

from rayllm.core.errors import DataError
from rayllm.corpus.documents import FileRef, Unit
from rayllm.corpus.files.cuts import group_files
from rayllm.corpus.sources import SourceList, ValidationConfig, list_units

SOURCES = TypeAdapter(dict[str, SourceList])


def units_of(sources: dict[str, Any], unit_bytes: int = 100) -> list[Unit]:
    return list_units(SOURCES.validate_python(sources), "train", unit_bytes)


def test_units_are_sorted_by_domain_then_source_whatever_the_order_of_the_config(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(name)
    a, b = ({"kind": "text", "path": str(tmp_path / f"{name}.txt")} for name in "ab")
    listed = units_of({"z": [b, a], "m": a})
    assert [(unit.domain, unit.source, Path(unit.files[0].uri).name) for unit in listed] == [
        ("m", 0, "a.txt"),
        ("z", 0, "b.txt"),
        ("z", 1, "a.txt"),
    ]
    assert listed == units_of({"m": a, "z": [b, a]})


def test_large_jsonl_is_cut_small_files_are_grouped_and_compressed_ones_stay_whole(tmp_path: Path) -> None:
    for name, size in {"a.jsonl": 40, "b.jsonl": 40, "c.jsonl": 250, "d.jsonl.gz": 250}.items():
        (tmp_path / name).write_bytes(b"x" * size)
    listed = units_of({"d": {"kind": "jsonl", "path": str(tmp_path / "*")}})
    described = [([Path(file.uri).name for file in unit.files], unit.start, unit.stop) for unit in listed]
    assert described == [
        (["a.jsonl", "b.jsonl"], 0, None),
        (["c.jsonl"], 0, 100),
        (["c.jsonl"], 100, 200),
        (["c.jsonl"], 200, 250),
        (["d.jsonl.gz"], 0, None),
    ]


def test_a_group_holds_at_least_one_file_and_no_more_than_fits() -> None:
    files = [FileRef(uri=str(index), label="", bytes=size) for index, size in enumerate([60, 60, 300, 20, 30])]
    assert [[file.bytes for file in piece.files] for piece in group_files(files, 100)] == [[60], [60], [300], [20, 30]]


def test_pieces_of_a_file_have_together_the_bytes_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"x" * 950)
    listed = units_of({"d": {"kind": "jsonl", "path": str(tmp_path / "*")}})
    assert sum(unit.bytes for unit in listed) == 950


def test_synthetic_documents_are_cut_by_number() -> None:
    listed = units_of({"m": {"kind": "synthetic_math", "documents": 9000}})
    assert [(unit.start, unit.stop) for unit in listed] == [(0, 4000), (4000, 8000), (8000, 9000)]


def test_the_error_names_the_setting_of_one_source_among_several(tmp_path: Path) -> None:
    good = {"kind": "synthetic_math"}
    with pytest.raises(DataError, match=r"sources\.web\[1\]"):
        units_of({"web": [good, {"kind": "text", "path": str(tmp_path / "none")}]})


def test_a_missing_parquet_column_names_those_that_exist(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["x"], "url": ["u"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"no column 'text'[\s\S]*body, url"):
        units_of({"web": {"kind": "parquet", "path": str(tmp_path / "a.parquet")}})


def test_a_code_tree_without_matching_files_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"no file ends in \.py"):
        units_of({"code": {"kind": "code", "path": str(tmp_path)}})


@pytest.mark.parametrize(
    "source",
    [
        {"kind": "jsonl", "path": "a", "text": "body", "template": "{x}"},
        {"kind": "jsonl", "path": "a", "template": "no field"},
        {"kind": "jsonl", "path": "a", "template": "{x!r}"},
        {"kind": "jsonl", "path": "a", "template": "{}"},
        {"kind": "jsonl", "path": []},
        {"kind": "jsonl"},
        {"kind": "csv", "path": "a"},
        {"kind": "jsonl", "path": "a", "txt": "b"},
        [],
    ],
)
def test_contradictory_and_unknown_settings_are_refused(source: Any) -> None:
    with pytest.raises(ValidationError):
        SOURCES.validate_python({"web": source})


def test_domains_of_validation_have_plain_names() -> None:
    with pytest.raises(ValidationError, match="letters, digits"):
        ValidationConfig.model_validate({"sources": {"a/b": {"kind": "synthetic_math"}}})
