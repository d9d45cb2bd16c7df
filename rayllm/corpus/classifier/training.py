"""Labelled examples to a classifier, and how good its scores are on examples that it has not seen.

Which part an example is held out in depends on its text and the seed alone: equal texts, and texts that differ in case
and white space, are held out together. The lengths of texts, scored in the same way, are the baseline: where labels
follow length, any classifier looks good.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, Shaped
from pydantic import BaseModel, ConfigDict

from rayllm.core.errors import DataError
from rayllm.core.rng import derive_seed
from rayllm.corpus.classifier.config import ClassifierConfig
from rayllm.corpus.classifier.examples import Example
from rayllm.corpus.classifier.features import FeatureRows, feature_rows, joined_rows
from rayllm.corpus.classifier.regression import Weights, fit_logistic, margins, probability
from rayllm.corpus.classifier.scorer import Classifier
from rayllm.corpus.overlap.exact import content_hashes
from rayllm.corpus.overlap.ngrams import mix

#: Fewer examples of a label than this say nothing.
MIN_EXAMPLES = 10
#: Entries of rows that are multiplied at once: what is in the way meanwhile is some 100 MB.
_BLOCK_ENTRIES = 1 << 22


class ClassifierReport(BaseModel):
    """What a classifier was trained from and how good it is; all but the numbers of examples on held-out examples.

    Attributes:
        good: Examples to keep.
        bad: Examples to drop.
        min_score: Smallest score of documents that are kept.
        auc: Probability that a good example has a higher score than a bad one.
        auc_of_length: The same where the score is nothing but the text's length.
        good_kept: Share of the good examples that are kept.
        bad_kept: Share of the bad examples that are kept.
        digest: Digest of its files; empty before they are written.
    """

    model_config = ConfigDict(frozen=True)

    good: int
    bad: int
    min_score: float
    auc: float
    auc_of_length: float
    good_kept: float
    bad_kept: float
    digest: str = ""

    def counts(self) -> dict[str, float]:
        """What the manifest says of it."""
        return self.model_dump(exclude={"digest"})


@dataclass(frozen=True)
class _Set:
    """Examples, ready to be learned from.

    Attributes:
        blocks: Their rows.
        good: Their labels.
        folds: The part that each is held out in.
        chars: Their lengths.
    """

    blocks: Sequence[FeatureRows]
    good: Bool[np.ndarray, " texts"]
    folds: Int64[np.ndarray, " texts"]
    chars: Int64[np.ndarray, " texts"]


def train(examples: Sequence[Example], config: ClassifierConfig, setting: str) -> tuple[Classifier, ClassifierReport]:
    """Train a classifier from all examples, and measure it on parts of them that were held out.

    Args:
        examples: The examples, their texts cleaned as documents are.
        config: How to learn.
        setting: Where ``config`` stands in the run file, for errors.

    Raises:
        DataError: If there are too few examples of a label.
    """
    prepared = _choose(examples, config)
    _check_numbers(prepared.good, config, setting)
    weights = _fit(prepared, np.ones(len(prepared.good), bool), config)
    classifier = Classifier(config.features, weights[:-1].astype(np.float32), float(weights[-1]))
    return classifier, _measure(prepared, config)


def auc(scores: Shaped[np.ndarray, " texts"], good: Bool[np.ndarray, " texts"]) -> float:
    """How probable it is that a good text has a higher score than a bad one; equal scores count half.

    Source: the statistic of Mann and Whitney 1947, doi:10.1214/aoms/1177730491.
    """
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    number = int(good.sum())
    above = ranks[good].sum() - number * (number + 1) / 2
    return float(above / (number * (len(good) - number)))


def _choose(examples: Sequence[Example], config: ClassifierConfig) -> _Set:
    """The examples with the smallest keys; a key depends on the text and the seed."""
    seed = np.uint64(derive_seed(config.seed, "classifier"))
    keys = mix(content_hashes([example.text for example in examples]) ^ seed)
    places = np.argsort(keys, kind="stable")[: config.max_examples]
    chosen = [examples[place] for place in places.tolist()]
    texts = [example.text for example in chosen]
    return _Set(
        blocks=list(joined_rows(feature_rows(texts, config.features), _BLOCK_ENTRIES)),
        good=np.array([example.good for example in chosen], bool),
        folds=(keys[places] % np.uint64(config.folds)).astype(np.int64),
        chars=np.fromiter(map(len, texts), np.int64, len(texts)),
    )


def _check_numbers(good: Bool[np.ndarray, " texts"], config: ClassifierConfig, setting: str) -> None:
    for found, wanted, name in ((good, config.good, "good"), (~good, config.bad, "bad")):
        if found.sum() < MIN_EXAMPLES:
            raise DataError(
                "there are too few labelled examples",
                where=f"{setting}.examples",
                why=f"{found.sum()} of {len(good)} are {name} (label {' or '.join(wanted)}); {MIN_EXAMPLES} are needed",
                fix=f"give more examples, or correct {setting}.label, .good and .bad",
            )


def _fit(prepared: _Set, used: Bool[np.ndarray, " texts"], config: ClassifierConfig) -> Weights:
    return fit_logistic(prepared.blocks, prepared.good, used, l2=config.l2, columns=1 << config.features.hash_bits)


def _measure(prepared: _Set, config: ClassifierConfig) -> ClassifierReport:
    """Score each example by a classifier that was trained without its part."""
    good, scores, by_length = prepared.good, np.zeros(len(prepared.good)), prepared.chars.astype(np.float64)
    for fold in range(config.folds):
        held = prepared.folds == fold
        scores[held] = probability(margins(prepared.blocks, _fit(prepared, ~held, config)))[held]
        # Whether long texts are the good ones has to be learned too.
        if auc(prepared.chars[~held], good[~held]) < 0.5:
            by_length[held] *= -1
    return ClassifierReport(
        good=int(good.sum()),
        bad=int((~good).sum()),
        min_score=config.min_score,
        auc=auc(scores, good),
        auc_of_length=auc(by_length, good),
        good_kept=float((scores[good] >= config.min_score).mean()),
        bad_kept=float((scores[~good] >= config.min_score).mean()),
    )
