import errno
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest

from rayllm.core import storage
from rayllm.core.errors import DataError, SetupError
from rayllm.corpus.build import build as build_module

Prepare = Callable[..., dict[str, Any]]
Texts = Callable[..., list[str]]
Jsonl = Callable[..., str]

MATH = {"kind": "synthetic_math", "documents": 300}


def files(output: Path) -> dict[str, bytes]:
    return {str(path.relative_to(output)): path.read_bytes() for path in sorted(output.rglob("*")) if path.is_file()}


def shuffled(task: Callable[[str], str], items: Sequence[str]) -> Iterator[str]:
    """Run the last first and some twice, as a cluster that loses workers does."""
    order = list(range(len(items)))
    Random(1).shuffle(order)
    results = {index: task(items[index]) for index in [*order, *order[:2]]}
    return (results[index] for index in range(len(items)))


def rows(prefix: str, count: int) -> list[dict[str, str]]:
    return [{"text": f"{prefix} number {index} of {count}"} for index in range(count)]


def test_the_bytes_do_not_depend_on_the_order_of_tasks(
    tmp_path: Path, prepare: Prepare, jsonl: Jsonl, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = {
        "a": {"kind": "jsonl", "path": jsonl("a.jsonl", rows("same", 90) + rows("a", 90))},
        "b": [{"kind": "jsonl", "path": jsonl("b.jsonl", rows("b", 90) + rows("same", 90))}, {**MATH, "documents": 20}],
    }
    settings = {"unit_bytes": 2000, "shard_bytes": 1500, "validation": {"heldout_frac": 0.1}}
    monkeypatch.setattr(build_module, "partition_count", lambda _: 3)
    straight = prepare(tmp_path / "one", sources, **settings)
    again = prepare(tmp_path / "two", dict(reversed(sources.items())), shuffled, **settings)
    assert straight == again
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert len(list((tmp_path / "one/train/a").iterdir())) >= 3
    monkeypatch.setattr(build_module, "partition_count", lambda _: 1)
    prepare(tmp_path / "three", sources, **settings)
    assert files(tmp_path / "one") == files(tmp_path / "three")


def test_duplicates_stay_once_in_the_first_domain_by_name(
    tmp_path: Path, prepare: Prepare, corpus_texts: Texts, jsonl: Jsonl
) -> None:
    sources = {
        "b": {"kind": "jsonl", "path": jsonl("b.jsonl", [*rows("both", 20), *rows("b", 20)])},
        "a": {"kind": "jsonl", "path": jsonl("a.jsonl", [*rows("BOTH", 20), *rows("a", 20), *rows("a", 5)])},
    }
    counts = prepare(tmp_path / "out", sources, validation={"heldout_frac": 0})
    assert counts["a"]["dropped"] == {}
    assert counts["b"]["dropped"] == {"duplicate": 20}
    assert len(corpus_texts(tmp_path / "out", "train", "a")) == 45
    assert corpus_texts(tmp_path / "out", "train", "b") == [row["text"] for row in rows("b", 20)]
    assert not (tmp_path / "out/validation").exists()


def test_training_never_holds_what_validation_holds(
    tmp_path: Path, prepare: Prepare, corpus_texts: Texts, jsonl: Jsonl
) -> None:
    train = jsonl("train.jsonl", [*rows("x", 40), {"text": "secret  question"}])
    held = jsonl("held.jsonl", [{"text": "Secret question"}, {"text": "secret\tquestion"}, {"text": "other"}])
    validation = {"sources": {"web": {"kind": "jsonl", "path": held}}}
    counts = prepare(tmp_path / "out", {"web": {"kind": "jsonl", "path": train}}, validation=validation)
    assert corpus_texts(tmp_path / "out", "validation", "web") == ["Secret question", "other"]
    assert "secret  question" not in corpus_texts(tmp_path / "out", "train", "web")
    assert counts["web"]["dropped"] == {"duplicate": 1, "in_validation": 1}
    assert counts["web"]["train"]["documents"] == 40


def test_held_out_documents_are_the_same_in_every_corpus_and_depend_on_content(
    tmp_path: Path, prepare: Prepare, corpus_texts: Texts, jsonl: Jsonl
) -> None:
    data = rows("x", 400)
    settings = {"validation": {"heldout_frac": 0.1}}
    prepare(tmp_path / "one", {"web": {"kind": "jsonl", "path": jsonl("a.jsonl", data)}}, **settings)
    prepare(tmp_path / "two", {"web": {"kind": "jsonl", "path": jsonl("b.jsonl", data[::-1])}}, **settings)
    one, two = (corpus_texts(tmp_path / name, "validation", "web") for name in ("one", "two"))
    assert one == two[::-1]
    assert 20 <= len(one) <= 60
    train = corpus_texts(tmp_path / "one", "train", "web")
    assert sorted(one + train) == sorted(row["text"] for row in data)


def test_a_small_domain_holds_out_one_document(tmp_path: Path, prepare: Prepare, jsonl: Jsonl) -> None:
    counts = prepare(tmp_path / "out", {"web": {"kind": "jsonl", "path": jsonl("a.jsonl", rows("x", 5))}})
    assert (counts["web"]["train"]["documents"], counts["web"]["validation"]["documents"]) == (4, 1)


def test_limits_on_bytes_hold_and_what_is_left_out_is_counted(tmp_path: Path, prepare: Prepare) -> None:
    validation = {"heldout_frac": 0.2, "max_bytes_per_domain": 2000}
    counts = prepare(tmp_path / "out", {"m": MATH}, max_bytes_per_domain=10_000, validation=validation)["m"]
    assert 9_500 < counts["train"]["bytes"] <= 10_000
    assert 1_500 < counts["validation"]["bytes"] <= 2_000
    left_out = counts["dropped"]["over_cap"] + counts["dropped"].get("duplicate", 0)
    assert counts["train"]["documents"] + counts["validation"]["documents"] + left_out == 300


def test_rules_apply_to_training_and_not_to_validation_sources(
    tmp_path: Path, prepare: Prepare, corpus_texts: Texts, jsonl: Jsonl
) -> None:
    path = jsonl("a.jsonl", [{"text": "short"}, {"text": ""}, {"text": "long enough to be kept"}])
    held = jsonl("b.jsonl", [{"text": "tiny"}, {"text": " "}])
    counts = prepare(
        tmp_path / "out",
        {"web": {"kind": "jsonl", "path": path}},
        validation={"sources": {"web": {"kind": "jsonl", "path": held}}},
        rules={"prose": {"min_words": 3}},
    )
    assert corpus_texts(tmp_path / "out", "train", "web") == ["long enough to be kept"]
    assert corpus_texts(tmp_path / "out", "validation", "web") == ["tiny"]
    assert counts["web"]["dropped"] == {"empty": 2, "too_short": 1}


def test_dropped_documents_are_written_with_their_reasons(tmp_path: Path, prepare: Prepare, jsonl: Jsonl) -> None:
    data = [{"text": "tiny"}, *rows("many words", 50), *rows("many words", 50)[:7]]
    counts = prepare(
        tmp_path / "out",
        {"web": {"kind": "jsonl", "path": jsonl("a.jsonl", data)}},
        rules={"prose": {"min_words": 3}},
        keep_dropped=True,
        max_bytes_per_domain=800,
    )
    tables = [pq.read_table(path) for path in (tmp_path / "out/dropped/web").iterdir()]
    reasons = [reason for table in tables for reason in table.column("reason").to_pylist()]
    assert {reason: reasons.count(reason) for reason in set(reasons)} == counts["web"]["dropped"]
    assert set(counts["web"]["dropped"]) == {"too_short", "over_cap", "duplicate"}


def test_bad_rows_are_listed_by_line_of_the_file_even_when_it_is_cut(tmp_path: Path, prepare: Prepare) -> None:
    lines = [json.dumps(row) for row in rows("x", 200)]
    for number in (3, 77, 150):
        lines[number - 1] = "{broken"
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    source = {"kind": "jsonl", "path": str(tmp_path / "a.jsonl")}
    counts = prepare(tmp_path / "out", {"web": [MATH, source]}, unit_bytes=500)
    listed = [json.loads(line) for line in (tmp_path / "out/quarantine.jsonl").read_text().splitlines()]
    assert [(row["source"], row["place"]) for row in listed] == [
        (source["path"], place) for place in ("3", "77", "150")
    ]
    assert all(row["reason"].startswith("malformed_json: ") and row["domain"] == "web" for row in listed)
    assert counts["web"]["quarantined"] == {"malformed_json": 3}


def test_too_many_bad_rows_stop_with_the_first_places(tmp_path: Path, prepare: Prepare) -> None:
    lines = [json.dumps(row) for row in rows("x", 200)]
    lines[100:120] = ["{broken"] * 20
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    source = {"kind": "jsonl", "path": str(tmp_path / "a.jsonl")}
    with pytest.raises(DataError, match=r"20 of 200 rows[\s\S]*sources\.web[\s\S]*a\.jsonl:101: malformed_json"):
        prepare(tmp_path / "out", {"web": source}, unit_bytes=500)
    assert prepare(tmp_path / "out", {"web": source}, max_bad_frac=0.2)["web"]["quarantined"]


def test_a_few_bad_rows_never_stop_a_small_source(tmp_path: Path, prepare: Prepare, jsonl: Jsonl) -> None:
    path = jsonl("a.jsonl", [{"text": 1}, *rows("x", 2)])
    assert prepare(tmp_path / "out", {"web": {"kind": "jsonl", "path": path}})["web"]["quarantined"] == {
        "wrong_type": 1
    }


def test_an_empty_domain_is_an_error_with_the_drop_table(tmp_path: Path, prepare: Prepare, jsonl: Jsonl) -> None:
    source = {"kind": "jsonl", "path": jsonl("a.jsonl", rows("x", 9))}
    with pytest.raises(DataError, match=r"no training documents left[\s\S]*sources\.web[\s\S]*9 too_short"):
        prepare(tmp_path / "out", {"web": source, "m": MATH}, rules={"prose": {"min_words": 99}})
    empty = {"kind": "jsonl", "path": jsonl("b.jsonl", [{"text": ""}])}
    with pytest.raises(DataError, match=r"no validation documents left[\s\S]*validation\.sources\.web"):
        prepare(tmp_path / "out", {"web": source}, validation={"sources": {"web": empty}})
    single = {"kind": "jsonl", "path": jsonl("c.jsonl", rows("x", 1))}
    with pytest.raises(DataError, match="a single document is held out"):
        prepare(tmp_path / "out", {"web": single})


def test_what_is_not_of_the_corpus_is_removed_from_its_directory(tmp_path: Path, prepare: Prepare) -> None:
    sources = {"m": {"kind": "synthetic_math", "documents": 1500}}
    prepare(tmp_path / "whole", sources)
    for name in ("train/m/00007.parquet", "train/gone/00000.parquet", "dropped/m/x.parquet", "train/m/.tmp"):
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("of another attempt")
    prepare(tmp_path / "out", sources)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_a_full_disk_is_named(tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(uri: str, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage, "write_bytes", full)
    with pytest.raises(SetupError, match="No space left on device"):
        prepare(tmp_path / "out", {"m": MATH})


def test_the_card_tells_what_there_is(tmp_path: Path, prepare: Prepare, jsonl: Jsonl) -> None:
    source = {"kind": "jsonl", "path": jsonl("a.jsonl", [{"text": "x"}, {"text": 3}, *rows("words", 30)])}
    counts = prepare(tmp_path / "out", {"web": source}, rules={"prose": {"min_words": 2}})
    card = json.loads((tmp_path / "out/card.json").read_text())["domains"]["web"]
    assert card["read"] == 31
    assert card["dropped"] == counts["web"]["dropped"] == {"too_short": 1}
    assert card["length_bytes"]["train"]["p50"] == pytest.approx(21, abs=1)
    assert len(card["examples"]["train"]) == 2
    markdown = (tmp_path / "out/data_card.md").read_text()
    for text in ("| web | train |", "| too_short | 1 | 1 |", "| wrong_type | 1 |", "```text\nwords number"):
        assert text in markdown


def test_the_columns_and_ids_are_those_of_the_contract(tmp_path: Path, prepare: Prepare, jsonl: Jsonl) -> None:
    path = jsonl("a.jsonl", [{"text": f"text {n}", "key": f"k{n}", "lang": "en"} for n in range(9)])
    source = {"kind": "jsonl", "path": path, "id": "key", "metadata": ["lang"]}
    prepare(tmp_path / "out", {"web": source, "m": MATH}, validation={"heldout_frac": 0})
    table = pq.read_table(tmp_path / "out/train/web/00000.parquet")
    assert table.schema.names == ["id", "text", "source", "metadata"]
    assert table.column("id").to_pylist() == [f"k{n}" for n in range(9)]
    assert set(table.column("metadata").to_pylist()) == {'{"lang": "en"}'}
    ids = pq.read_table(tmp_path / "out/train/m/00000.parquet").column("id").to_pylist()
    assert len(set(ids)) == len(ids)
    assert all(len(name) == 16 for name in ids)


def test_a_corpus_may_be_written_to_an_object_store(prepare: Prepare) -> None:
    counts = prepare("memory://corpus-test", {"m": MATH})
    found = fsspec.filesystem("memory").find("/corpus-test")
    assert [path for path in found if ".scratch" in path] == []
    with fsspec.open("memory://corpus-test/train/m/00000.parquet") as file:
        assert pq.read_table(file).num_rows == counts["m"]["train"]["documents"]


def test_real_data_from_raw_files_to_shards(
    tmp_path: Path, shared_data: Path, prepare: Prepare, corpus_texts: Texts
) -> None:
    def source(kind: str, path: str, **more: Any) -> dict[str, Any]:
        return {"kind": kind, "path": str(shared_data / path), **more}

    gsm8k = {"template": "{question}\n{answer}", "content": "math"}
    humaneval = {"template": "{prompt}{canonical_solution}", "id": "task_id", "content": "code"}
    counts = prepare(
        tmp_path / "out",
        {
            "english": source("jsonl", "text/c4_en.jsonl"),
            "math": source("jsonl", "math/gsm8k_train.jsonl", **gsm8k),
            "code": [
                {"kind": "code", "path": str(Path(json.__file__).parent)},
                source("jsonl", "eval/humaneval_even.jsonl", **humaneval),
            ],
        },
        validation={
            "sources": {
                "math": source("jsonl", "math/gsm8k_test_even.jsonl", **gsm8k),
                "code": source("jsonl", "eval/humaneval_even.jsonl", **humaneval),
            }
        },
        rules={},
    )
    assert counts["math"]["train"]["documents"] > 7400
    assert counts["math"]["validation"]["documents"] == 660
    assert counts["code"]["validation"]["documents"] == 82
    assert counts["code"]["dropped"]["in_validation"] == 82
    english = counts["english"]
    assert english["train"]["documents"] + english["validation"]["documents"] > 1200
    assert english["dropped"]["gopher_few_words"] > 100
    assert corpus_texts(tmp_path / "out", "validation", "code")[0].lstrip().startswith(("from", "def", "import"))
