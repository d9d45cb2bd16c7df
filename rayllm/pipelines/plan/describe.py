"""All that ``rayllm plan`` prints, ready for JSON: the forecast, the probe beside it, and what does not fit."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from rayllm.core import storage
from rayllm.core.artifact import Artifact
from rayllm.core.errors import RayllmError, RunFailed
from rayllm.model.flops import count_parameters, training_flops_per_token
from rayllm.model.lora.config import count_adapters
from rayllm.pipelines.existing import find_artifacts
from rayllm.pipelines.plan import forecast
from rayllm.pipelines.plan.beginning import find_beginning
from rayllm.pipelines.plan.forecast import Disk, Duration, Stage
from rayllm.pipelines.plan.machines import Machines, choose_precision, find_machines
from rayllm.pipelines.plan.probe import run_probe
from rayllm.pipelines.plan.probe_rank import Measured
from rayllm.pipelines.run_config import RunConfig
from rayllm.pipelines.train import Config
from rayllm.pipelines.train.out_of_memory import in_words
from rayllm.pipelines.train.preflight import free_bytes
from rayllm.report.formats import data_size
from rayllm.train.hardware import ASSUMED_MFU
from rayllm.train.memory.estimate import Estimate
from rayllm.train.memory.preflight import DISK_MARGIN
from rayllm.train.memory.setting import largest


@dataclass(frozen=True)
class Options:
    """What the command line says beside the run file.

    Attributes:
        file: The run file.
        device: Device to plan for, by name.
        mfu: Share of its peak that training uses.
        price: Of a device for an hour.
        vocab_size: Ids of the tokenizer.
        probe: Whether to measure.
    """

    file: str
    device: str | None
    mfu: float | None
    price: float | None
    vocab_size: int | None
    probe: bool


def describe(config: RunConfig, options: Options) -> dict[str, Any]:
    """Plan a run.

    Raises:
        ConfigError: If the size of the vocabulary, the device, or the checkpoint that the run forks is not known.
        SetupError: If the device cannot compute in the precision asked for.
    """
    beginning = find_beginning(config)
    config = config.model_copy(update={"train": config.train.model_copy(update={"precision": beginning.precision})})
    machines = find_machines(config, options.device)
    made = _made(config, options.file)
    tokenizer = made.get("fit_tokenizer")
    known = options.vocab_size or (tokenizer and int(tokenizer.counts["vocab_size"]))
    model, vocab_from = forecast.model_of(config, known)
    vocab_from = "--vocab" if options.vocab_size else vocab_from
    precision = choose_precision(config, machines)
    whole = forecast.stages_of(config, model, precision, machines)
    stages = forecast.stages_after(whole, beginning.step)
    measured, why_not = _measure(config, options, machines, stages)
    configured, by_stage = forecast.memory_of(stages, measured)
    tokens, of_whole = (sum(stage.tokens for stage in some) for some in (stages, whole))
    packed = made.get("pack")
    packed_bytes = sum(record.bytes for record in packed.manifest.files) if packed else None
    disk = forecast.disk_of(config, model, stages, of_whole, packed_bytes)
    duration = _duration(config, options, machines, stages, measured, precision)
    counts = count_parameters(model)
    return {
        "run": {
            "name": config.name,
            "device": machines.name,
            "world_size": machines.world_size,
            "precision": precision,
            "zero_stage": config.train.engine.zero_stage if config.train.engine.kind == "deepspeed" else None,
            "vocab_size": model.resolved_vocab_size,
            "vocab_from": vocab_from,
            "forked_at": beginning.step,
            "tokens": tokens,
            "tokens_with_forked": of_whole,
        },
        "parameters": {
            "total": counts.total,
            "embedding": counts.embedding,
            "positions": counts.positions,
            "head": counts.head,
            "projections": counts.projections,
            "blocks": counts.blocks_matmul,
            "norms": counts.norms,
            "adapters": count_adapters(config.train.lora, model) if config.train.lora else 0,
        },
        "flops": {
            "per_token": training_flops_per_token(model, config.train.seq_len, config.train.lora),
            "total": sum(stage.flops for stage in stages),
        },
        "stages": [_stage(stage) for stage in stages],
        "memory": {
            "available": machines.bytes_per_rank,
            "configured": _estimate(configured),
            "by_zero_stage": [_estimate(by_stage[stage]) for stage in sorted(by_stage)],
        },
        "disk": _disk(config, disk, packed),
        "probe": measured and _probe(stages, measured, machines),
        "time": duration and _time(duration, tokens, machines, options.price),
        "notes": [*beginning.notes, *why_not],
        "warnings": _warnings(config, machines, stages, configured, disk),
    }


def _made(config: RunConfig, file: str) -> dict[str, Artifact]:
    """What the run has made so far; planning needs none of it."""
    for verb in ("pack", "fit_tokenizer"):
        try:
            return find_artifacts(config, verb, file)
        except RayllmError:
            continue
    return {}


def _measure(
    config: RunConfig, options: Options, machines: Machines, stages: list[Stage]
) -> tuple[Measured | None, list[str]]:
    """A probe, or why there is none."""
    if not options.probe:
        return None, []
    if not machines.here:
        return None, [f"no probe: this machine has no {machines.name}"]
    need = forecast.memory_of(stages, None)[0].total
    if need > machines.bytes_per_rank:
        return None, [f"no probe: a rank needs about {data_size(need)}, {data_size(machines.bytes_per_rank)} are there"]
    ranks = min(machines.here, machines.world_size)
    shapes: dict[tuple[int, int], int] = {}
    for stage in stages:
        rows, seq_len, times = stage.probed
        shapes[rows, seq_len] = max(times, shapes.get((rows, seq_len), 0))
    ordered = sorted(((*shape, times) for shape, times in shapes.items()), key=lambda shape: -shape[0] * shape[1])
    try:
        vocab_size = stages[0].setting.model.real_vocab_size or stages[0].setting.model.resolved_vocab_size
        train = Config.model_validate({name: getattr(config, name) for name in Config.model_fields})
        measured = run_probe(train, vocab_size, ordered, world_size=ranks, threads=machines.threads)
    except RunFailed as error:
        return None, [f"no probe: {error.what}: {error.why}"]
    fewer = ranks < machines.world_size
    return measured, [f"{ranks} of {machines.world_size} ranks were probed, as many as fit here"] if fewer else []


def _duration(
    config: RunConfig,
    options: Options,
    machines: Machines,
    stages: list[Stage],
    measured: Measured | None,
    precision: str,
) -> Duration | None:
    if measured is not None and options.mfu is None:
        return forecast.probed_duration(config, stages, measured)
    if machines.gpu is None:
        return None
    mfu = options.mfu or ASSUMED_MFU
    flops = machines.gpu.flops(precision, mfu) * machines.world_size
    return forecast.assumed_duration(config, stages, flops, f"{mfu:.0%} of the peak of {machines.gpu.name}, assumed")


def _stage(stage: Stage) -> dict[str, Any]:
    return {
        "seq_len": stage.seq_len,
        "batch_rows": stage.batch_rows,
        "steps": stage.steps,
        "tokens": stage.tokens,
        "rows": stage.setting.shape.rows,
        "micro_batches": stage.setting.micro_batches,
    }


def _estimate(found: Estimate) -> dict[str, Any]:
    return dataclasses.asdict(found) | {"total": found.total, "host_total": found.host_total}


def _disk(config: RunConfig, disk: Disk, packed: Artifact | None) -> dict[str, Any]:
    source = "as it is" if packed else "if no token is read twice"
    return dataclasses.asdict(disk) | {
        "packed_from": source,
        "total": disk.total,
        "free": free_bytes(storage.absolute(config.storage)),
    }


def _probe(stages: list[Stage], measured: Measured, machines: Machines) -> dict[str, Any]:
    ranks = min(machines.here, machines.world_size)
    predicted = forecast.probed_estimate(stages, measured, ranks)
    return dataclasses.asdict(measured) | {"ranks": ranks, "predicted_bytes": predicted.total}


def _time(duration: Duration, tokens: int, machines: Machines, price: float | None) -> dict[str, Any]:
    hours = duration.total / 3600 * machines.world_size
    return {
        "source": duration.source,
        "step_s": list(duration.steps),
        "tokens_per_s": tokens / duration.training,
        "training_s": duration.training,
        "validation_s": duration.validation,
        "device_hours": hours,
        "price": None if price is None else hours * price,
    }


def _warnings(
    config: RunConfig, machines: Machines, stages: list[Stage], configured: Estimate, disk: Disk
) -> list[str]:
    """What is more than there is."""
    found = []
    if configured.total > machines.bytes_per_rank:
        setting = largest([stage.setting for stage in stages])
        text = f"a rank needs about {data_size(configured.total)}, {data_size(machines.bytes_per_rank)} are there"
        found.append(f"{text}; {in_words(setting, configured)}")
    free = free_bytes(storage.absolute(config.storage))
    if free is not None and disk.total * DISK_MARGIN > free:
        found.append(f"the run may write {data_size(disk.total)}, and the storage has {data_size(free)} left")
    return found
