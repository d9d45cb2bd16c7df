"""What a run will take, from its config alone: tokens, FLOPs, disk, memory, time.

In: a run's config, the size of its vocabulary, and the machines to plan for. Out: a ``Forecast``, all numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate

from rayllm.core.errors import ConfigError
from rayllm.data.mixing.stages import stage_shapes, stage_steps
from rayllm.data.shards.format import DTYPES, dtype_for
from rayllm.model.config import ModelConfig
from rayllm.model.flops import count_parameters, training_flops_per_token
from rayllm.pipelines.plan.machines import Machines
from rayllm.pipelines.plan.probe_rank import Measured
from rayllm.pipelines.run_config import RunConfig
from rayllm.pipelines.train.preflight import kept_checkpoints
from rayllm.train.config import ValidationRunConfig
from rayllm.train.memory.estimate import Estimate, checkpoint_bytes, estimate
from rayllm.train.memory.micro_batch import FILLED, rows_by_length
from rayllm.train.memory.setting import Setting, largest, setting_of, settings_of

#: Share of a training step's FLOPs that the forward pass takes.
FORWARD = 1 / 3
#: Probed micro-batches of a step: the second one meets the gradients of the first, and more add nothing.
PROBED_MICRO_BATCHES = 2
#: What a worker of Ray has in memory beyond a process that is none: its connections, the tokenizer, the data's pages.
WORKER_BYTES = 50_000_000


@dataclass(frozen=True)
class Stage:
    """A stage of the curriculum, or what a fork has left of one.

    Attributes:
        first: Steps before its own, those of a run that is forked among them.
        seq_len: Tokens of a row.
        batch_rows: Rows of the global batch.
        steps: Optimizer steps.
        setting: What decides the memory of its steps.
    """

    first: int
    seq_len: int
    batch_rows: int
    steps: int
    setting: Setting

    @property
    def end(self) -> int:
        """Steps up to its last one."""
        return self.first + self.steps

    @property
    def tokens(self) -> int:
        """Of all its steps."""
        return self.steps * self.batch_rows * self.seq_len

    @property
    def flops(self) -> float:
        """Of all its steps."""
        return self.tokens * training_flops_per_token(self.setting.model, self.seq_len, self.setting.lora)

    @property
    def probed(self) -> tuple[int, int, int]:
        """Rows and tokens of a micro-batch, and how many of them a probe takes in a step."""
        shape = self.setting.shape
        return shape.rows, shape.seq_len, min(PROBED_MICRO_BATCHES, self.setting.micro_batches)


@dataclass(frozen=True)
class Disk:
    """Bytes on the storage.

    Attributes:
        packed: The packed data; before it is there, as many tokens as the run reads.
        checkpoint: One checkpoint.
        kept: Checkpoints at a time; see ``train.preflight.kept_checkpoints``.
    """

    packed: int
    checkpoint: int
    kept: int

    @property
    def total(self) -> int:
        """All together."""
        return self.packed + self.checkpoint * self.kept


@dataclass(frozen=True)
class Duration:
    """Seconds of a run.

    Attributes:
        steps: Of one step of each stage.
        training: All steps.
        validation: All validations, if every domain has as many tokens as are read at most.
        source: Where the speed comes from.
    """

    steps: tuple[float, ...]
    training: float
    validation: float
    source: str

    @property
    def total(self) -> float:
        """Training and validation."""
        return self.training + self.validation


def model_of(config: RunConfig, vocab_size: int | None) -> tuple[ModelConfig, str]:
    """The model with its vocabulary, and where that is from.

    Args:
        config: The run.
        vocab_size: Of the tokenizer, where there is one.

    Raises:
        ConfigError: If nothing says how large the vocabulary will be.
    """
    if vocab_size is not None:
        return config.model.with_vocab(vocab_size), "the tokenizer"
    asked = getattr(config.fit_tokenizer, "vocab_size", None)
    if asked is not None and (config.model.vocab_size or asked) >= asked:
        return config.model.with_vocab(asked), "fit_tokenizer.vocab_size"
    if config.model.vocab_size is not None:
        return config.model.with_vocab(config.model.vocab_size), "model.vocab_size"
    raise ConfigError(
        "the size of the vocabulary is not known yet",
        where="model.vocab_size, fit_tokenizer",
        why="the tokenizer is adopted, and has not been read so far",
        fix="name it: rayllm plan FILE --vocab 50257",
    )


def stages_of(config: RunConfig, model: ModelConfig, precision: str, machines: Machines) -> list[Stage]:
    """The stages of a run, each with what decides its memory."""
    train = config.train
    setting = setting_of(train, model, precision, machines.device, machines.world_size)
    shapes = stage_shapes(config.curriculum, train.seq_len, train.global_batch_tokens)
    counts = stage_steps(
        config.curriculum,
        [seq_len * rows for seq_len, rows in shapes],
        max_steps=train.max_steps,
        total_tokens=train.total_tokens(count_parameters(model).total),
    )
    asked = train.micro_batch_size
    if asked == "auto":
        rows = rows_by_length(setting, shapes, train.seq_len, int(FILLED * machines.bytes_per_rank))
    else:
        rows = {seq_len: asked for seq_len, _ in shapes}
    settings = settings_of(setting, shapes, rows)
    firsts = accumulate(counts[:-1], initial=0)
    return [
        Stage(first, seq_len, batch_rows, steps, found)
        for first, (seq_len, batch_rows), steps, found in zip(firsts, shapes, counts, settings, strict=True)
    ]


def stages_after(stages: list[Stage], begun: int) -> list[Stage]:
    """What of the stages of a whole run a fork of a step has left to do.

    Raises:
        ConfigError: If that is nothing.
    """
    left = [(stage, max(stage.first, begun)) for stage in stages if stage.end > begun]
    if not left:
        raise ConfigError(
            f"the run would go on at step {begun:,}, and ends at step {stages[-1].end:,}",
            where="train.fork",
            fix="train longer: the budget counts from the beginning of the run before; or name an earlier step",
        )
    return [replace(stage, first=first, steps=stage.end - first) for stage, first in left]


def memory_of(stages: list[Stage], measured: Measured | None) -> tuple[Estimate, Mapping[int, Estimate]]:
    """The configured run's memory on a rank, and that at every ZeRO stage, for the stage that needs most."""
    setting = largest([stage.setting for stage in stages])
    base_bytes = None if measured is None else measured.base_bytes + WORKER_BYTES
    by_stage = {stage: estimate(setting.at_stage(stage), base_bytes) for stage in range(4)}
    return estimate(setting, base_bytes), by_stage


def probed_estimate(stages: list[Stage], measured: Measured, world_size: int) -> Estimate:
    """What the formula says of the very steps that were probed."""
    setting = replace(largest([stage.setting for stage in stages]), world_size=world_size, snapshot=False)
    few = min(PROBED_MICRO_BATCHES, setting.micro_batches)
    shape = replace(setting.shape, precision=measured.precision)
    return estimate(replace(setting, micro_batches=few, shape=shape), measured.base_bytes)


def disk_of(config: RunConfig, model: ModelConfig, stages: list[Stage], tokens: int, packed_bytes: int | None) -> Disk:
    """Bytes on the storage.

    Args:
        config: The run.
        model: With its vocabulary.
        stages: What the run does.
        tokens: Of the run, and of the one that it forks; as many are packed where none is read twice.
        packed_bytes: Of the packed data, where there is some.
    """
    per_token = DTYPES[dtype_for(model.resolved_vocab_size)].itemsize
    return Disk(
        packed=tokens * per_token if packed_bytes is None else packed_bytes,
        checkpoint=checkpoint_bytes(model, config.train.optimizer.kind, lora=config.train.lora),
        kept=kept_checkpoints(config.train, stages[0].first, stages[-1].end),
    )


def probed_duration(config: RunConfig, stages: list[Stage], measured: Measured) -> Duration:
    """Seconds of the run by a probe: a step is its micro-batches and what a step takes beside them."""
    timings = {(timing.rows, timing.seq_len): timing for timing in measured.timings}
    steps = []
    for stage in stages:
        timing = timings[stage.setting.shape.rows, stage.seq_len]
        steps.append(stage.setting.micro_batches * timing.micro_s + timing.step_s)
    return _duration(config, stages, tuple(steps), "the probe")


def assumed_duration(config: RunConfig, stages: list[Stage], flops: float, source: str) -> Duration:
    """Seconds of the run by the FLOP/s that all ranks reach together."""
    return _duration(config, stages, tuple(stage.flops / stage.steps / flops for stage in stages), source)


def _duration(config: RunConfig, stages: list[Stage], steps: tuple[float, ...], source: str) -> Duration:
    training = sum(stage.steps * seconds for stage, seconds in zip(stages, steps, strict=True))
    settings = config.train.validation
    read = _validations(settings, stages[0].first, stages[-1].end) * settings.max_tokens * len(config.sources)
    per_token = training / sum(stage.tokens for stage in stages)
    return Duration(steps, training, read * per_token * FORWARD, source)


def _validations(settings: ValidationRunConfig, begun: int, end: int) -> int:
    """Before the first step of a run that is no fork, after each step that is due, and at the end."""
    regular = end // settings.every_steps - begun // settings.every_steps
    others = {step for step in (*settings.at_steps, end) if begun < step <= end and step % settings.every_steps}
    return (begun == 0) + regular + len(others)
