"""Signatures against plain arithmetic, and what they find against exact similarity and theory."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.near_copies import TITLE, Trial, jaccard, judge, latin, plant, runs_of_words

from rayllm.core.rng import derive_seed
from rayllm.corpus.builtin.math import generate_problem
from rayllm.corpus.overlap.minhash import VERSION, NearDuplicatesConfig, band_hashes, signatures
from rayllm.corpus.overlap.ngrams import mix, ngram_hashes, split_words

DEFAULT = NearDuplicatesConfig()
WORDS = st.lists(st.sampled_from(["a", "bb", "ccc", "dd", "e", "\u4e2d", "?"]), max_size=12).map(" ".join)


def c4(shared_data: Path) -> list[str]:
    lines = (shared_data / "text" / "c4_en.jsonl").read_bytes().split(b"\n")
    return latin([json.loads(line)["text"] for line in lines if line])


def plain_signature(text: str, config: NearDuplicatesConfig) -> list[int]:
    """The definition: for each hash function the smallest product, run by run in whole numbers of Python."""
    runs = [int(value) >> 32 | 1 for value in ngram_hashes(split_words([text]).hashes, config.ngram)]
    seed = derive_seed(config.seed, "minhash")
    steps = [(place * 0x9E3779B97F4A7C15 + seed) % 2**64 for place in range(1, config.bands * config.rows + 1)]
    factors = [int(value) >> 32 | 1 for value in mix(np.array(steps, np.uint64))]
    return [min(run * factor % 2**32 for run in runs) for factor in factors]


def test_signatures_are_those_of_plain_arithmetic() -> None:
    texts = ["one two three four five", "the quick brown fox jumps over the lazy dog " * 9, "a b c d e f g"]
    found = signatures(texts, DEFAULT)
    assert found.shape == (3, 112)
    assert found.tolist() == [plain_signature(text, DEFAULT) for text in texts]


def test_the_algorithm_gives_what_it_always_gave() -> None:
    """Whoever changes these numbers raises VERSION: corpora made before would otherwise seem up to date."""
    hashes = band_hashes(["The quick brown fox jumps over the lazy dog.", "Too short"], DEFAULT)
    assert VERSION == 1
    assert hashes[:, 0].tolist() == [2612708819971134715, 10847102108036636175]


@settings(max_examples=50)
@given(st.lists(WORDS, max_size=8), st.integers(1, 4))
def test_band_hashes_do_not_depend_on_the_other_texts(texts: list[str], ngram: int) -> None:
    config = NearDuplicatesConfig(ngram=ngram, bands=3, rows=2)
    together = band_hashes(texts, config)
    assert together.shape == (len(texts), 3)
    alone = [band_hashes([text], config)[0].tolist() for text in texts]
    assert together.tolist() == alone


def test_band_hashes_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{number} runs of words with number {number % 7} " * (number % 9) for number in range(60)]
    whole = band_hashes(texts, DEFAULT)
    monkeypatch.setattr("rayllm.corpus.overlap.minhash.blocks", lambda texts: [(i, i + 1) for i in range(len(texts))])
    assert np.array_equal(band_hashes(texts, DEFAULT), whole)


def test_layout_case_and_punctuation_do_not_count() -> None:
    plain, other = band_hashes(
        ["It is a truth, universally acknowledged.", "it IS\n\na TRUTH universally  acknowledged"], DEFAULT
    )
    assert np.array_equal(plain, other)


def test_short_texts_are_near_only_to_texts_of_the_same_words() -> None:
    texts = ["Hello, world", "hello world!", "hello worlds", "", "  \n", "???", "!!!", "hello world hello world hello"]
    bands = band_hashes(texts, DEFAULT)
    equal = [(a, b) for a in range(len(texts)) for b in range(a) if (bands[a] == bands[b]).any()]
    assert equal == [(1, 0), (4, 3)]


def test_numbers_count() -> None:
    """Problems of one template with other numbers are different problems."""
    texts = [generate_problem(1, "train", number).document for number in range(300)]
    bands = band_hashes(texts, DEFAULT)
    sets = [runs_of_words(text, 5) for text in texts]
    near = [(a, b) for a in range(len(texts)) for b in range(a) if (bands[a] == bands[b]).any()]
    assert all(jaccard(sets[a], sets[b]) > 0.4 for a, b in near)
    assert len({b for _, b in near}) < 0.1 * len(texts)


def test_the_share_of_equal_hashes_estimates_similarity_as_independent_hashes_do() -> None:
    rng = np.random.default_rng(0)
    config = NearDuplicatesConfig(ngram=1)
    for similarity in (0.2, 0.5, 0.8):
        size, pairs = 300, 400
        shared = round(size * similarity)  # of a union of `size`, the rest divided among the two
        words = rng.permutation(size * pairs).reshape(pairs, size)
        half = (size - shared) // 2
        first = [" ".join(f"w{word}" for word in row[: shared + half]) for row in words]
        second = [" ".join(f"w{word}" for word in (*row[:shared], *row[shared + half :])) for row in words]
        estimates = (signatures(first, config) == signatures(second, config)).mean(axis=1)
        spread = np.sqrt(similarity * (1 - similarity) / 112)
        assert abs(estimates.mean() - similarity) < 4 * spread / np.sqrt(pairs)
        assert 0.85 * spread < estimates.std() < 1.15 * spread


def test_seeds_give_independent_signatures() -> None:
    texts = [f"these are words of text number {number} and some more of them" for number in range(50)]
    assert not (signatures(texts, DEFAULT) == signatures(texts, NearDuplicatesConfig(seed=2))).any()


def test_the_config_knows_its_algorithm_and_its_contents() -> None:
    assert DEFAULT.identity()["version"] == VERSION
    prose = NearDuplicatesConfig(contents=["prose"])
    assert prose.applies_to("prose")
    assert not prose.applies_to("code")
    assert [round(DEFAULT.candidate_probability(s), 2) for s in (0.5, 0.75, 0.8, 0.85)] == [0.05, 0.77, 0.92, 0.99]


def run_trial(texts: list[str]) -> Trial:
    copies, documents = plant(texts)
    return judge(copies, documents, band_hashes(documents, DEFAULT), DEFAULT)


def check(trial: Trial, tolerance: float) -> None:
    for line in [*trial.kinds, *trial.levels]:
        spread = np.sqrt(max(line.theory * (1 - line.theory), 1e-3) / line.copies)
        assert abs(line.found - line.theory) < tolerance * spread, str(line)
    assert trial.recall(0.85) >= 0.95


def test_near_copies_are_found_as_often_as_theory_says(shared_data: Path) -> None:
    check(run_trial(c4(shared_data)[:40]), tolerance=5)


@pytest.mark.slow
def test_recall_and_precision_on_many_near_copies(shared_data: Path) -> None:
    trial = run_trial(c4(shared_data)[:300])
    check(trial, tolerance=4)
    assert trial.precision[0.5] > 0.98
    assert trial.precision[0.7] > 0.8
    print("", TITLE, *trial.kinds, "", TITLE, *trial.levels, sep="\n")
    shares = ", ".join(f"{share:.3f} at {level}" for level, share in trial.precision.items())
    print(f"\nprecision of {trial.pairs:,} pairs: {shares}")
