"""The quality classifier: what it counts, what it learns, how good it is on pages that people have judged."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rayllm.core.errors import ArtifactDamaged, DataError
from rayllm.corpus.build import models
from rayllm.corpus.classifier import Classifier, ClassifierConfig, load_classifier, train
from rayllm.corpus.classifier.examples import Example, read_examples
from rayllm.corpus.classifier.features import FeatureRows, NgramFeatures, feature_rows, joined_rows
from rayllm.corpus.classifier.regression import fit_logistic, margins, probability
from rayllm.corpus.classifier.training import auc
from rayllm.corpus.clean import CleanByContent
from rayllm.pipelines import prepare as stage

Prepare = Callable[..., dict[str, Any]]
Texts = Callable[..., list[str]]
Jsonl = Callable[..., str]

SETTING = "prepare.classifier"
SMALL = NgramFeatures(hash_bits=12, word_ngrams=[1, 2], char_ngrams=[2, 3])
GOOD_WORDS = ["the", "river", "of", "an", "old", "town", "and", "that", "boats", "have", "with", "be", "in", "summer"]
BAD_WORDS = ["BUY", "cheap", "CLICK", "now", "$$$", "login", "cart", "50%", "shop", ">>", "deals", "free"]


def config(path: str = "examples.jsonl", **more: Any) -> ClassifierConfig:
    source = {"kind": "jsonl", "path": path}
    return ClassifierConfig.model_validate({"examples": source, "features": SMALL.model_dump(), **more})


def page(number: int, good: bool) -> str:
    random = Random(number)
    return " ".join(random.choices(GOOD_WORDS if good else BAD_WORDS, k=random.randint(10, 60)))


def examples(count: int = 60) -> list[Example]:
    return [Example(page(number, number % 2 == 0), number % 2 == 0) for number in range(count)]


def rows(count: int = 60) -> list[dict[str, Any]]:
    return [{"text": example.text, "label": int(example.good)} for example in examples(count)]


def count(text: str, **features: Any) -> list[float]:
    (found,) = feature_rows([text], NgramFeatures.model_validate({"word_ngrams": [], "char_ngrams": [], **features}))
    return sorted(found.values.tolist())


def test_a_row_is_the_roots_of_the_shares_of_a_texts_ngrams() -> None:
    assert count("Ab, ab cd", word_ngrams=[1]) == pytest.approx([(1 / 3) ** 0.5, (2 / 3) ** 0.5])
    assert count("a b a b", word_ngrams=[2]) == pytest.approx([(1 / 3) ** 0.5, (2 / 3) ** 0.5])
    assert count("aab", char_ngrams=[1]) == pytest.approx([(1 / 3) ** 0.5, (2 / 3) ** 0.5])
    assert count("aA", char_ngrams=[1]) == pytest.approx([0.5**0.5] * 2)
    # Of two characters, the second begins an n-gram with the line end after the text.
    assert count("aa", char_ngrams=[2]) == pytest.approx([0.5**0.5] * 2)
    assert count("abcdef", char_ngrams=[1], max_chars=100) == count("abcdef" * 20, char_ngrams=[1], max_chars=120)
    assert count("a" * 100 + "b", char_ngrams=[1], max_chars=100) == [1.0]
    assert count("") == count("", word_ngrams=[1, 2], char_ngrams=[2, 3]) == []


@settings(deadline=None)
@given(texts=st.lists(st.text(max_size=30) | st.sampled_from(["a b", "\n", "\U0001f600", "Ab ab"]), max_size=8))
def test_a_score_does_not_depend_on_the_texts_beside_it(texts: list[str]) -> None:
    weights = np.random.default_rng(0).normal(size=1 << SMALL.hash_bits).astype(np.float32)
    classifier = Classifier(SMALL, weights, 0.25)
    together = classifier.score(texts)
    assert together.dtype == np.float32
    assert together.tolist() == [classifier.score([text]).item() for text in texts]


def test_long_lists_go_through_in_blocks_and_larger_blocks_have_the_same_rows() -> None:
    texts = [page(number, True) * 40 for number in range(200)]
    blocks = list(feature_rows(texts, SMALL))
    assert len(blocks) > 3
    assert sum(block.count for block in blocks) == 200
    joined = list(joined_rows(blocks, sum(len(block.rows) for block in blocks) // 2))
    assert 2 <= len(joined) < len(blocks)
    weights = np.arange(1 << SMALL.hash_bits, dtype=np.float64)
    assert np.array_equal(
        np.concatenate([block.times(weights) for block in joined]),
        np.concatenate([block.times(weights) for block in blocks]),
    )


def test_texts_beyond_what_a_key_can_number_go_into_further_blocks() -> None:
    features = NgramFeatures(hash_bits=22, word_ngrams=[1], char_ngrams=[])
    blocks = list(feature_rows([f"w{number}" for number in range(1500)], features))
    assert [block.count for block in blocks] == [1024, 476]
    assert all(block.values.tolist() == [1.0] * block.count for block in blocks)


def test_the_weights_are_where_the_penalised_loss_is_smallest() -> None:
    rng = np.random.default_rng(1)
    dense = rng.normal(size=(40, 7)).astype(np.float32)
    good = rng.random(40) < probability(dense @ rng.normal(size=7))
    used = np.arange(40) < 30
    block = FeatureRows(40, np.repeat(np.arange(40), 7), np.tile(np.arange(7, dtype=np.uint32), 40), dense.ravel())
    weights = fit_logistic([block], good, used, l2=0.5, columns=7)
    wide = np.c_[dense, np.ones(40)][used]
    gradient = wide.T @ (probability(wide @ weights) - good[used]) + 0.5 * weights
    start = wide.T @ (0.5 - good[used])
    assert np.linalg.norm(gradient) < 2e-3 * np.linalg.norm(start)
    assert margins([block], weights) == pytest.approx(np.c_[dense, np.ones(40)] @ weights)


def test_auc_counts_pairs_in_order_and_half_of_equal_ones() -> None:
    good = np.array([True, False, True, False])
    assert auc(np.array([3.0, 1.0, 2.0, 0.0]), good) == 1
    assert auc(np.array([0.0, 1.0, 2.0, 3.0]), good) == 0.25
    assert auc(np.array([1.0, 1.0, 1.0, 1.0]), good) == 0.5
    assert auc(np.array([2.0, 2.0, 3.0, 1.0]), good) == 0.875


def test_what_it_learns_depends_neither_on_the_order_of_examples_nor_on_the_process() -> None:
    shuffled = examples()
    Random(5).shuffle(shuffled)
    (first, report), (second, again) = (train(given, config(), SETTING) for given in (examples(), shuffled))
    assert first.weights.tobytes() == second.weights.tobytes()
    assert (first.intercept, report) == (second.intercept, again)
    assert report.auc > 0.99
    assert (report.good, report.bad) == (30, 30)
    scores = first.score([page(1000, True), page(1001, False)])
    assert scores[0] > 0.5 > scores[1]


def test_labels_without_meaning_are_not_predicted_even_where_every_text_occurs_twice() -> None:
    random = Random(3)
    pages = [Example(page(number, True), random.random() < 0.5) for number in range(150)]
    copies = [Example(example.text.upper() + " ", example.good) for example in pages]
    _, report = train([*pages, *copies], config(), SETTING)
    assert abs(report.auc - 0.5) < 0.12
    assert abs(report.auc_of_length - 0.5) < 0.12


def test_a_length_that_tells_good_from_bad_is_shown_as_the_baseline() -> None:
    pages = [Example("word " * (number + 5 if number % 2 else 300 - number), bool(number % 2)) for number in range(60)]
    _, report = train(pages, config(), SETTING)
    assert report.auc_of_length == 1


def test_of_many_examples_some_are_chosen_by_hash() -> None:
    _, report = train(examples(200), config(max_examples=60), SETTING)
    assert report.good + report.bad == 60


def test_too_few_examples_of_a_label_are_refused() -> None:
    with pytest.raises(DataError, match="4 of 34 are bad") as caught:
        train([*examples(60)[::2], *examples(8)[1::2]], config(), SETTING)
    assert "prepare.classifier.examples" in str(caught.value)


def test_a_saved_classifier_gives_the_same_scores_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    classifier, _ = train(examples(), config(), SETTING)
    digest = classifier.save(str(tmp_path))
    texts = [page(number, number % 3 == 0) for number in range(20)]
    loaded = load_classifier(str(tmp_path), digest)
    assert loaded.score(texts).tobytes() == classifier.score(texts).tobytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classifier.json", "weights.npy"]
    data = bytearray((tmp_path / "weights.npy").read_bytes())
    data[-1] ^= 1
    (tmp_path / "weights.npy").write_bytes(data)
    load_classifier.cache_clear()
    with pytest.raises(ArtifactDamaged):
        load_classifier(str(tmp_path), digest)


def test_labels_are_read_in_any_spelling_and_texts_are_cleaned(jsonl: Jsonl) -> None:
    labels = [1, 0, 1.0, True, False, "Good", "bad"]
    path = jsonl("e.jsonl", [{"page": {"text": "a\r\nb  "}, "judged": {"as": label}} for label in labels])
    asked = config(
        examples={"kind": "jsonl", "path": path, "text": "page.text"},
        label="judged.as",
        good=[1, True, "GOOD"],
        bad=[0, "false", "bad"],
    )
    found = list(read_examples(asked, CleanByContent(), SETTING))
    assert [example.good for example in found] == [True, False, True, True, False, True, False]
    assert {example.text for example in found} == {"a\nb"}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"text": "a", "label": 2}, "label '2'"),
        ({"text": "a"}, "label 'missing'"),
        ({"body": "a", "label": 1}, "missing_field"),
    ],
)
def test_examples_that_cannot_be_used_are_errors_with_their_place(
    jsonl: Jsonl, row: dict[str, Any], problem: str
) -> None:
    asked = config(jsonl("e.jsonl", [*rows(4), row]))
    with pytest.raises(DataError, match=problem) as caught:
        list(read_examples(asked, CleanByContent(), SETTING))
    assert "prepare.classifier.examples" in str(caught.value)
    assert "e.jsonl" in str(caught.value)


def test_a_label_cannot_be_good_and_bad() -> None:
    with pytest.raises(ValidationError, match="'yes' is `good` and `bad`"):
        config(good=["yes"], bad=["YES", "no"])


def test_a_preparation_drops_what_scores_low_and_says_how_good_the_scores_are(
    tmp_path: Path, prepare: Prepare, corpus_texts: Texts, jsonl: Jsonl
) -> None:
    pages = [{"text": page(1000 + number, number % 3 != 0)} for number in range(30)]
    sources = {
        "web": {"kind": "jsonl", "path": jsonl("web.jsonl", pages)},
        "code": {"kind": "jsonl", "path": jsonl("code.jsonl", pages), "content": "code"},
    }
    asked = config(jsonl("examples.jsonl", rows())).model_dump()
    validation = {"sources": {"web": {"kind": "jsonl", "path": jsonl("v.jsonl", [{"text": page(5001, False)}])}}}
    counts = prepare(tmp_path / "out", {"web": sources["web"]}, classifier=asked, validation=validation)
    assert counts["web"]["dropped"] == {"low_quality_score": 10}
    assert corpus_texts(tmp_path / "out", "train", "web") == [row["text"] for i, row in enumerate(pages) if i % 3]
    assert counts["web"]["validation"]["documents"] == 1
    card = json.loads((tmp_path / "out/card.json").read_text())
    report, scores = card["models"]["classifier"], card["domains"]["web"]["scores"]
    assert report["auc"] > 0.99 > report["auc_of_length"]
    assert (sum(scores["kept"]), sum(scores["dropped"])) == (20, 10)
    assert sum(scores["kept"][:10]) == sum(scores["dropped"][10:]) == 0
    for name in ("data_card.md", "data_card.html"):
        text = (tmp_path / "out" / name).read_text()
        assert "Quality classifier" in text
        assert f"{report['auc_of_length']:.3f}" in text
    assert load_classifier(str(tmp_path / "out/classifier"), report["digest"]).score([page(7, True)]) > 0.5
    # Code is not judged unless that is asked for.
    counts = prepare(tmp_path / "code", {"code": sources["code"]}, classifier=asked, validation={"heldout_frac": 0})
    assert counts["code"]["dropped"] == {}
    asked["contents"] = ["prose", "code"]
    counts = prepare(tmp_path / "too", {"code": sources["code"]}, classifier=asked, validation={"heldout_frac": 0})
    assert counts["code"]["dropped"] == {"low_quality_score": 10}


def test_a_preparation_that_goes_on_trains_again_only_where_the_classifier_is_damaged(
    tmp_path: Path, prepare: Prepare, jsonl: Jsonl, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    monkeypatch.setattr(models, "train", lambda *given: trained.append(1) or train(*given))
    asked = config(jsonl("examples.jsonl", rows())).model_dump()
    web = jsonl("web.jsonl", [{"text": page(1000 + number, number % 3 != 0)} for number in range(30)])

    def build() -> dict[str, bytes]:
        load_classifier.cache_clear()
        prepare(tmp_path / "out", {"web": {"kind": "jsonl", "path": web}}, classifier=asked)
        return {str(path): path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}

    first = build()
    assert build() == first
    assert len(trained) == 1
    (tmp_path / "out/classifier/weights.npy").write_bytes(b"torn")
    assert build() == first
    assert len(trained) == 2


def test_every_byte_of_examples_and_evaluation_sets_shapes_the_identity_of_the_corpus(
    tmp_path: Path, jsonl: Jsonl
) -> None:
    padding = [{"text": "x" * 90_000, "label": 1}]
    paths = {name: jsonl(f"{name}.jsonl", [*padding, {"text": "a b", "label": 0}, *padding]) for name in "es"}
    run = stage.Config.model_validate(
        {
            "name": "t",
            "sources": {"math": {"kind": "synthetic_math"}},
            "prepare": {
                "classifier": {"examples": {"kind": "jsonl", "path": paths["e"]}},
                "decontaminate": {"sets": {"quiz": {"kind": "jsonl", "path": paths["s"]}}},
            },
        }
    )
    before = stage.fingerprint(run)
    for name, key in (("e", "classifier"), ("s", "decontaminate/quiz")):
        path = Path(paths[name])
        path.write_text(path.read_text().replace('"label": 0', '"label": 1'))
        after = stage.fingerprint(run)
        assert {one for one in after if after[one] != before[one]} == {key}
        before = after


def test_people_s_judgements_of_web_pages_are_predicted_far_better_than_by_length(shared_data: Path) -> None:
    asked = ClassifierConfig.model_validate(
        {"examples": {"kind": "jsonl", "path": str(shared_data / "text" / "dclm_quality_labeled.jsonl")}}
    )
    classifier, report = train(list(read_examples(asked, CleanByContent(), SETTING)), asked, SETTING)
    print(
        f"\n{report.good} good and {report.bad} bad pages: held-out AUC {report.auc:.3f}, of length alone "
        f"{report.auc_of_length:.3f}; {report.good_kept:.1%} of the good are kept, {report.bad_kept:.1%} of the bad"
    )
    assert (report.good, report.bad) == (189, 135)
    assert report.auc > 0.89
    assert report.auc_of_length == pytest.approx(0.764, abs=0.001)
    assert report.good_kept > 0.85
    assert report.bad_kept < 0.35
    assert classifier.weights.dtype == np.float32
