"""Conversations through a whole preparation: turns cleaned one by one, no rule by default, the layout in the card."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pydantic import TypeAdapter

from rayllm.corpus.build.build import build_corpus
from rayllm.corpus.settings import BuildSettings
from rayllm.corpus.sources import SourceList, ValidationConfig


def prepare(root: Path, rows: list[dict[str, Any]], **settings: Any) -> dict[str, Any]:
    path = root / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = TypeAdapter(SourceList).validate_python({"kind": "conversations", "path": str(path)})
    return build_corpus(
        {"chat": sources},
        ValidationConfig(heldout_frac=0.1),
        BuildSettings.model_validate(settings),
        seed=7,
        output=str(root / "corpus"),
        scratch=str(root / "scratch"),
        run=map,
    )["domains"]["chat"]


def kept(root: Path) -> list[dict[str, Any]]:
    paths = sorted((root / "corpus").glob("*/chat/*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


ROWS = [{"instruction": f"Number {number}?", "output": "Yes."} for number in range(40)]


def test_short_replies_stay_and_equal_conversations_are_duplicates(tmp_path: Path) -> None:
    counts = prepare(tmp_path, [*ROWS, ROWS[0], {"instruction": "Silent?", "output": " "}])
    assert counts["train"]["documents"] + counts["validation"]["documents"] == 40
    assert counts["dropped"] == {"duplicate": 1, "no_reply": 1}


def test_rules_for_conversations_can_be_set(tmp_path: Path) -> None:
    long = [{"instruction": f"Why {number}?", "output": "Because of this and that."} for number in range(20)]
    counts = prepare(tmp_path, [*ROWS, *long], rules={"chat": {"min_words": 6}})
    assert counts["dropped"] == {"too_short": 40}


def test_each_turn_is_cleaned_by_itself_and_the_text_is_made_of_clean_turns(tmp_path: Path) -> None:
    dirty = {"instruction": "\r\nA\u200bsk \n\n", "output": "\n\nAn\u200bswer  \n"}
    prepare(tmp_path, [*ROWS, dirty])
    (row,) = [row for row in kept(tmp_path) if "Answer" in row["text"]]
    assert row["text"] == "User: Ask\n\nAssistant: Answer"
    assert json.loads(row["metadata"])["messages"] == [
        {"role": "user", "content": "Ask"},
        {"role": "assistant", "content": "Answer"},
    ]


def test_the_card_names_the_layout(tmp_path: Path) -> None:
    prepare(tmp_path, ROWS)
    card = json.loads((tmp_path / "corpus/card.json").read_text())
    assert [source["kind"] for source in card["domains"]["chat"]["sources"]] == ["conversations (alpaca)"]
    assert "conversations (alpaca)" in (tmp_path / "corpus/data_card.md").read_text()
