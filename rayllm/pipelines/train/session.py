"""From a run's config to a ``Run`` that the loop can train; every rank builds its own, without Ray.

The same function serves a worker of Ray Train, a forked rank in a test, and a trial of a sweep.
"""

import contextlib
import dataclasses
import functools
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from rayllm.core import storage
from rayllm.core.artifact import content_hash
from rayllm.core.checkpoint import clear_staging, clear_uncommitted
from rayllm.core.config import to_yaml
from rayllm.core.errors import RunFailed
from rayllm.core.log import BesideSink, MetricSink, SinkGroup
from rayllm.core.rng import derive_seed
from rayllm.data.batches import BatchReader, describe_rows, open_reader
from rayllm.data.mixing.adaptive import move_plan
from rayllm.data.mixing.plan import Plan
from rayllm.data.packing.row_index import describe_fill
from rayllm.data.replies import end_ids
from rayllm.data.shards.packed import PackedData
from rayllm.inference.generate import generate
from rayllm.model.config import ModelConfig
from rayllm.model.flops import training_flops_per_token
from rayllm.model.lora.adapt import adapt
from rayllm.model.lora.config import LoraConfig
from rayllm.model.lora.saved import ADAPTERS, NOTE, AdapterNote
from rayllm.model.transformer import Transformer
from rayllm.pipelines.train import Config
from rayllm.pipelines.train.building import build_engine, choose_compute, write_environment
from rayllm.pipelines.train.comparing import Comparing, open_comparing
from rayllm.pipelines.train.fork import DATA, Forked, data_identity, load_fork
from rayllm.pipelines.train.fork_origin import FORK
from rayllm.pipelines.train.initial import adapters_of
from rayllm.pipelines.train.job import Job, read_attempt, write_attempt
from rayllm.pipelines.train.metric_files import MetricFiles, open_metric_files
from rayllm.pipelines.train.micro_batches import choose_micro_batches
from rayllm.pipelines.train.out_of_memory import memory_named
from rayllm.pipelines.train.planning import PLAN, check_plan, plan_packed
from rayllm.pipelines.train.preflight import kept_checkpoints, warn_of_shortage
from rayllm.pipelines.train.prompts import sample_prompts
from rayllm.pipelines.train.reference import open_adaptation
from rayllm.pipelines.train.validating import validate
from rayllm.tokenizer.chat.template import CHAT_TEMPLATE, read_template
from rayllm.train import checkpoint, collective
from rayllm.train.adaptation import Adaptation, moves_of
from rayllm.train.checkpoint import WEIGHTS, Attachments
from rayllm.train.config import EngineConfig
from rayllm.train.engine import Engine
from rayllm.train.guards.audit import audit
from rayllm.train.guards.speed import SpeedGuard
from rayllm.train.guards.watchdog import STARTING, Watchdog, describe_stalls
from rayllm.train.loop import train
from rayllm.train.metrics import Speedometer, peak_flops
from rayllm.train.objectives import build_objective
from rayllm.train.run import Run, Services
from rayllm.train.sinks import WandbSink
from rayllm.train.state import RunState, seed_everything
from rayllm.train.update_ratio import UpdateRatios


@dataclass(frozen=True)
class Outlets:
    """Where a rank's results go.

    Attributes:
        sink: More sinks than the run's own files; rank 0 only.
        announce: See ``train.run.Services``, as for the others.
        stop_requested: On rank 0.
        notice: On rank 0.
        claim: On rank 0; set by ``run_session``.
        begin: Called when everything is set up, before the first step.
    """

    sink: MetricSink
    announce: Callable[[str], None] = lambda _: None
    stop_requested: Callable[[], bool] = lambda: False
    notice: Callable[[], str] = lambda: ""
    claim: Callable[[], None] = lambda: None
    begin: Callable[[], None] = lambda: None


def run_session(job: Job, outlets: Outlets, engine: EngineConfig, device: torch.device) -> tuple[bool, RunState]:
    """Build the run, restore the newest checkpoint if there is one, train.

    Args:
        job: What to train.
        outlets: Where results go.
        engine: Which engine; overrides the config's for trials.
        device: Where this rank computes.

    Returns:
        Whether the plan was finished (else a stop was asked for), and the state at the end.
    """
    state = RunState(attempt=_next_attempt(job.directory))
    stall_timeout_s = job.config.train.guards.stall_timeout_s
    # Whatever ends the session: in the process of a trial the next one begins, and nobody would beat for this watchdog.
    with contextlib.closing(Watchdog(job.directory, collective.rank(), state.attempt, stall_timeout_s)) as watchdog:
        chosen, rejected = checkpoint.choose(job.checkpoints, lambda: watchdog.beat(0, STARTING))
        return _run_watched(job, outlets, engine, device, chosen, rejected, state, watchdog)


def _run_watched(
    job: Job,
    outlets: Outlets,
    engine: EngineConfig,
    device: torch.device,
    chosen: str,
    rejected: list[str],
    state: RunState,
    watchdog: Watchdog,
) -> tuple[bool, RunState]:
    packed = PackedData.open(job.packed_uri)
    forked = load_fork(job.config, packed, chosen)
    begin = chosen or (forked.origin.checkpoint if forked else "")
    before = checkpoint.read_state(begin) if begin else RunState(precision=job.config.train.precision)
    before = forked.adopt(before) if forked else before
    plan = plan_packed(job.config, packed, forked, moves_of(before.mixture))
    if chosen:
        check_plan(plan, chosen)
    model = job.config.model.with_vocab(packed.vocab_size)
    compute = choose_compute(job.config.train, before.precision, model, device, engine)
    comparing = open_comparing(job.config.train, packed, job.reference_uri, compute.precision)
    micro_batches = choose_micro_batches(job.config, model, engine, compute, before.micro_batches)
    job = dataclasses.replace(job, config=micro_batches.resolve(job.config))
    kept = kept_checkpoints(job.config.train, forked.origin.step if forked else 0, plan.total_steps)
    short = warn_of_shortage(micro_batches.setting, device, job.checkpoints, kept)
    state.precision = compute.precision
    seed_everything(derive_seed(job.config.seed, "rank", collective.rank()))
    adapters = adapters_of(job.config.train, begin)
    init = adapters.base if adapters else None if begin else job.config.train.init
    with memory_named(micro_batches.setting, collective.rank()):
        built = build_engine(job.config, model, engine, compute, init, job.packed_uri)
        if begin:
            checkpoint.restore(built, state, begin)
    if forked and forked.reseeds:
        seed_everything(derive_seed(job.config.seed, "rank", collective.rank()))
    state.micro_batches = micro_batches.memory
    state = forked.adopt(state) if forked else state
    clear_staging(job.checkpoints)
    if built.rank == 0:
        clear_uncommitted(job.checkpoints)
        storage.write_text(storage.join(job.directory, PLAN), plan.to_json())
        if forked:
            storage.write_bytes(storage.join(job.directory, FORK), forked.origin.to_json())
        write_environment(job.directory, job.config.train, model, built, compute, micro_batches.rows)
    if built.rank == 0:
        files = open_metric_files(job.directory, tensorboard=job.config.train.logging.tensorboard)
        sink = SinkGroup([files, outlets.sink, *_loggers(job)])
        outlets = dataclasses.replace(outlets, sink=sink, claim=_claim(job, state, files))
    try:
        stalls = describe_stalls(job.directory, state.attempt - 1)
        planned = plan.warnings(job.config.mixture.caps(plan.domains))
        warnings = rejected + stalls + planned + compute.warnings(model) + short
        begun = [compute.describe(), micro_batches.why, *_describe_beginning(chosen, forked, state, packed, plan)]
        told = [*job.news, *(("warning", line) for line in warnings), *(("info", line) for line in begun if line)]
        for level, line in told:
            _event(outlets.sink, built, state, level, line)
        attachments = _attachments(job, packed, model, state, plan, forked, adapters)
        run = _assemble(
            job, packed, comparing, plan, model, built, micro_batches.rows, state, outlets, watchdog, attachments
        )
        outlets.begin()
        with memory_named(micro_batches.setting, built.rank):
            finished = train(dataclasses.replace(run, resumed_from=chosen))
    finally:
        watchdog.close()  # before the sinks, which may wait for a service
        outlets.sink.close()
    return finished, state


def _describe_beginning(
    chosen: str, forked: Forked | None, state: RunState, packed: PackedData, plan: Plan
) -> list[str]:
    """What the run goes on from, or what its rows are filled with."""
    if chosen:
        return [f"resumed from {chosen} at step {state.step}"]
    if forked:
        return [forked.origin.describe()]
    return describe_fill(packed, plan) if collective.rank() == 0 else []


def _assemble(
    job: Job,
    packed: PackedData,
    comparing: Comparing | None,
    plan: Plan,
    model: ModelConfig,
    engine: Engine,
    micro_batch_rows: Mapping[int, int],
    state: RunState,
    outlets: Outlets,
    watchdog: Watchdog,
    attachments: Attachments,
) -> Run:
    config = job.config.train
    domains = packed.domains("train")
    reader = open_reader(packed, plan, scores=comparing and comparing.train)
    adaptation = _adaptation(job, packed, reader)
    for line in adaptation.describe() if adaptation else ():
        _event(outlets.sink, engine, state, "info", line)
    peak = peak_flops(engine.device)
    services = Services(
        sink=outlets.sink,
        claim=outlets.claim,
        announce=outlets.announce,
        stop_requested=outlets.stop_requested,
        notice=outlets.notice,
        validate=lambda built: validate(job.config, packed, built, comparing),
        sample=lambda built, step: sample(job.config, packed, built, step),
        audit=lambda batches, step: audit(batches, packed.codec(), domains, step, packed.chat_domains("train")),
        rows=lambda step: describe_rows(reader, step - 1),
    )
    return Run(
        config=config,
        engine=engine,
        plan=plan,
        batches=lambda step: reader.micro_batches(
            step, engine.world_size, engine.rank, micro_batch_rows[plan.at(step)[1].seq_len]
        ),
        domains=domains,
        objective=build_objective(config.objective),
        state=state,
        checkpoints=job.checkpoints,
        attachments=attachments,
        speed=Speedometer(
            functools.cache(lambda seq_len: training_flops_per_token(model, seq_len, config.lora)),
            peak and peak * engine.world_size,
        ),
        slowness=SpeedGuard(config.guards.slow_factor),
        watchdog=watchdog,
        update_ratios=_update_ratios(model, config.lora, engine) if config.logging.update_ratios else None,
        services=services,
        adaptation=adaptation,
    )


def _adaptation(job: Job, packed: PackedData, reader: BatchReader) -> Adaptation | None:
    """What moves the weights, if anything does: a move goes to the reader, and to the table beside the metrics."""
    adaptive = job.config.mixture.adaptive
    if adaptive is None:
        return None

    def turn(plan: Plan) -> None:
        reader.turn(plan)
        if collective.rank() == 0:
            storage.write_text(storage.join(job.directory, PLAN), plan.to_json())

    return open_adaptation(adaptive, reader.plan, packed.domains("validation"), turn)


def _update_ratios(model: ModelConfig, lora: LoraConfig | None, engine: Engine) -> UpdateRatios:
    """What measures them, from a model without weights: an engine may hold its parameters in parts."""
    with torch.device("meta"):
        module = Transformer(model)
        if lora:
            adapt(module, lora)
    return UpdateRatios(module, engine)


def _attachments(
    job: Job,
    packed: PackedData,
    model: ModelConfig,
    state: RunState,
    plan: Plan,
    forked: Forked | None,
    adapters: AdapterNote | None,
) -> Attachments:
    """What makes a checkpoint usable alone: sizes, tokenizer, plan, origin, and the config with its choices frozen."""
    frozen = job.config.model_copy(
        update={"model": model, "train": job.config.train.model_copy(update={"precision": state.precision})}
    )
    files = {
        "model.json": json.dumps(model.model_dump(mode="json"), indent=1).encode(),
        "run.yaml": to_yaml(frozen).encode(),
        DATA: json.dumps(data_identity(packed), indent=1).encode(),
    }
    if forked:
        files[FORK] = forked.origin.to_json()
    for name in ("tokenizer.json", "tokenizer_config.json", "token_bytes.npy"):
        files[name] = storage.read_bytes(storage.join(job.packed_uri, name))
    if template := read_template(job.packed_uri):
        files[CHAT_TEMPLATE] = template.source.encode()
    if adapters is not None:
        files[NOTE] = adapters.model_dump_json(indent=1).encode()

    def table(saved: Mapping[str, Any]) -> dict[str, bytes]:
        return {PLAN: move_plan(plan, moves_of(saved["mixture"])).to_json().encode()}

    return Attachments(files, WEIGHTS if adapters is None else ADAPTERS, table)


def sample(config: Config, packed: PackedData, engine: Engine, step: int) -> list[dict[str, str]]:
    """Continue the beginning of a validation document of each domain; all ranks do the same, rank 0 reports."""
    settings, codec = config.train.samples, packed.codec()
    domains = packed.domains("validation")
    context = config.model.max_seq_len
    prompts = sample_prompts(packed, domains, settings.prompt_tokens, context)
    engine.module.eval()
    outputs = generate(
        engine.module,  # pyright: ignore[reportArgumentType] - the engine's module is the Transformer
        prompts,
        sampling=settings.sampling,
        max_new_tokens=min(settings.max_new_tokens, context - max(map(len, prompts))),
        stop_ids=end_ids(packed),
        seed=derive_seed(config.seed, "samples", step),
    )
    engine.module.train()
    return [
        {"domain": name, "prompt": codec.decode(prompt[1:]), "text": codec.decode(output)}
        for name, prompt, output in zip(domains, prompts, outputs, strict=True)
    ]


def _next_attempt(directory: str) -> int:
    """Count the starts of a run; rank 0 counts for all."""
    if collective.rank() != 0:
        return int(collective.broadcast(None))
    attempt = read_attempt(directory) + 1
    write_attempt(directory, attempt)
    return int(collective.broadcast(attempt))


def _loggers(job: Job) -> list[MetricSink]:
    """Services outside that the run logs to."""
    config = job.config
    if not config.train.logging.wandb:
        return []
    scratch = job.directory if storage.is_local(job.directory) else os.getcwd()
    run_id = content_hash({"directory": job.directory})[:12]
    settings = config.model_dump(mode="json")
    return [BesideSink(WandbSink(config.train.logging.wandb_project, config.name, scratch, settings, run_id))]


def _claim(job: Job, state: RunState, files: MetricFiles) -> Callable[[], None]:
    """What rank 0 does before a commit: see that this start of the run is the latest, and make its records durable."""

    def claim() -> None:
        latest = read_attempt(job.directory)
        if latest != state.attempt:
            raise RunFailed(
                "a newer start of this run has taken over",
                where=job.directory,
                why=f"this is attempt {state.attempt}, the latest is {latest}",
                fix="leave it to the newer one",
            )
        files.flush()

    return claim


def _event(sink: MetricSink, engine: Engine, state: RunState, level: str, message: str) -> None:
    if engine.rank == 0:
        head = {"kind": "event", "step": state.step, "attempt": state.attempt, "time": round(time.time(), 3)}
        sink.write(head | {"level": level, "message": message})


class NullSink:
    """Takes records and forgets them."""

    def write(self, record: object) -> None:
        """Forget."""

    def close(self) -> None:
        """Nothing to do."""


def train_alone(config: Config, packed_uri: str, directory: str, reference_uri: str = "") -> dict[str, float]:
    """Train with the plain engine in this process; see ``rayllm.pipelines.train.run_single``."""
    return run_alone(Job(config, packed_uri, directory, reference_uri=reference_uri), Outlets(NullSink()))[1].validation


def run_alone(job: Job, outlets: Outlets) -> tuple[bool, RunState]:
    """A session with the plain engine in this process, without Ray; returns what ``run_session`` does."""
    storage.make_dirs(job.checkpoints)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    assert not dist.is_initialized(), "a trial trains alone in its process"
    return run_session(job, outlets, EngineConfig(kind="torch"), device)
