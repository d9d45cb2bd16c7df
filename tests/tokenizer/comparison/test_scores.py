"""Scores: counted over batches, added up, and texts that do not come back are seen."""

import pytest
from tokenizers import Tokenizer, normalizers

from rayllm.tokenizer.comparison import scores as module
from rayllm.tokenizer.comparison.candidates import Candidate
from rayllm.tokenizer.comparison.measure import Fit
from rayllm.tokenizer.comparison.scores import Score, compare, score
from rayllm.tokenizer.special import ordinary

TEXTS = ["The cat sat.", "", "a </s> <|endoftext|> b", "naïve\n" * 50, "x"]


@pytest.fixture
def candidate(tokenizer_dir) -> Candidate:
    return Candidate("a", "a", "", ordinary(Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))))


def test_counts_do_not_depend_on_batches(candidate, monkeypatch):
    whole = score(candidate, TEXTS)
    monkeypatch.setattr(module, "BATCH_BYTES", 1)
    pieces = score(candidate, TEXTS)
    assert (whole.fit, whole.documents, whole.changed) == (pieces.fit, pieces.documents, pieces.changed)
    assert whole.fit.tokens == sum(len(candidate.tokenizer.encode(text).ids) for text in TEXTS)
    assert whole.documents == len(TEXTS)
    assert whole.round_trip


def test_only_the_texts_that_change_are_counted(candidate):
    candidate.tokenizer.normalizer = normalizers.Lowercase()
    found = score(candidate, TEXTS)
    assert found.changed == 1
    assert not found.round_trip


def test_scores_add_up_and_no_text_is_no_division_by_zero(candidate):
    both = Score(Fit(10, 2, 5), 1, 0.5, 0) + Score(Fit(30, 2, 5), 2, 1.5, 1)
    assert both == Score(Fit(40, 4, 10), 3, 2.0, 1)
    assert both.mb_per_s == pytest.approx(20e-6)
    assert score(candidate, []).mb_per_s == 0.0


def test_every_candidate_sees_every_domain(candidate):
    ((_, by_domain),) = compare([candidate], {"a": TEXTS[:2], "b": TEXTS[2:]})
    assert {name: found.documents for name, found in by_domain.items()} == {"a": 2, "b": 3}
