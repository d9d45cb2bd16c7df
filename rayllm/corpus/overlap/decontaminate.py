"""Which documents hold items of the evaluation sets: the config, reading the sets, and the index to look with.

A document that shares a run of 13 words with an item is contaminated, as in GPT-3 (Brown et al. 2020,
arXiv:2005.14165, appendix C); as in Dolma (Soldaini et al. 2024, arXiv:2402.00159, section 4.4) the whole document is
dropped, not a window of it. Words are those of ``ngrams``, so that case, punctuation, white space and indentation hide
nothing. Every find is reported with the words in question.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from rayllm.core.config import ConfigModel
from rayllm.core.errors import DataError
from rayllm.corpus.clean import clean_text
from rayllm.corpus.overlap.ngram_index import Item, NgramIndex, build_index
from rayllm.corpus.readers.strict import read_strictly
from rayllm.corpus.sources import JsonlSource, ParquetSource, domain_name

#: Raised whenever the same settings find other documents than before.
VERSION = 1
#: Name of the reason in counts and data cards.
CONTAMINATED = "contaminated"

EvaluationSource = Annotated[JsonlSource | ParquetSource, Field(discriminator="kind")]


class DecontaminationConfig(ConfigModel):
    """Evaluation sets that must not stand in the training data, and what counts as standing there."""

    sets: dict[str, EvaluationSource] = Field(
        default={},
        description="Evaluation sets by name: JSONL or Parquet, each row an item, its `text` or `template` the words.",
    )
    ngram: int = Field(
        default=13, ge=5, le=100, description="A document that shares this many words in a row with an item has it."
    )
    min_words: int = Field(
        default=8,
        ge=3,
        description="Items of fewer words than `ngram` are looked for whole, those of fewer than this not at all.",
    )
    action: Literal["drop", "report"] = Field(
        default="drop", description="Whether documents that have an item are dropped, or only reported."
    )

    @field_validator("sets")
    @classmethod
    def _plain_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        return {domain_name(name): source for name, source in value.items()}

    @model_validator(mode="after")
    def _short_items_are_shorter(self) -> "DecontaminationConfig":
        if self.min_words > self.ngram:
            raise ValueError(f"`min_words` ({self.min_words}) is more than `ngram` ({self.ngram}): lower it")
        return self

    def identity(self) -> dict[str, Any]:
        """The settings, and the version of the algorithm."""
        return {**super().identity(), "version": VERSION}

    def build(self, section: str) -> NgramIndex:
        """Read all sets and index them.

        Args:
            section: Where this config stands in the run file, for errors.

        Raises:
            DataError: If a set cannot be read, is empty, or has a row without text.
        """
        items = [item for name in sorted(self.sets) for item in read_items(name, self.sets[name], f"{section}.sets")]
        return build_index(items, self.ngram, self.min_words)

    @property
    def drops(self) -> bool:
        """Whether documents that have an item go."""
        return self.action == "drop"


def read_items(name: str, source: JsonlSource | ParquetSource, section: str) -> Iterator[Item]:
    """Read one evaluation set, cleaned as documents are.

    Args:
        name: Its name.
        source: Where it is.
        section: Where the sets stand in the run file, for errors.

    Raises:
        DataError: If it cannot be read, is empty, or has a row without text: items that are not read are not found.
    """
    setting, count = f"{section}.{name}", 0
    for document in read_strictly(source, name, setting, row="an item of an evaluation set"):
        yield Item(name, document.id or str(count), clean_text(document.text))
        count += 1
    if not count:
        raise DataError("an evaluation set is empty", where=setting, fix="correct its `path`, or take the set out")
