"""Batches of cleaned texts to verdicts: which rule, language, score or evaluation item keeps a document out.

The filters come in this order: rules, language, score, contamination. Each looks only at what those before it have
kept, so the first that refuses a document is the reason that is counted.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int64

from rayllm.corpus.build.models import CLASSIFIER, CONTAMINATION, load_contamination, load_scorer
from rayllm.corpus.build.recipe import Recipe
from rayllm.corpus.card.tally import Amounts, Scores, count_amounts, count_scores
from rayllm.corpus.classifier import LOW_SCORE, Classifier
from rayllm.corpus.documents import Content
from rayllm.corpus.language import LANGUAGE, LanguageConfig, identify
from rayllm.corpus.overlap.decontaminate import CONTAMINATED
from rayllm.corpus.overlap.ngram_index import Match, NgramIndex
from rayllm.corpus.quality import Rules, broken_rules


@dataclass
class Verdicts:
    """What filters say of a batch.

    Attributes:
        reasons: For each text the reason why it is dropped, or None.
        languages: Amounts by language of the texts whose language was looked at.
        scores: Quality scores of the texts that were scored.
        matches: Evaluation items by the index of the text that holds them.
    """

    reasons: list[str | None]
    languages: Amounts = field(default_factory=dict)
    scores: Scores = field(default_factory=Scores)
    matches: dict[int, Match] = field(default_factory=dict)

    def kept(self) -> Int64[np.ndarray, " kept"]:
        """Indices of the texts that nothing has refused so far."""
        return np.array([index for index, reason in enumerate(self.reasons) if reason is None], np.int64)


class Filters:
    """The filters of training documents of one kind of content.

    Args:
        recipe: Says which filters there are.
        content: What the texts are.
    """

    def __init__(self, recipe: Recipe, content: Content) -> None:
        settings = recipe.settings
        self._rules: Rules = settings.rules.of(content)
        # Code and formulas are in no language that could be told.
        self._language: LanguageConfig | None = settings.language if content in ("prose", "chat") else None
        self._index: NgramIndex | None = load_contamination(recipe.models, recipe.model(CONTAMINATION))
        scored = settings.classifier is not None and settings.classifier.applies_to(content)
        self._scorer: Classifier | None = load_scorer(recipe.models, recipe.model(CLASSIFIER)) if scored else None
        self._min_score = settings.classifier.min_score if settings.classifier is not None else 0.0
        self._drops = settings.decontaminate is not None and settings.decontaminate.drops

    def judge(self, texts: list[str], sizes: Int64[np.ndarray, " texts"]) -> Verdicts:
        """Look at cleaned texts, ``sizes`` being their UTF-8 bytes."""
        verdicts = Verdicts(broken_rules(texts, self._rules))
        if self._language is not None:
            self._identify(self._language, texts, sizes, verdicts)
        if self._scorer is not None:
            self._score(self._scorer, texts, verdicts)
        if self._index is not None:
            self._find_items(self._index, texts, verdicts)
        return verdicts

    def _identify(
        self, config: LanguageConfig, texts: list[str], sizes: Int64[np.ndarray, " texts"], verdicts: Verdicts
    ) -> None:
        kept = verdicts.kept()
        found = identify([texts[place] for place in kept.tolist()], config.sample_chars)
        verdicts.languages = count_amounts([language for language, _ in found], sizes[kept])
        for place, (language, probability) in zip(kept.tolist(), found, strict=True):
            verdicts.reasons[place] = None if config.keeps(language, probability) else LANGUAGE

    def _score(self, scorer: Classifier, texts: list[str], verdicts: Verdicts) -> None:
        kept = verdicts.kept()
        scores = scorer.score([texts[place] for place in kept.tolist()])
        verdicts.scores = count_scores(scores, self._min_score)
        for place in kept[scores < self._min_score].tolist():
            verdicts.reasons[place] = LOW_SCORE

    def _find_items(self, index: NgramIndex, texts: list[str], verdicts: Verdicts) -> None:
        kept = verdicts.kept()
        for place, match in zip(kept.tolist(), index.find([texts[place] for place in kept.tolist()]), strict=True):
            if match is not None:
                verdicts.matches[place] = match
                verdicts.reasons[place] = CONTAMINATED if self._drops else None
