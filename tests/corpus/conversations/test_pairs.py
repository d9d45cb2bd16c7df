"""Every layout of pairs by a small row, and on real sets; pairs that compare nothing are refused or left out."""

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from rayllm.core.errors import DataError
from rayllm.corpus.builtin.math import generate_problem
from rayllm.corpus.builtin.math.mistakes import with_mistake
from rayllm.corpus.conversations.layouts import fitting
from rayllm.corpus.conversations.pairs import PAIR_LAYOUTS
from rayllm.corpus.conversations.turns import with_clean_turns
from rayllm.corpus.documents import BadRow, Document, Unwanted
from rayllm.corpus.readers import read_unit
from rayllm.corpus.sources import Source, list_units

HI, YES, NO = [
    {"role": role, "content": text} for role, text in (("user", "Hi"), ("assistant", "Yes"), ("assistant", "No"))
]
ROWS: dict[str, dict[str, Any]] = {
    "messages": {"prompt": "Hi", "chosen": [HI, YES], "rejected": [HI, NO], "score_chosen": 9.0},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "Hi"}],
        "chosen": {"from": "gpt", "value": "Yes"},
        "rejected": {"from": "gpt", "value": "No"},
    },
    "transcripts": {"chosen": "\n\nHuman: Hi\n\nAssistant: Yes", "rejected": "\n\nHuman: Hi\n\nAssistant: No"},
    "alpaca": {"instruction": "Hi", "input": "", "output": "Yes", "chosen": "Yes", "rejected": "No"},
    "outputs": {"instruction": "Hi", "output_1": "No", "output_2": "Yes", "preference": 2},
    "prompt": {"prompt": "Hi", "chosen": "Yes", "rejected": "No"},
}


def read(rows: list[dict[str, Any]], tmp_path: Path, **settings: Any) -> list[Any]:
    """All that a source of these rows gives."""
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = TypeAdapter(Source).validate_python({"kind": "preferences", "path": str(path), **settings})
    units = list_units({"pairs": [source]}, "train", 1 << 20)
    return [row for unit in units for row in read_unit(unit, source, max_row_bytes=1 << 20, seed=1)]


@pytest.mark.parametrize("name", ROWS)
def test_a_layout_is_detected_and_read(name: str, tmp_path: Path) -> None:
    assert fitting(ROWS[name], PAIR_LAYOUTS) == [name]
    (document,) = read([ROWS[name]], tmp_path)
    assert document.metadata["messages"] == [HI, YES]
    assert document.metadata["rejected_reply"] == "No"
    assert document.text == "User: Hi\n\nAssistant: Yes\n\nAssistant, not preferred: No"


def test_every_layout_is_known_to_the_config() -> None:
    assert PAIR_LAYOUTS.keys() == ROWS.keys()
    for name in PAIR_LAYOUTS:
        TypeAdapter(Source).validate_python({"kind": "preferences", "path": "x", "layout": name})
    with pytest.raises(ValidationError, match="cannot be kept"):
        TypeAdapter(Source).validate_python({"kind": "preferences", "path": "x", "metadata": ["rejected_reply"]})


def test_lists_of_replies_alone_follow_their_prompt(tmp_path: Path) -> None:
    for prompt in ("Hi", [HI]):
        (document,) = read([{"prompt": prompt, "chosen": [YES], "rejected": [NO]}], tmp_path)
        assert document.metadata["messages"] == [HI, YES]


def test_a_row_that_fits_two_layouts_is_refused_until_one_is_named(tmp_path: Path) -> None:
    row = ROWS["alpaca"] | {"prompt": "Hello"}
    with pytest.raises(DataError, match=r"several layouts(.|\n)*alpaca and prompt fit(.|\n)*`layout`"):
        read([row], tmp_path)
    (document,) = read([row], tmp_path, layout="prompt")
    assert document.metadata["messages"][0]["content"] == "Hello"
    with pytest.raises(DataError, match="no row of a source is one of pairs"):
        read([{"prompt": "Hi", "completion": "Ho"}], tmp_path)


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (ROWS["transcripts"] | {"rejected": "\n\nHuman: Hey\n\nAssistant: No"}, "prompts_differ"),
        (ROWS["transcripts"] | {"rejected": "\n\nHuman: Hi"}, "no_last_reply"),
        (ROWS["prompt"], "other_layout"),
    ],
)
def test_what_cannot_be_compared_is_a_bad_row(row: dict[str, Any], kind: str, tmp_path: Path) -> None:
    good, bad = read([ROWS["transcripts"], row], tmp_path, layout="transcripts")
    assert isinstance(good, Document)
    assert isinstance(bad, BadRow)
    assert bad.kind == kind


def test_replies_that_are_empty_or_the_same_are_left_out(tmp_path: Path) -> None:
    rows = read([ROWS["prompt"] | {"rejected": " "}, ROWS["prompt"] | {"rejected": "Yes "}], tmp_path)
    assert [row.reason for row in rows if isinstance(row, Unwanted)] == ["no_reply", "no_preference"]


def test_both_replies_are_cleaned(tmp_path: Path) -> None:
    (document,) = read([ROWS["prompt"]], tmp_path)
    cleaned = with_clean_turns(document, str.upper)
    assert cleaned.metadata["rejected_reply"] == "NO"
    assert cleaned.text == "User: HI\n\nAssistant: YES\n\nAssistant, not preferred: NO"


def test_a_wrong_solution_is_like_the_right_one_with_another_answer() -> None:
    for number in range(300):
        problem = generate_problem(1, "train", number)
        right = "\n".join([*problem.steps, f"#### {problem.answer}"])
        wrong = with_mistake(right, Random(number))
        assert wrong.rpartition("#### ")[2] != problem.answer
        assert len(wrong.splitlines()) == len(right.splitlines())
        assert wrong == with_mistake(right, Random(number))


def test_generated_pairs_follow_from_their_numbers() -> None:
    source = TypeAdapter(Source).validate_python({"kind": "synthetic_preferences", "documents": 5000})
    units = list_units({"sums": [source]}, "train", 1 << 20)
    rows = [row for unit in units for row in read_unit(unit, source, max_row_bytes=1 << 20, seed=1)]
    assert len(rows) == 5000
    assert all(isinstance(row, Document) for row in rows)


REAL = {
    "dpo_en_demo": ("sharegpt", 300),
    "hh_harmless_base": ("transcripts", 1537),
    "instruction_preference": ("alpaca", 737),
}


@pytest.mark.parametrize("name", REAL)
def test_real_sets_are_detected_and_read(name: str, shared_data: Path) -> None:
    layout, count = REAL[name]
    source = TypeAdapter(Source).validate_python(
        {"kind": "preferences", "path": str(shared_data / f"pref/{name}.jsonl")}
    )
    units = list_units({"pairs": [source]}, "train", 256 << 10)
    assert {unit.layout for unit in units} == {layout}
    rows = [row for unit in units for row in read_unit(unit, source, max_row_bytes=1 << 20, seed=1)]
    found = [row for row in rows if isinstance(row, Document)]
    assert len(found) >= 0.97 * count
    assert sum(isinstance(row, Document | Unwanted | BadRow) for row in rows) == count
