"""What a quality classifier learns from, what it looks at, and which documents it lets pass: ``prepare.classifier``."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from rayllm.core.config import ConfigModel, Count
from rayllm.corpus.classifier.features import NgramFeatures
from rayllm.corpus.documents import Content
from rayllm.corpus.sources import JsonlSource, ParquetSource

#: Name of the drop reason.
LOW_SCORE = "low_quality_score"
#: Raised whenever the same settings give other scores than before.
VERSION = 1

LabelledSource = Annotated[JsonlSource | ParquetSource, Field(discriminator="kind")]


def label_name(value: object) -> str:
    """How a label is written in a config, whatever its type in the file: ``1``, ``true``, ``good``."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip().lower()


def _one_or_many(value: object) -> object:
    return value if isinstance(value, list) else [value]


def _names(value: object) -> object:
    return [label_name(name) for name in value] if isinstance(value, list) else [label_name(value)]


Labels = Annotated[
    list[str], BeforeValidator(_names, json_schema_input_type=str | int | list[str | int]), Field(min_length=1)
]


class ClassifierConfig(ConfigModel):
    """A quality classifier, trained from labelled examples before the first document is read."""

    examples: Annotated[
        list[LabelledSource],
        BeforeValidator(_one_or_many, json_schema_input_type=LabelledSource | list[LabelledSource]),
    ] = Field(min_length=1, description="Labelled examples: JSONL or Parquet, one or several.")
    label: str = Field(default="label", description="Field that holds the label; a dot goes into nested fields.")
    good: Labels = Field(default=["1", "true"], description="Labels of texts to keep; case does not matter.")
    bad: Labels = Field(default=["0", "false"], description="Labels of texts to drop; other labels are errors.")
    max_examples: Count = Field(
        default=20_000, ge=20, description="Most examples to learn from, chosen by hash: 20,000 take about a gigabyte."
    )
    contents: list[Content] = Field(
        default=["prose"], min_length=1, description="Contents of sources whose documents are scored."
    )
    min_score: float = Field(
        default=0.5, ge=0, le=1, description="low_quality_score: a smaller probability of being good."
    )
    features: NgramFeatures = Field(default=NgramFeatures(), description="What of a text the score depends on.")
    l2: float = Field(default=0.03, gt=0, description="Penalty on half the sum of the squared weights.")
    folds: int = Field(
        default=5, ge=2, le=20, description="Parts that examples are held out in, to measure how good the scores are."
    )
    seed: int = Field(default=0, ge=0, description="Seed of the choice of examples, and of the parts held out.")

    @model_validator(mode="after")
    def _labels_differ(self) -> "ClassifierConfig":
        if both := sorted({*self.good} & {*self.bad}):
            raise ValueError(f"the label {both[0]!r} is `good` and `bad`: take it out of one of them")
        return self

    def identity(self) -> dict[str, Any]:
        """The settings, and the version of the algorithm."""
        return {**super().identity(), "version": VERSION}

    def applies_to(self, content: Content) -> bool:
        """Whether documents of a source with this ``content`` are scored."""
        return content in self.contents
