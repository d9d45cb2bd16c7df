"""Settings of the evaluation of a checkpoint."""

from typing import Literal

from pydantic import Field

from rayllm.core.config import RUNTIME, ConfigModel, Count
from rayllm.inference.config import SamplingConfig


class SampleConfig(ConfigModel):
    """Texts that the model continues, and how."""

    per_domain: int = Field(default=10, ge=0, description="Samples of each domain; 0 for none.")
    prompt_tokens: int = Field(
        default=32,
        ge=1,
        description="Tokens of a validation document that begin a sample; at most half of the document and of the "
        "model's context. Of a conversation it is the whole question, up to half of the context.",
    )
    max_new_tokens: int = Field(
        default=128, ge=1, description="Length of a continuation, in tokens, as far as the model's context goes."
    )
    sampling: SamplingConfig = Field(default=SamplingConfig(), description="How each token is chosen.")


class EvaluateConfig(ConfigModel):
    """What is measured on a trained model."""

    checkpoint: Literal["best", "last"] = Field(
        default="best", description="`best`: as `train.checkpoint.best` says; `last`: the end of training."
    )
    max_tokens: Count | None = Field(
        default=None,
        ge=1,
        description="Validation tokens of each domain that count, at most; by default as many as during training, "
        "so that the scores before and after are of the same text.",
    )
    rows_per_batch: int = Field(default=32, ge=1, description="Rows of one forward pass.", json_schema_extra=RUNTIME)
    baseline_tokens: Count = Field(
        default=2_000_000,
        ge=2,
        description="Training tokens of each domain that the bigram baseline is counted on, at most.",
    )
    samples: SampleConfig = Field(default=SampleConfig(), description="Samples, and the check of their domain.")
