"""Planted evaluation items are found, whatever was done to their layout; clean text is left alone."""

import json
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rayllm.core.errors import ArtifactDamaged, DataError
from rayllm.corpus.overlap.decontaminate import VERSION, DecontaminationConfig, read_items
from rayllm.corpus.overlap.ngram_index import EXCERPT_CHARS, Item, NgramIndex, build_index, load_index

GSM8K = {"kind": "jsonl", "path": "math/gsm8k_test_even.jsonl", "text": "question"}
HUMANEVAL = {
    "kind": "jsonl",
    "path": "eval/humaneval_even.jsonl",
    "template": "{prompt}{canonical_solution}",
    "id": "task_id",
}
QUESTION = "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total does it take?"


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def config(folder: Path, **sets: dict[str, Any]) -> DecontaminationConfig:
    placed = {name: {**source, "path": str(folder / source["path"])} for name, source in sets.items()}
    return DecontaminationConfig.model_validate({"sets": placed})


@pytest.fixture
def documents(shared_data: Path) -> list[str]:
    return [row["text"] for row in rows(shared_data / "text" / "c4_en.jsonl")]


@pytest.fixture
def index(shared_data: Path) -> NgramIndex:
    return config(shared_data, gsm8k=GSM8K, humaneval=HUMANEVAL).build("prepare.decontaminate")


def one(text: str, ngram: int = 13, min_words: int = 8) -> NgramIndex:
    return build_index([Item("set", "0", text)], ngram, min_words)


def test_all_planted_gsm8k_questions_are_found(index: NgramIndex, documents: list[str], shared_data: Path) -> None:
    questions = [row["question"] for row in rows(shared_data / "math" / "gsm8k_test_even.jsonl")]
    planted = [f"{documents[i]}\n\nQ: {question}\n{documents[i + 1]}" for i, question in enumerate(questions)]
    for number, (question, match) in enumerate(zip(questions, index.find(planted), strict=True)):
        assert match is not None
        assert (match.set, match.item) == ("gsm8k", str(number))
        assert match.matched == match.of
        assert match.text in question
        assert len(match.text) > 0.95 * len(question.strip())


def test_all_planted_humaneval_items_are_found_in_another_layout(
    index: NgramIndex, documents: list[str], shared_data: Path
) -> None:
    items = rows(shared_data / "eval" / "humaneval_even.jsonl")
    for change in (str, lambda code: code.replace("    ", "\t"), lambda code: " ".join(code.split()), str.upper):
        planted = [
            f"{documents[i]}\n{change(item['prompt'] + item['canonical_solution'])}" for i, item in enumerate(items)
        ]
        found = index.find(planted)
        assert [match and (match.set, match.item) for match in found] == [
            ("humaneval", item["task_id"]) for item in items
        ]


def test_clean_text_has_no_false_finds(index: NgramIndex, documents: list[str], shared_data: Path) -> None:
    library = Path(sysconfig.get_path("stdlib"))
    code = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(library.glob("*.py"))]
    other = [f"{row['question']}\n{row['answer']}" for row in rows(shared_data / "math" / "gsm8k_train.jsonl")]
    counts = {
        name: sum(match is not None for match in index.find(texts))
        for name, texts in (("C4", documents), ("standard library", code), ("GSM8K train", other))
    }
    print(f"\nfinds in {len(documents):,}, {len(code):,} and {len(other):,} clean documents: {counts}")
    # The training questions of GSM8K do share whole sentences with test questions: three documents of 7,473.
    assert counts == {"C4": 0, "standard library": 0, "GSM8K train": 3}


def test_twelve_shared_words_are_not_enough_and_thirteen_are() -> None:
    index = one(QUESTION)
    words = QUESTION.split()
    assert index.find([" ".join(["other", *words[3:15], "words"])]) == [None]
    (match,) = index.find([" ".join(["other", *words[3:16], "words"])])
    assert match is not None
    assert (match.matched, match.of) == (1, len(words) - 12)
    assert match.text == " ".join(words[3:16])
    assert match.item_text == QUESTION


def test_the_match_is_the_longest_stretch_as_the_document_writes_it() -> None:
    words = QUESTION.upper().split()
    document = " ".join(words[:13]) + " \u2014 \u4e2d\u6587 \u2014 " + "\n\t".join(words[2:18]) + "\u2026 end"
    (match,) = one(QUESTION).find([document])
    assert match is not None
    assert match.text == "\n\t".join(words[2:18])
    assert match.matched == 5


def test_runs_do_not_go_across_documents() -> None:
    words = QUESTION.split()
    assert one(QUESTION).find([" ".join(words[:10]), " ".join(words[10:])]) == [None, None]
    assert one(QUESTION).find([]) == []


def test_short_items_are_looked_for_whole_and_very_short_ones_not() -> None:
    items = [Item("s", "short", "one two three four five six seven eight"), Item("s", "tiny", "what is that")]
    index = build_index(items, 13, 8)
    whole, part, tiny = index.find(
        ["zero one, two three four five six seven eight nine", "one two three four five six seven", "so what is that"]
    )
    assert whole is not None
    assert (whole.item, whole.matched, whole.of) == ("short", 1, 1)
    assert part is tiny is None
    assert index.too_short == {"s": 1}


def test_the_item_with_the_most_shared_runs_is_named_and_the_first_of_equals() -> None:
    words = [f"w{number}" for number in range(30)]
    texts = [" ".join(words[:14]), " ".join(words), " ".join(words)]
    index = build_index([Item("s", str(number), text) for number, text in enumerate(texts)], 13, 8)
    more, equal = index.find([" ".join(words[:20]), " ".join(words[:13])])
    assert more is not None
    assert equal is not None
    assert (more.item, equal.item) == ("1", "0")


def test_a_collision_of_hashes_is_no_match(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["completely different words " * 9, QUESTION]
    index = one(QUESTION)
    monkeypatch.setattr(
        "rayllm.corpus.overlap.ngram_index.ngram_hashes", lambda words, n: words[: len(words) - n + 1] * 0 + 1
    )
    collided = one(QUESTION)
    assert [match is not None for match in collided.find(texts)] == [False, True]
    monkeypatch.undo()
    assert [match is not None for match in index.find(texts)] == [False, True]


def test_long_matches_are_cut() -> None:
    text = " ".join(f"word{number}" for number in range(1000))
    (match,) = one(text).find([text])
    assert match is not None
    assert len(match.text) == len(match.item_text) == EXCERPT_CHARS + 3


def test_a_saved_index_finds_the_same(tmp_path: Path, index: NgramIndex, documents: list[str]) -> None:
    short = build_index([*index.items, Item("s", "0", "one two three four five six seven eight")], 13, 8)
    digest = short.save(str(tmp_path / "index"))
    loaded = load_index(str(tmp_path / "index"), digest)
    assert loaded is load_index(str(tmp_path / "index"), digest)
    texts = [documents[0] + item.text for item in index.items[::50]] + documents[:20]
    texts.append("one two three four five six seven eight")
    assert loaded.find(texts) == short.find(texts)
    assert loaded.items == short.items
    assert {file.name for file in (tmp_path / "index").iterdir()} == {"hashes.npy", "items.npy", "index.json"}


def test_an_index_without_items_finds_nothing(tmp_path: Path) -> None:
    digest = build_index([], 13, 8).save(str(tmp_path))
    assert load_index(str(tmp_path), digest).find(["some words", ""]) == [None, None]


def test_a_damaged_index_is_refused(tmp_path: Path) -> None:
    digest = one(QUESTION).save(str(tmp_path))
    data = bytearray((tmp_path / "hashes.npy").read_bytes())
    data[-1] ^= 1
    (tmp_path / "hashes.npy").write_bytes(data)
    with pytest.raises(ArtifactDamaged, match="not the one that was written"):
        load_index(str(tmp_path), digest)


def test_items_are_cleaned_and_named(jsonl: Callable[..., str]) -> None:
    path = jsonl("set.jsonl", [{"q": "a\r\nb", "key": 7}, {"q": "c", "key": "x"}])
    sets = DecontaminationConfig.model_validate({"sets": {"mine": {"kind": "jsonl", "path": path, "text": "q"}}}).sets
    assert list(read_items("mine", sets["mine"], "sets")) == [Item("mine", "0", "a\nb"), Item("mine", "1", "c")]
    named = sets["mine"].model_copy(update={"id": "key"})
    assert [item.id for item in read_items("mine", named, "sets")] == ["7", "x"]


def test_a_set_with_a_bad_row_or_none_is_refused(jsonl: Callable[..., str]) -> None:
    path = jsonl("bad.jsonl", [{"question": "fine"}, {"answer": "no question"}])
    source = {"kind": "jsonl", "path": path, "text": "question"}
    with pytest.raises(DataError, match=r"bad\.jsonl:2") as caught:
        DecontaminationConfig.model_validate({"sets": {"mine": source}}).build("prepare.decontaminate")
    assert "missing_field" in str(caught.value)
    empty = {**source, "path": jsonl("empty.jsonl", [])}
    with pytest.raises(DataError, match=r"prepare\.decontaminate\.sets\.mine"):
        DecontaminationConfig.model_validate({"sets": {"mine": empty}}).build("prepare.decontaminate")


def test_the_config_refuses_what_cannot_be_meant() -> None:
    with pytest.raises(ValidationError, match="`min_words` \\(14\\) is more than `ngram` \\(13\\)"):
        DecontaminationConfig(min_words=14)
    with pytest.raises(ValidationError, match="letters, digits"):
        DecontaminationConfig.model_validate({"sets": {"a/b": {"kind": "jsonl", "path": "x"}}})
    assert DecontaminationConfig().identity()["version"] == VERSION
    assert DecontaminationConfig().drops
    assert not DecontaminationConfig(action="report").drops
