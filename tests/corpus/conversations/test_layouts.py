"""Every layout by a small row, and on real sets; what could be meant in two ways is refused."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter, ValidationError

from rayllm.core.errors import DataError
from rayllm.corpus.conversations.layouts import LAYOUTS, fitting
from rayllm.corpus.documents import BadRow, Document, Unit, Unwanted
from rayllm.corpus.readers import read_unit
from rayllm.corpus.sources import Source, list_units

Said = list[tuple[str, str]]
TREE = {
    "text": "Which?",
    "role": "prompter",
    "replies": [
        {"text": "worst", "role": "assistant", "rank": 1, "replies": []},
        {"text": "deleted", "role": "assistant", "rank": -1, "deleted": True, "replies": []},
        {
            "text": "best",
            "role": "assistant",
            "rank": 0,
            "replies": [{"text": "Why?", "role": "prompter", "replies": []}],
        },
    ],
}
ROWS: dict[str, tuple[dict[str, Any], Said]] = {
    "messages": (
        {
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": [{"type": "text", "text": "Ho"}]},
            ]
        },
        [("user", "Hi"), ("assistant", "Ho")],
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}], "system": "Be brief."},
        [("system", "Be brief."), ("user", "Hi"), ("assistant", "Ho")],
    ),
    "alpaca": (
        {"instruction": "Add.", "input": "1 2", "output": "3", "history": [["One?", "1"]]},
        [("user", "One?"), ("assistant", "1"), ("user", "Add.\n\n1 2"), ("assistant", "3")],
    ),
    "self_instruct": (
        {"instruction": "Add.", "instances": [{"input": "", "output": "3"}]},
        [("user", "Add."), ("assistant", "3")],
    ),
    "prompt_completion": ({"prompt": "Hi", "response": "Ho"}, [("user", "Hi"), ("assistant", "Ho")]),
    "oasst": ({"prompt": TREE}, [("user", "Which?"), ("assistant", "best")]),
}


def read(source: dict[str, Any], unit_bytes: int = 1 << 20) -> list[Any]:
    """All that a source gives."""
    parsed = TypeAdapter(Source).validate_python(source)
    units: list[Unit] = list_units({"chat": [parsed]}, "train", unit_bytes)
    return [row for unit in units for row in read_unit(unit, parsed, max_row_bytes=1 << 20, seed=1)]


def said(document: Document) -> Said:
    messages: Any = document.metadata["messages"]
    return [(message["role"], message["content"]) for message in messages]


def documents(rows: list[Any]) -> list[Document]:
    return [row for row in rows if isinstance(row, Document)]


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[[list[Any]], str]:
    def write(rows: list[Any]) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


@pytest.mark.parametrize("name", ROWS)
def test_a_layout_is_detected_and_read(name: str, jsonl: Callable[[list[Any]], str]) -> None:
    row, turns = ROWS[name]
    assert fitting(row, LAYOUTS) == [name]
    (document,) = documents(read({"kind": "conversations", "path": jsonl([row])}))
    assert said(document) == turns
    assert document.text == "\n\n".join(f"{role.capitalize()}: {text}" for role, text in turns)


def test_every_layout_is_known_to_the_config() -> None:
    assert LAYOUTS.keys() == ROWS.keys()
    for name in LAYOUTS:
        TypeAdapter(Source).validate_python({"kind": "conversations", "path": "x", "layout": name})


def test_a_table_is_read_as_lines_are(tmp_path: Path) -> None:
    row, turns = ROWS["sharegpt"]
    pq.write_table(pa.Table.from_pylist([row] * 3), tmp_path / "a.parquet")
    found = documents(read({"kind": "conversations", "path": str(tmp_path / "a.parquet")}))
    assert [said(document) for document in found] == [turns] * 3


def test_a_row_that_fits_two_layouts_is_refused_until_one_is_named(jsonl: Callable[[list[Any]], str]) -> None:
    path = jsonl([ROWS["alpaca"][0] | {"prompt": "Hi", "completion": "Ho"}])
    with pytest.raises(DataError, match=r"several layouts(.|\n)*alpaca and prompt_completion fit(.|\n)*`layout`"):
        read({"kind": "conversations", "path": path})
    (document,) = documents(read({"kind": "conversations", "path": path, "layout": "prompt_completion"}))
    assert said(document) == [("user", "Hi"), ("assistant", "Ho")]


def test_mixed_rows_are_refused(jsonl: Callable[[list[Any]], str]) -> None:
    path = jsonl([ROWS["alpaca"][0], ROWS["messages"][0]])
    with pytest.raises(DataError, match=r"different layouts(.|\n)*alpaca \(1 rows\) and messages \(1 rows\)"):
        read({"kind": "conversations", "path": path})


def test_rows_without_a_layout_say_what_is_known(jsonl: Callable[[list[Any]], str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"its first row has text, url; known are messages: a list"):
        read({"kind": "conversations", "path": jsonl([{"text": "a", "url": "b"}])})
    (tmp_path / "list.json").write_text(json.dumps([ROWS["alpaca"][0]], indent=1))
    with pytest.raises(DataError, match=r"jq -c"):
        read({"kind": "conversations", "path": str(tmp_path / "list.json")})


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"text": "another row"}, "other_layout"),
        ({"messages": [{"role": "narrator", "content": "Hi"}]}, "unknown_role"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "wrong_type"),
        ({"messages": [{"role": "user", "content": "\ud800"}, {"role": "assistant", "content": "a"}]}, "invalid_utf8"),
    ],
)
def test_a_row_that_is_no_conversation_is_a_bad_row(
    row: dict[str, Any], kind: str, jsonl: Callable[[list[Any]], str]
) -> None:
    rows = read({"kind": "conversations", "path": jsonl([ROWS["messages"][0], row])})
    assert [found.kind for found in rows if isinstance(found, BadRow)] == [kind]


def test_what_nobody_answers_goes_and_a_conversation_without_reply_is_left_out(
    jsonl: Callable[[list[Any]], str],
) -> None:
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}, {"from": "human", "value": "Bye"}]
    rows = read({"kind": "conversations", "path": jsonl([{"conversations": turns}, {"conversations": turns[2:]}])})
    assert [said(document) for document in documents(rows)] == [[("user", "Hi"), ("assistant", "Ho")]]
    assert [row.reason for row in rows if isinstance(row, Unwanted)] == ["no_reply"]


def test_an_empty_reply_goes_at_the_end_and_leaves_out_a_conversation_that_goes_on(
    jsonl: Callable[[list[Any]], str],
) -> None:
    def row(*replies: str) -> dict[str, Any]:
        turns = [[{"from": "human", "value": "Hi"}, {"from": "gpt", "value": reply}] for reply in replies]
        return {"conversations": [turn for exchange in turns for turn in exchange]}

    rows = read({"kind": "conversations", "path": jsonl([row("Ho", " "), row("\n", "Ho")])})
    assert [said(document) for document in documents(rows)] == [[("user", "Hi"), ("assistant", "Ho")]]
    assert [row.reason for row in rows if isinstance(row, Unwanted)] == ["empty_reply"]


def test_calls_and_tools_are_written_out(jsonl: Callable[[list[Any]], str]) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    row = {
        "tools": [{"name": "add"}],
        "messages": [
            {"role": "user", "content": "Add."},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "3"},
            {"role": "assistant", "content": "Three."},
        ],
    }
    (document,) = documents(read({"kind": "conversations", "path": jsonl([row])}))
    assert said(document) == [
        ("system", 'You may call these functions:\n<tools>\n[{"name": "add"}]\n</tools>'),
        ("user", "Add."),
        ("assistant", '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'),
        ("tool", "3"),
        ("assistant", "Three."),
    ]


def test_other_sources_cannot_keep_a_field_of_that_name() -> None:
    with pytest.raises(ValidationError, match="kind: conversations"):
        TypeAdapter(Source).validate_python({"kind": "jsonl", "path": "x", "metadata": ["messages"]})


REAL = {
    "alpaca_5000": ("alpaca", 5000),
    "alpaca_cleaned_demo": ("alpaca", 999),
    "alpaca_seed_tasks": ("self_instruct", 175),
    "code_alpaca_2k": ("alpaca", 2017),
    "dolly_hhrlhf_small": ("prompt_completion", 665),
    "glaive_toolcall_demo": ("sharegpt", 300),
    "oasst_en_trees": ("oasst", 70),
}


@pytest.mark.parametrize("name", REAL)
def test_real_sets_are_detected_and_read(name: str, shared_data: Path) -> None:
    layout, count = REAL[name]
    source = TypeAdapter(Source).validate_python(
        {"kind": "conversations", "path": str(shared_data / f"sft/{name}.jsonl")}
    )
    units = list_units({"chat": [source]}, "train", 256 << 10)
    assert {unit.layout for unit in units} == {layout}
    rows = [row for unit in units for row in read_unit(unit, source, max_row_bytes=1 << 20, seed=1)]
    assert not [row for row in rows if isinstance(row, BadRow)]
    found = documents(rows)
    assert len(found) + sum(isinstance(row, Unwanted) for row in rows) == count
    assert len(found) >= 0.98 * count
    assert all(said(document)[-1][0] == "assistant" for document in found)
    if name == "glaive_toolcall_demo":
        roles = Counter(role for document in found for role, _ in said(document))
        assert roles["tool"] > 100
        assert (
            sum("<tool_call>" in text for document in found for role, text in said(document) if role == "assistant")
            > 100
        )
    if name == "oasst_en_trees":
        assert max(len(said(document)) for document in found) >= 4
