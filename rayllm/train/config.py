"""Settings of training: length, batch, precision, engine, checkpoints, validation, logging."""

from typing import Literal

from pydantic import Field, model_validator

from rayllm.core.config import RUNTIME, ConfigModel, Count
from rayllm.optim.config import OptimizerConfig, ScheduleConfig

Precision = Literal["fp32", "bf16"]


class EngineConfig(ConfigModel):
    """Who owns gradients and optimiser state."""

    kind: Literal["deepspeed", "torch"] = Field(
        "deepspeed", description="`deepspeed`: ZeRO; `torch`: a plain loop with averaged gradients."
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        1, description="ZeRO stage: 0 replicates, 1 shards optimiser state, 2 gradients too, 3 parameters too."
    )


class WorkersConfig(ConfigModel):
    """How many processes train, and what each gets."""

    count: int | None = Field(
        None, ge=1, description="Workers; by default one per GPU of the cluster, else two (one on a one-CPU machine)."
    )
    cpus: float | None = Field(
        None, gt=0, description="CPUs (and threads) of each worker; by default the cluster's CPUs shared out evenly."
    )
    max_failures: int = Field(3, ge=0, description="Restarts from the last checkpoint before the run gives up.")


class CheckpointConfig(ConfigModel):
    """When to save, and what to keep."""

    every_steps: int = Field(100, ge=1, description="Steps between checkpoints; the last step is always saved.")
    keep_last: int = Field(2, ge=2, description="Newest checkpoints to keep; two, so that one damaged is no loss.")
    keep_best: bool = Field(True, description="Keep the checkpoint with the best mean bits per byte, however old.")


class ValidationRunConfig(ConfigModel):
    """Validation in the loop."""

    every_steps: int = Field(100, ge=1, description="Steps between validations; before the first step and at the end too.")
    max_tokens: Count = Field(65_536, ge=1, description="Tokens of each domain that count, at most.")


class SamplesConfig(ConfigModel):
    """Text written by the model while it trains."""

    every_steps: int = Field(0, ge=0, description="Steps between samples; 0 for none but at the end.")
    max_new_tokens: int = Field(48, ge=1, description="Length of a sample, in tokens.")
    prompt_tokens: int = Field(12, ge=1, description="Tokens of a validation document that begin each sample.")
    temperature: float = Field(0.8, ge=0, description="Sampling temperature; 0 is greedy.")
    top_k: int = Field(50, ge=0, description="Sample among this many likeliest tokens; 0 for all.")


class LoggingConfig(ConfigModel):
    """Where metrics go besides ``metrics.jsonl`` and the console."""

    every_steps: int = Field(10, ge=1, description="Steps between `train` records.")
    tensorboard: bool = Field(True, description="Write TensorBoard event files beside the metrics.")
    wandb: bool = Field(False, description="Log to Weights & Biases; offline unless WANDB_API_KEY is set.")
    wandb_project: str = Field("rayllm", description="Project of Weights & Biases.")


class TrainConfig(ConfigModel):
    """One training run."""

    seq_len: int = Field(256, ge=8, description="Row length in tokens, unless a curriculum stage says otherwise.")
    global_batch_tokens: Count = Field(16_384, ge=8, description="Tokens of one optimizer step over all workers.")
    micro_batch_size: int = Field(
        16, ge=1, description="Rows of one forward pass on one worker.", json_schema_extra=RUNTIME
    )
    max_steps: int | None = Field(None, ge=1, description="Optimizer steps; give this or `tokens`.")
    tokens: Count | None = Field(None, ge=1, description="Training tokens in all; give this or `max_steps`.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Compute precision; master weights are float32. `auto` chooses by hardware and width."
    )
    document_mask: bool = Field(True, description="Keep attention within a document.")
    activation_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass to save memory.", json_schema_extra=RUNTIME
    )
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="AdamW.")
    schedule: ScheduleConfig = Field(ScheduleConfig(), description="Learning rate over the run.")
    engine: EngineConfig = Field(
        EngineConfig(), description="Gradients, optimiser state, sharding.", json_schema_extra=RUNTIME
    )
    workers: WorkersConfig = Field(WorkersConfig(), description="Processes and failures.", json_schema_extra=RUNTIME)
    checkpoint: CheckpointConfig = Field(CheckpointConfig(), description="Saving.", json_schema_extra=RUNTIME)
    validation: ValidationRunConfig = Field(
        ValidationRunConfig(), description="Validation in the loop.", json_schema_extra=RUNTIME
    )
    samples: SamplesConfig = Field(SamplesConfig(), description="Samples in the loop.", json_schema_extra=RUNTIME)
    logging: LoggingConfig = Field(LoggingConfig(), description="Metrics.", json_schema_extra=RUNTIME)

    @model_validator(mode="after")
    def _one_length(self) -> "TrainConfig":
        if (self.max_steps is None) == (self.tokens is None):
            raise ValueError("set exactly one of `train.max_steps` and `train.tokens`")
        if self.global_batch_tokens % self.seq_len:
            near = max(1, round(self.global_batch_tokens / self.seq_len)) * self.seq_len
            raise ValueError(
                f"global_batch_tokens {self.global_batch_tokens} is not a multiple of seq_len {self.seq_len}; "
                f"the nearest is {near}"
            )
        return self
