"""What a preparation is asked to do: ``prepare:`` of the run file."""

from pydantic import Field

from rayllm.core.config import ConfigModel, Count
from rayllm.corpus.classifier import ClassifierConfig
from rayllm.corpus.clean import CleanByContent
from rayllm.corpus.language import LanguageConfig
from rayllm.corpus.overlap.decontaminate import DecontaminationConfig
from rayllm.corpus.overlap.minhash import NearDuplicatesConfig
from rayllm.corpus.quality import RulesByContent


class BuildSettings(ConfigModel):
    """How a corpus is cleaned, filtered and cut; the run file's ``prepare:``."""

    unit_bytes: Count = Field(default=8 << 20, ge=1, description="Input that one task reads, in bytes.")
    shard_bytes: Count = Field(default=16 << 20, ge=1, description="Text in one shard of the corpus, in bytes.")
    max_row_bytes: Count = Field(
        default=16 << 20, ge=1, description="Longer lines and files go into quarantine, in bytes."
    )
    max_bad_frac: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Share of a source's rows that may be unusable; ten bad rows are always tolerated.",
    )
    max_bytes_per_domain: Count | None = Field(
        default=None, ge=1, description="Most training text of a domain, in bytes, chosen by hash; null: no limit."
    )
    keep_dropped: bool = Field(
        default=False, description="Whether dropped documents are written to `dropped/<domain>/`."
    )
    clean: CleanByContent = Field(
        default=CleanByContent(), description="How texts are made regular, by the `content` of sources."
    )
    rules: RulesByContent = Field(default=RulesByContent(), description="Quality rules by the `content` of sources.")
    language: LanguageConfig | None = Field(
        default=None, description="Which languages prose may be in; null: whichever it is."
    )
    classifier: ClassifierConfig | None = Field(
        default=None, description="A quality classifier to train from labelled examples and to filter by; null: none."
    )
    near_duplicates: NearDuplicatesConfig | None = Field(
        default=None, description="What counts as nearly the same text; null: only equal texts are duplicates."
    )
    decontaminate: DecontaminationConfig | None = Field(
        default=None, description="Evaluation sets whose items must not be trained on; null: none."
    )
