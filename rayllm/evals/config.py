"""Settings of the evaluation of a checkpoint."""

from typing import Literal

from pydantic import Field

from rayllm.core.config import RUNTIME, ConfigModel, Count


class SampleConfig(ConfigModel):
    """Texts that the model continues, and how."""

    per_domain: int = Field(10, ge=0, description="Samples of each domain; 0 for none.")
    prompt_tokens: int = Field(
        32, ge=1, description="Tokens of a validation document that begin a sample; half of a shorter document."
    )
    max_new_tokens: int = Field(96, ge=1, description="Length of a continuation, in tokens.")
    temperature: float = Field(0.8, ge=0, description="Sampling temperature; 0 is greedy.")
    top_k: int = Field(50, ge=0, description="Sample among this many likeliest tokens; 0 for all.")


class EvaluateConfig(ConfigModel):
    """What is measured on a trained model."""

    checkpoint: Literal["best", "last"] = Field(
        "best", description="`best`: lowest mean bits per byte in training; `last`: the end of training."
    )
    max_tokens: Count | None = Field(
        None,
        ge=1,
        description="Validation tokens of each domain that count, at most; by default as many as during training, "
        "so that the scores before and after are of the same text.",
    )
    rows_per_batch: int = Field(32, ge=1, description="Rows of one forward pass.", json_schema_extra=RUNTIME)
    baseline_tokens: Count = Field(
        2_000_000, ge=2, description="Training tokens of each domain that the bigram baseline is counted on, at most."
    )
    samples: SampleConfig = Field(SampleConfig(), description="Samples, and the check of their domain.")
