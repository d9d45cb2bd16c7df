"""Settings of training: length, batch, precision, engine, checkpoints, validation, logging."""

from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationInfo, field_validator, model_validator

from rayllm.core.config import RUNTIME, ConfigModel, Count
from rayllm.core.fork_config import ForkConfig
from rayllm.data.mixing.plan import Packing
from rayllm.inference.config import SamplingConfig
from rayllm.model.lora.config import LoraConfig
from rayllm.optim.config import AdamWConfig, CosineSchedule, OptimizerConfig, ScheduleConfig
from rayllm.train.guards.config import GuardsConfig
from rayllm.train.objective_config import PREFERENCE_LOSS, DpoConfig, LanguageModelingConfig, ObjectiveConfig

Precision = Literal["fp32", "bf16", "fp16", "fp8"]


class EngineConfig(ConfigModel):
    """Who owns gradients and optimiser state."""

    kind: Literal["deepspeed", "torch"] = Field(
        default="deepspeed", description="`deepspeed`: ZeRO; `torch`: a plain loop with averaged gradients."
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        default=1, description="ZeRO stage: 0 replicates, 1 shards optimiser state, 2 gradients too, 3 parameters too."
    )
    offload_optimizer: bool = Field(
        default=False,
        description="Keep master weights and optimiser state in the host's memory and take the optimizer step there "
        "(ZeRO 1 to 3).",
    )
    offload_parameters: bool = Field(
        default=False,
        description="Keep parameters in the host's memory, each on the device only while it is used (ZeRO 3).",
    )

    @model_validator(mode="after")
    def _offload_has_a_stage(self) -> "EngineConfig":
        for name, lowest in (("offload_optimizer", 1), ("offload_parameters", 3)):
            if getattr(self, name) and (self.kind != "deepspeed" or self.zero_stage < lowest):
                found = f"zero_stage {self.zero_stage}" if self.kind == "deepspeed" else f"kind {self.kind}"
                raise ValueError(
                    f"`train.engine.{name}` moves what ZeRO has sharded, and {found} shards nothing of it: set "
                    f"`train.engine.kind: deepspeed` and `train.engine.zero_stage` to {lowest}"
                    f"{'' if lowest == 3 else ' or more'}"
                )
        return self

    @property
    def shards_parameters(self) -> bool:
        """Whether parameters are whole only while their layer runs."""
        return self.kind == "deepspeed" and self.zero_stage == 3


class WorkersConfig(ConfigModel):
    """How many processes train, and what each gets."""

    count: Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = Field(
        default=None,
        description="Workers, or `[fewest, most]`: as many of them as there is room for, fewer when a node is lost, "
        "more when one comes. By default one per GPU of the cluster, else two (one on a one-CPU machine).",
    )
    cpus: float | None = Field(
        default=None,
        gt=0,
        description="CPUs (and threads) of each worker; by default the cluster's CPUs shared out evenly.",
    )
    max_failures: int = Field(
        default=3,
        ge=0,
        description="Restarts from the last checkpoint, without a newer one in between, before the run gives up.",
    )
    wait_s: float = Field(
        default=600.0, ge=0, description="Seconds to wait for lost nodes, below the fewest workers, before giving up."
    )
    grow_after_s: float = Field(
        default=60.0,
        ge=0,
        description="Seconds that workers train before the run saves and goes on with more, where there is room.",
    )

    @model_validator(mode="after")
    def _fewest_first(self) -> "WorkersConfig":
        if isinstance(self.count, tuple) and self.count[0] > self.count[1]:
            low, high = self.count
            raise ValueError(f"`count: [{low}, {high}]`: the fewest workers come first, write [{high}, {low}]")
        return self

    def bounds(self, default: int) -> tuple[int, int]:
        """The fewest and the most workers; ``default`` of both where nothing is set."""
        if isinstance(self.count, tuple):
            return self.count
        count = self.count or default
        return count, count


class Fp8Config(ConfigModel):
    """How `precision: fp8` computes the linear layers inside the blocks."""

    recipe: Literal["tensorwise", "rowwise"] = Field(
        default="tensorwise",
        description="Scales: one for each tensor (fastest), or one for each row (outliers cost less precision).",
    )
    emulate: bool = Field(
        default=False,
        description="Round to fp8 but compute in higher precision, on hardware without fp8: slow, to see the loss.",
    )


class BestConfig(ConfigModel):
    """Which checkpoint is the best."""

    metric: str = Field(
        default="mean_bits_per_byte",
        description="A metric of `validation` records: `mean_bits_per_byte`, `mean_loss`, `loss/<domain>`, "
        "`bits_per_byte/<domain>` and others; by default, where replies are compared, `mean_preference_loss`.",
    )
    mode: Literal["min", "max"] = Field(default="min", description="Whether lower or higher is better.")


class CheckpointConfig(ConfigModel):
    """When to save, and what to keep; what decides where checkpoints lie is in the hash of a run that rolls back."""

    every_steps: int = Field(default=100, ge=1, description="Steps between checkpoints; the last step is always saved.")
    at_steps: list[Annotated[int, Field(ge=1)]] = Field(
        default=[], description="More steps after which to save, such as the rungs at which a sweep's trials wait."
    )
    keep_last: int = Field(
        default=2, ge=2, description="Newest checkpoints to keep; two, so that one damaged is no loss."
    )
    best: BestConfig | None = Field(
        default=BestConfig(),
        description="Keep the best of the checkpoints that were validated, however old; null: none is the best.",
        json_schema_extra=RUNTIME,
    )
    stable: bool = Field(
        default=True,
        description="With `schedule.kind: wsd`, save and pin the last step before the learning rate decays, so that "
        "runs with other decays can fork it.",
    )
    asynchronous: bool = Field(
        default=True,
        description="Only copy the state on the step path; write, hash and upload while training goes on. Takes CPU "
        "memory: 4 bytes for each parameter on rank 0, and what each rank holds of weights and moments.",
        json_schema_extra=RUNTIME,
    )
    timeout_s: float = Field(
        default=3600.0,
        gt=0,
        description="Seconds that one checkpoint may be in the making before it counts as hanging, and a rank that "
        "waits for it as stalled.",
        json_schema_extra=RUNTIME,
    )

    def due(self, step: int) -> bool:
        """Whether a checkpoint follows a step by this section."""
        return step % self.every_steps == 0 or step in self.at_steps


class ValidationRunConfig(ConfigModel):
    """Validation in the loop."""

    every_steps: int = Field(
        default=100, ge=1, description="Steps between validations; before the first step and at the end too."
    )
    at_steps: list[Annotated[int, Field(ge=1)]] = Field(
        default=[], description="More steps after which to validate, such as the rungs at which a sweep judges a trial."
    )
    max_tokens: Count = Field(default=65_536, ge=1, description="Tokens of each domain that count, at most.")

    def due(self, step: int) -> bool:
        """Whether a validation follows a step."""
        return step % self.every_steps == 0 or step in self.at_steps


class SamplesConfig(ConfigModel):
    """Text written by the model while it trains."""

    every_steps: int = Field(default=0, ge=0, description="Steps between samples; 0 for none but at the end.")
    max_new_tokens: int = Field(
        default=48, ge=1, description="Length of a sample, in tokens, as far as the context goes."
    )
    prompt_tokens: int = Field(
        default=12,
        ge=1,
        description="Tokens of a validation document that begin each sample; at most half of the context.",
    )
    sampling: SamplingConfig = Field(default=SamplingConfig(), description="How tokens are chosen.")


class LoggingConfig(ConfigModel):
    """Where metrics go besides ``metrics.jsonl`` and the console."""

    every_steps: int = Field(default=10, ge=1, description="Steps between `train` records.")
    update_ratios: bool = Field(
        default=True,
        description="Measure in these steps how far each group of parameters moves, relative to its size.",
    )
    tensorboard: bool = Field(default=True, description="Write TensorBoard event files beside the metrics.")
    wandb: bool = Field(default=False, description="Log to Weights & Biases; offline unless WANDB_API_KEY is set.")
    wandb_project: str = Field(default="rayllm", description="Project of Weights & Biases.")


Judging = TypeVar("Judging", CheckpointConfig, GuardsConfig)


class TrainConfig(ConfigModel):
    """One training run."""

    seq_len: int = Field(
        default=256, ge=8, description="Row length in tokens, unless a curriculum stage says otherwise."
    )
    global_batch_tokens: Count = Field(
        default=16_384, ge=8, description="Tokens of one optimizer step over all workers."
    )
    micro_batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default=16,
        description="Rows of one forward pass on one worker, at most; `auto`: as many as memory holds and as pay.",
        json_schema_extra=RUNTIME,
    )
    max_steps: int | None = Field(
        default=None, ge=1, description="Optimizer steps; give this, `tokens` or `tokens_per_param`."
    )
    tokens: Count | None = Field(
        default=None, ge=1, description="Training tokens in all; give this, `max_steps` or `tokens_per_param`."
    )
    tokens_per_param: float | None = Field(
        default=None,
        gt=0,
        description="Training tokens for each parameter of the model (all of them, a shared embedding once), about 20 "
        "where compute is the limit (Chinchilla); give this, `max_steps` or `tokens`.",
    )
    init: str | None = Field(
        default=None,
        pattern=r"^from_(hf|checkpoint):.+",
        description="Begin with other weights than new ones: `from_hf:URI` (a model of transformers) or "
        "`from_checkpoint:URI` (weights only, of another run).",
    )
    fork: ForkConfig | None = Field(
        default=None,
        description="Go on from a checkpoint of another run with all of its state, under this run's own learning rate, "
        "schedule, weights and budget; a URI, or `{source: URI, step: ...}`.",
    )
    lora: LoraConfig | None = Field(
        default=None,
        description="Train low-rank adapters beside the matrices of `train.init`'s model, which stay as they are, and "
        "save only them; null: train all weights.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16", "fp8"] = Field(
        default="auto",
        description="Compute precision; master weights are float32. `auto` chooses fp32 or bf16 by hardware and width; "
        "`fp16` scales the loss; `fp8` is bf16 with 8-bit products inside the blocks.",
    )
    fp8: Fp8Config = Field(default=Fp8Config(), description="Settings of `precision: fp8`.")
    attention: Literal["auto", "sdpa", "flex", "varlen", "flash"] = Field(
        default="auto",
        description="Attention kernels: torch's SDPA (everywhere), FlexAttention, torch's varlen, or the package "
        "flash-attn (GPUs); `auto` chooses by what is there and what the masks need.",
        json_schema_extra=RUNTIME,
    )
    compile: bool | Literal["auto"] = Field(
        default="auto",
        description="Let torch compile the training step: faster, after some seconds for each new size; kernels are "
        "kept for later runs. `auto`: on GPUs where it is possible, in fp32 and bf16. Not with ZeRO stage 3, not "
        "with selective activation checkpointing.",
        json_schema_extra=RUNTIME,
    )
    packing: Packing = Field(
        default="concat",
        description="`concat`: rows are slices of the concatenated documents; `best_fit`: rows are filled with whole "
        "documents, only those longer than a row are cut.",
    )
    document_mask: bool = Field(default=True, description="Keep attention within a document.")
    z_loss: float = Field(
        default=0.0, ge=0, description="Weight of the squared log-partition added to the training loss (PaLM: 1e-4)."
    )
    activation_checkpointing: Literal["none", "full", "selective"] = Field(
        default="none",
        description="What is computed again in the backward pass to save memory: `none`; `full`, all of a block; "
        "`selective`, its norms, rotations and activation functions, but no matrix product and no attention.",
        json_schema_extra=RUNTIME,
    )
    objective: ObjectiveConfig = Field(default=LanguageModelingConfig(), description="What the run minimises.")
    optimizer: OptimizerConfig = Field(default=AdamWConfig(), description="How gradients change weights.")
    schedule: ScheduleConfig = Field(default=CosineSchedule(), description="Learning rate over the run.")
    engine: EngineConfig = Field(
        default=EngineConfig(), description="Gradients, optimiser state, sharding.", json_schema_extra=RUNTIME
    )
    workers: WorkersConfig = Field(
        default=WorkersConfig(), description="Processes and failures.", json_schema_extra=RUNTIME
    )
    checkpoint: CheckpointConfig = Field(default=CheckpointConfig(), description="Saving.", json_schema_extra=RUNTIME)
    validation: ValidationRunConfig = Field(
        default=ValidationRunConfig(), description="Validation in the loop.", json_schema_extra=RUNTIME
    )
    samples: SamplesConfig = Field(
        default=SamplesConfig(), description="Samples in the loop.", json_schema_extra=RUNTIME
    )
    logging: LoggingConfig = Field(default=LoggingConfig(), description="Metrics.", json_schema_extra=RUNTIME)
    guards: GuardsConfig = Field(default=GuardsConfig(), description="What is watched while the run trains.")

    @field_validator("checkpoint", "guards")
    @classmethod
    def _judged_by_the_objective(cls, value: Judging, info: ValidationInfo) -> Judging:
        """Where replies are compared, bits per byte of the chosen ones say little, the loss of the pairs says more."""
        part = "best" if isinstance(value, CheckpointConfig) else "early_stopping"
        judge = getattr(value, part)
        compares = isinstance(info.data.get("objective"), DpoConfig)
        if not compares or judge is None or "metric" in judge.model_fields_set:
            return value
        return value.model_copy(update={part: judge.model_copy(update={"metric": f"mean_{PREFERENCE_LOSS}"})})

    @model_validator(mode="after")
    def _one_length(self) -> "TrainConfig":
        given = [name for name in ("max_steps", "tokens", "tokens_per_param") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(f"`{name}`" for name in given) or "none of them"
            raise ValueError(
                f"set exactly one of `train.max_steps`, `train.tokens` and `train.tokens_per_param`, not {found}"
            )
        return self

    @model_validator(mode="after")
    def _best_fit_is_masked(self) -> "TrainConfig":
        if self.packing == "best_fit" and not self.document_mask:
            raise ValueError(
                "`packing: best_fit` puts documents that have nothing to do with each other into one row: keep "
                "`train.document_mask` true, or set `train.packing: concat`"
            )
        return self

    @model_validator(mode="after")
    def _preferences_have_what_they_need(self) -> "TrainConfig":
        if not isinstance(self.objective, DpoConfig):
            return self
        if self.init is None:
            raise ValueError("`objective: {kind: dpo}` goes on from a trained model: name it in `train.init`")
        if self.packing != "best_fit":
            raise ValueError("`objective: {kind: dpo}` needs pairs whole in their rows: set `train.packing: best_fit`")
        if self.z_loss:
            raise ValueError("`z_loss` would be part of every log-probability that is compared: set it to 0")
        return self

    @model_validator(mode="after")
    def _blocks_can_be_compiled(self) -> "TrainConfig":
        if self.compile is True and self.engine.shards_parameters:
            raise ValueError(
                "`compile: true` needs whole parameters, and ZeRO stage 3 gathers them layer by layer: set "
                "`train.compile: false`, or `train.engine.zero_stage` to 2 or less"
            )
        if self.compile is True and self.activation_checkpointing == "selective":
            raise ValueError(
                "`compile: true` hides from `activation_checkpointing: selective` what it would keep: set "
                "`train.compile: false`, or `train.activation_checkpointing` to none or full"
            )
        return self

    @model_validator(mode="after")
    def _fp8_is_used(self) -> "TrainConfig":
        if self.precision != "fp8" and self.fp8 != Fp8Config():
            raise ValueError(f"`train.fp8` is set but `train.precision` is {self.precision}: set it to fp8")
        return self

    @model_validator(mode="after")
    def _adapters_have_a_base(self) -> "TrainConfig":
        if self.lora is not None and self.init is None:
            raise ValueError(
                "`train.lora` trains adapters beside weights that stay as they are, and new weights know nothing: set "
                "`train.init` to the base (`from_checkpoint:URI` or `from_hf:URI`), or `train.lora: null`"
            )
        if self.lora is not None and self.precision == "fp8":
            raise ValueError(
                "`precision: fp8` is for matrices that are trained, and with `train.lora` those of the blocks are not: "
                "set `train.precision: bf16`"
            )
        return self

    @property
    def micro_batch_rows(self) -> int:
        """``micro_batch_size`` as a number: a session has replaced ``auto`` before anything asks."""
        assert self.micro_batch_size != "auto", "the rows of a micro-batch have not been chosen yet"
        return self.micro_batch_size

    def total_tokens(self, parameters: int) -> int | None:
        """The budget in tokens for a model; None where the budget is in steps.

        Args:
            parameters: All parameters of the model, ``ParameterCounts.total``: the count behind the rule of 20 tokens
                for each. Without embeddings, as Kaplan et al. 2020 counted, the rule would be another one (Pearce and
                Song 2024, arXiv:2406.12907).

        Source: Hoffmann et al. 2022, Training Compute-Optimal Large Language Models, arXiv:2203.15556, table 3.
        """
        return self.tokens if self.tokens_per_param is None else round(self.tokens_per_param * parameters)
