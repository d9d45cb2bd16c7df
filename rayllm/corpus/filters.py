"""Batches of cleaned texts to verdicts: which rule or evaluation item keeps a document out.

The filters come in this order: rules, contamination. Each looks only at what those before it have kept, so the first
that refuses a document is the reason that is counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rayllm.corpus.decontaminate import CONTAMINATED
from rayllm.corpus.documents import Content
from rayllm.corpus.models import load_contamination
from rayllm.corpus.ngram_index import Match, NgramIndex
from rayllm.corpus.quality import Rules, broken_rules
from rayllm.corpus.recipe import Recipe


@dataclass
class Verdicts:
    """What filters say of a batch.

    Attributes:
        reasons: For each text the reason why it is dropped, or None.
        matches: Evaluation items by the index of the text that holds them.
    """

    reasons: list[str | None]
    matches: dict[int, Match] = field(default_factory=dict)

    def kept(self) -> list[int]:
        """Indices of the texts that nothing has refused so far."""
        return [index for index, reason in enumerate(self.reasons) if reason is None]


class Filters:
    """The filters of training documents of one kind of content.

    Args:
        recipe: Says which filters there are.
        content: What the texts are.
    """

    def __init__(self, recipe: Recipe, content: Content) -> None:
        settings = recipe.settings
        self._rules: Rules = settings.rules.of(content)
        self._index: NgramIndex | None = load_contamination(recipe.models, recipe.scratch("models"))
        self._drops = settings.decontaminate is not None and settings.decontaminate.drops

    def judge(self, texts: Sequence[str]) -> Verdicts:
        """Look at cleaned texts."""
        verdicts = Verdicts(broken_rules(texts, self._rules))
        if self._index is not None:
            self._find_items(self._index, texts, verdicts)
        return verdicts

    def _find_items(self, index: NgramIndex, texts: Sequence[str], verdicts: Verdicts) -> None:
        kept = verdicts.kept()
        for place, match in zip(kept, index.find([texts[place] for place in kept]), strict=True):
            if match is not None:
                verdicts.matches[place] = match
                verdicts.reasons[place] = CONTAMINATED if self._drops else None
