"""Whole preparations with the filters that a team turns on: near-duplicates, contamination, language."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from rayllm.corpus.build import resolve
from rayllm.corpus.build.resolve import plan_bands

Prepare = Callable[..., dict[str, Any]]
Texts = Callable[..., list[str]]
Jsonl = Callable[..., str]

NEAR = {"near_duplicates": {}}
WORDS = [f"{a}{b}" for a in ("bal", "cor", "dun", "fel", "gim", "hod", "jar") for b in ("ta", "ren", "mo", "sil", "ku")]


def essay(number: int, words: int = 120) -> str:
    """A text that shares no run of five words with any other."""
    random = Random(number)
    return " ".join(random.choice(WORDS) for _ in range(words))


def edited(text: str) -> str:
    """The same text but for one word in the middle, its case and its punctuation."""
    words = text.split()
    return ", ".join([*words[:60], "changed", *words[61:]]).upper() + "!"


def files(output: Path) -> dict[str, bytes]:
    return {str(path.relative_to(output)): path.read_bytes() for path in sorted(output.rglob("*")) if path.is_file()}


def shuffled(task: Callable[[str], str], items: Sequence[str]) -> Iterator[str]:
    order = list(range(len(items)))
    Random(1).shuffle(order)
    results = {index: task(items[index]) for index in order}
    return (results[index] for index in range(len(items)))


def test_of_near_duplicates_across_files_and_domains_the_first_stays(
    tmp_path: Path, prepare: Prepare, corpus_texts: Texts, jsonl: Jsonl
) -> None:
    originals = [essay(number) for number in range(30)]
    copies = [edited(text) for text in originals[:10]]
    others = [essay(number) for number in range(100, 130)]
    sources = {
        "a": {"kind": "jsonl", "path": jsonl("a.jsonl", [{"text": text} for text in originals])},
        "b": {"kind": "jsonl", "path": jsonl("b.jsonl", [{"text": text} for text in [*copies, *others]])},
    }
    counts = prepare(tmp_path / "out", sources, validation={"heldout_frac": 0}, **NEAR)
    assert corpus_texts(tmp_path / "out", "train", "a") == originals
    assert corpus_texts(tmp_path / "out", "train", "b") == others
    assert counts["b"]["dropped"] == {"near_duplicate": 10}
    assert counts["b"]["train"]["bytes"] == sum(map(len, others))
    near = json.loads((tmp_path / "out/card.json").read_text())["near_duplicates"]
    assert near["clusters"] == 10
    assert near["largest"][0]["documents"] == 2
    assert near["largest"][0]["examples"][1].startswith(near["largest"][0]["examples"][0][:3].upper())


def test_a_training_document_near_a_validation_document_goes_and_the_limits_on_bytes_come_first(
    tmp_path: Path, prepare: Prepare, corpus_texts: Texts, jsonl: Jsonl
) -> None:
    held = [essay(number) for number in range(5)]
    train = [*(edited(text) for text in held), *(essay(number) for number in range(50, 70))]
    sources = {"web": {"kind": "jsonl", "path": jsonl("a.jsonl", [{"text": text} for text in train])}}
    validation = {"sources": {"web": {"kind": "jsonl", "path": jsonl("b.jsonl", [{"text": text} for text in held])}}}
    counts = prepare(tmp_path / "out", sources, validation=validation, **NEAR)["web"]
    assert counts["dropped"] == {"near_validation": 5}
    assert corpus_texts(tmp_path / "out", "validation", "web") == held
    assert corpus_texts(tmp_path / "out", "train", "web") == train[5:]
    # A document above the limit is no reason to drop one below it.
    copies = [*train[5:], *(edited(text) for text in train[5:])]
    sources = {"web": {"kind": "jsonl", "path": jsonl("c.jsonl", [{"text": text} for text in copies])}}
    capped = prepare(tmp_path / "capped", sources, validation={"heldout_frac": 0}, max_bytes_per_domain=10_000, **NEAR)[
        "web"
    ]
    total = capped["train"]["documents"] + sum(capped["dropped"].values())
    assert total == len(copies)
    kept = {text.upper()[:20] for text in corpus_texts(tmp_path / "capped", "train", "web")}
    assert len(kept) == capped["train"]["documents"]
    assert capped["dropped"]["near_duplicate"] < 20


def test_an_exact_duplicate_keeps_its_reason(tmp_path: Path, prepare: Prepare, jsonl: Jsonl) -> None:
    texts = [essay(1), essay(1).upper(), edited(essay(1)), edited(essay(1)), essay(2)]
    sources = {"web": {"kind": "jsonl", "path": jsonl("a.jsonl", [{"text": text} for text in texts])}}
    counts = prepare(tmp_path / "out", sources, validation={"heldout_frac": 0}, **NEAR)["web"]
    assert counts["dropped"] == {"duplicate": 2, "near_duplicate": 1}
    assert counts["train"]["documents"] == 2


def test_contents_without_comparison_keep_what_is_nearly_the_same(
    tmp_path: Path, prepare: Prepare, jsonl: Jsonl
) -> None:
    texts = [text for number in range(10) for text in (essay(number), edited(essay(number)))]
    path = jsonl("a.jsonl", [{"text": text} for text in texts])
    sources = {"code": {"kind": "jsonl", "path": path, "content": "code"}}
    counts = prepare(tmp_path / "out", sources, validation={"heldout_frac": 0}, near_duplicates={"contents": ["prose"]})
    assert counts["code"]["train"]["documents"] == 20


def test_neither_order_nor_division_of_the_work_changes_a_byte(
    tmp_path: Path, prepare: Prepare, jsonl: Jsonl, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [text for number in range(60) for text in (essay(number), edited(essay(number)))]
    Random(3).shuffle(texts)
    sources = {"web": {"kind": "jsonl", "path": jsonl("a.jsonl", [{"text": text} for text in texts])}}
    settings = {"unit_bytes": 6000, "shard_bytes": 9000, "keep_dropped": True, **NEAR}
    straight = prepare(tmp_path / "one", sources, **settings)
    assert straight["web"]["dropped"]["near_duplicate"] + straight["web"]["dropped"].get("near_validation", 0) >= 58
    monkeypatch.setattr(resolve, "_TASK_INPUT_BYTES", 2000)
    assert prepare(tmp_path / "two", sources, shuffled, **settings) == straight
    assert files(tmp_path / "one") == files(tmp_path / "two")


@pytest.mark.parametrize(("input_bytes", "tasks"), [(0, 1), (10 << 30, 3), (50 << 30, 13), (200 << 30, 56)])
def test_the_work_on_bands_is_cut_so_that_every_hash_is_looked_at_once(input_bytes: int, tasks: int) -> None:
    planned = plan_bands(14, input_bytes)
    assert len(planned) == tasks
    looked = [(band, task.slice) for task in planned for band in range(task.first, task.stop)]
    (slices,) = {task.slices for task in planned}
    assert sorted(looked) == [(band, number) for band in range(14) for number in range(slices)]
    assert len({task.name for task in planned}) == tasks


def test_documents_with_evaluation_items_go_and_both_texts_are_told(
    tmp_path: Path, prepare: Prepare, corpus_texts: Texts, jsonl: Jsonl
) -> None:
    questions = [{"q": essay(number, 30)} for number in range(1000, 1004)]
    planted = f"{essay(1)} {questions[2]['q'].upper().replace(' ', '  ')} <b>{essay(2)}"
    rows = [{"text": planted, "id": "planted"}, *({"text": essay(n), "id": str(n)} for n in range(10, 30))]
    sources = {"web": {"kind": "jsonl", "path": jsonl("a.jsonl", rows), "id": "id"}}
    sets = {"quiz": {"kind": "jsonl", "path": jsonl("quiz.jsonl", questions), "text": "q"}}
    settings: dict[str, Any] = {"validation": {"heldout_frac": 0}, "decontaminate": {"sets": sets}}
    counts = prepare(tmp_path / "out", sources, **settings)["web"]
    assert counts["dropped"] == {"contaminated": 1}
    assert planted not in corpus_texts(tmp_path / "out", "train", "web")
    (line,) = (tmp_path / "out/contamination.jsonl").read_text().splitlines()
    match = json.loads(line)
    assert (match["domain"], match["set"], match["item"], match["id"]) == ("web", "quiz", "2", "planted")
    assert match["text"] == questions[2]["q"].upper().replace(" ", "  ")
    assert match["item_text"] == questions[2]["q"]
    for page in ("data_card.md", "data_card.html"):
        text = (tmp_path / "out" / page).read_text()
        assert match["text"] in text
        assert match["item_text"] in text
    settings["decontaminate"] |= {"action": "report"}
    assert prepare(tmp_path / "report", sources, **settings)["web"]["dropped"] == {}
    assert (tmp_path / "report/contamination.jsonl").read_text().splitlines() == [line]


def test_evaluation_sets_are_not_looked_for_in_validation_sources(
    tmp_path: Path, prepare: Prepare, jsonl: Jsonl
) -> None:
    quiz = jsonl("quiz.jsonl", [{"text": essay(number, 30)} for number in range(4)])
    web = jsonl("a.jsonl", [{"text": essay(number)} for number in range(10, 30)])
    counts = prepare(
        tmp_path / "out",
        {"web": {"kind": "jsonl", "path": web}},
        validation={"sources": {"web": {"kind": "jsonl", "path": quiz}}},
        decontaminate={"sets": {"quiz": {"kind": "jsonl", "path": quiz}}},
    )
    assert counts["web"]["validation"]["documents"] == 4


def test_prose_in_other_languages_goes_and_shares_are_counted(
    tmp_path: Path, prepare: Prepare, corpus_texts: Texts, jsonl: Jsonl
) -> None:
    english = [
        f"The river runs slowly through the old town, and {n} boats lie at its bank in the sun." for n in range(6)
    ]
    german = [
        f"Der Fluss zieht langsam durch die alte Stadt, und {n} Boote liegen am Ufer in der Sonne." for n in range(3)
    ]
    rows = [{"text": text} for text in english + german]
    sources = {
        "web": {"kind": "jsonl", "path": jsonl("a.jsonl", rows)},
        "code": {
            "kind": "jsonl",
            "path": jsonl("b.jsonl", [{"text": f"x = {n}"} for n in range(3)]),
            "content": "code",
        },
    }
    counts = prepare(tmp_path / "out", sources, validation={"heldout_frac": 0}, language={"keep": ["en"]})
    assert corpus_texts(tmp_path / "out", "train", "web") == english
    assert counts["web"]["dropped"] == {"language": 3}
    assert counts["web"]["languages"] == {"en": 6, "de": 3}
    assert counts["code"]["train"]["documents"] == 3
    assert "languages" not in counts["code"]
    assert "| de | 3 |" in (tmp_path / "out/data_card.md").read_text()
