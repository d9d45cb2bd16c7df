"""Run a function on ranks of their own over a gloo file store, and build small runs for them."""

import gc
import importlib
import multiprocessing
import os
import pickle
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from rayllm.core import faults
from rayllm.core.checkpoint import DIRECTORY, clear_uncommitted
from rayllm.data.batches import BatchReader, describe_rows
from rayllm.data.mixing.curriculum import Plan, build_plan
from rayllm.data.mixing.weights import MixtureConfig
from rayllm.model.config import ModelConfig
from rayllm.model.lora.adapt import adapt, draw_adapters
from rayllm.model.transformer import Transformer
from rayllm.optim.config import AdamWConfig, CosineSchedule
from rayllm.train import checkpoint
from rayllm.train.checkpoint import Attachments
from rayllm.train.config import CheckpointConfig, LoggingConfig, TrainConfig, ValidationRunConfig
from rayllm.train.deepspeed_engine import import_deepspeed
from rayllm.train.engine import Engine, TorchEngine
from rayllm.train.guards.speed import SpeedGuard
from rayllm.train.guards.watchdog import Watchdog
from rayllm.train.loop import train
from rayllm.train.metrics import Speedometer
from rayllm.train.objectives import LanguageModeling
from rayllm.train.precision import AUTOCAST_DTYPES
from rayllm.train.run import Run, Services
from rayllm.train.state import RunState, seed_everything

VOCAB = 64
RANKS_TIMEOUT_S = 150
MODEL = ModelConfig(
    vocab_size=VOCAB,
    real_vocab_size=VOCAB,
    dim=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    ffn_dim=64,
    max_seq_len=64,
)


def run_ranks(function: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """Start one process per rank, join them in a gloo group, return what each returned.

    Ranks are forks, which costs nothing; but a fork of a process in which Ray runs breaks Ray's connections there
    (later calls to actors never arrive), so then they are processes of their own, some seconds slower.
    """
    _import_what_engines_import()
    context = multiprocessing.get_context("spawn") if _ray_runs() else multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as scratch:
        workers = [
            context.Process(target=_rank_main, args=(function, rank, world_size, scratch, args))
            for rank in range(world_size)
        ]
        for worker in workers:
            worker.start()
        deadline = time.monotonic() + RANKS_TIMEOUT_S
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))
            worker.kill()
            worker.join()
        results = []
        for rank, worker in enumerate(workers):
            path = Path(scratch) / f"result-{rank}"
            if not path.exists():
                raise AssertionError(f"rank {rank} died with exit code {worker.exitcode}")
            outcome, value = pickle.loads(path.read_bytes())  # noqa: S301 - written by the fork below
            assert outcome == "ok", value
            results.append(value)
        return results


def _import_what_engines_import() -> None:
    """Once, here: forks inherit it, where each of them would spend seconds on it."""
    import_deepspeed(torch.device("cpu"))
    importlib.import_module("torch._dynamo")


def _ray_runs() -> bool:
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


def _rank_main(function: Callable[..., Any], rank: int, world_size: int, scratch: str, args: tuple[Any, ...]) -> None:
    gc.freeze()  # what a fork inherits is not looked through, which would copy it: ZeRO-3 collects in every start
    torch.set_num_threads(1)
    faults._specs.cache_clear()
    os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    try:
        dist.init_process_group("gloo", init_method=f"file://{scratch}/store", rank=rank, world_size=world_size)
        result = ("ok", function(*args))
        dist.barrier()
    except BaseException:  # noqa: BLE001 - reported to the parent
        result = ("error", traceback.format_exc())
    (Path(scratch) / f"result-{rank}.tmp").write_bytes(pickle.dumps(result))
    (Path(scratch) / f"result-{rank}.tmp").rename(Path(scratch) / f"result-{rank}")
    os._exit(0)


class ListStream:
    """A token stream in memory: documents of a simple arithmetic language, so that there is something to learn."""

    has_mask = False

    def __init__(self, seed: int, num_tokens: int) -> None:
        rng = np.random.default_rng(seed)
        steps = rng.integers(1, 4, num_tokens).cumsum() % (VOCAB - 1) + 1
        steps[rng.random(num_tokens) < 0.02] = 0
        steps[0] = 0
        self._tokens = steps.astype(np.int64)

    @property
    def num_tokens(self) -> int:
        return len(self._tokens)

    def read(self, start: int, count: int) -> np.ndarray:
        return self._tokens[start : start + count]


class ListSink:
    """Keeps records."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def write(self, record: Any) -> None:
        self.records.append(dict(record))

    def close(self) -> None:
        pass


def small_config(**changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "seq_len": 32,
        "global_batch_tokens": 256,
        "micro_batch_size": 2,
        "max_steps": 6,
        "precision": "fp32",
        "optimizer": AdamWConfig(lr=3e-3),
        "schedule": CosineSchedule(warmup_frac=0.2),
        "checkpoint": CheckpointConfig(every_steps=3),
        "validation": ValidationRunConfig(every_steps=1000),
        "logging": LoggingConfig(every_steps=1),
    }
    return TrainConfig(**(values | changes))


def build_engine(
    kind: str, stage: int, config: TrainConfig, precision: str = "fp32", model: ModelConfig = MODEL
) -> Engine:
    module = Transformer(model)
    module.init_weights(1)
    if config.lora:
        adapt(module, config.lora, AUTOCAST_DTYPES.get(precision))
        draw_adapters(module, 1)
    module.set_activation_checkpointing(config.activation_checkpointing)
    if config.compile is True:
        module.compile_training()
    device = torch.device("cpu")
    if kind == "torch":
        return TorchEngine(module, config.optimizer, precision, device)
    from rayllm.train.deepspeed_engine import DeepSpeedEngine

    return DeepSpeedEngine(
        module,
        config.optimizer,
        precision,
        device,
        zero_stage=stage,
        micro_batch_size=config.micro_batch_size,
        offload_optimizer=config.engine.offload_optimizer,
        offload_parameters=config.engine.offload_parameters,
    )


def streams() -> dict[str, ListStream]:
    return {"a": ListStream(1, 6000), "b": ListStream(2, 9000)}


def small_plan(config: TrainConfig) -> Plan:
    return build_plan(
        mixture=MixtureConfig(),
        curriculum=[],
        seq_len=config.seq_len,
        global_batch_tokens=config.global_batch_tokens,
        domain_tokens={name: stream.num_tokens for name, stream in streams().items()},
        seed=7,
        max_steps=config.max_steps,
    )


def train_small(
    directory: str,
    kind: str,
    stage: int,
    config: TrainConfig,
    precision: str = "fp32",
    stop_at: int = 0,
    validate: Callable[[Engine], dict[str, float]] | None = None,
    notice: Callable[[], str] | None = None,
    attempt: int = 1,
    model: ModelConfig = MODEL,
    files: Mapping[str, bytes] | None = None,
) -> dict[str, Any]:
    """Train a small run, from its last checkpoint if there is one; returns losses, weights and state slices."""
    engine = build_engine(kind, stage, config, precision, model)
    seed_everything(engine.rank)
    plan = small_plan(config)
    sink = ListSink()
    state = RunState(precision=precision, attempt=attempt)
    checkpoints = f"{directory}/{DIRECTORY}"
    chosen, rejected = checkpoint.choose(checkpoints)
    if chosen:
        checkpoint.restore(engine, state, chosen)
    if engine.rank == 0:
        clear_uncommitted(checkpoints)
    reader = BatchReader(list(streams().values()), plan, 0)
    run = Run(
        config=config,
        engine=engine,
        plan=plan,
        batches=lambda step: reader.micro_batches(step, engine.world_size, engine.rank, config.micro_batch_size),
        domains=("a", "b"),
        objective=LanguageModeling(),
        state=state,
        checkpoints=checkpoints,
        attachments=Attachments(files or {"model.json": b"{}"}),
        speed=Speedometer(lambda _: 1.0, None),
        slowness=SpeedGuard(0.0),
        watchdog=Watchdog(directory, engine.rank, state.attempt, 0.0),
        update_ratios=None,
        services=Services(
            sink=sink,
            claim=lambda: None,
            announce=lambda _: None,
            stop_requested=lambda: bool(stop_at) and state.step + 1 >= stop_at,
            notice=notice or (lambda: ""),
            validate=validate or (lambda _: {"mean_bits_per_byte": 1.0}),
            sample=lambda *_: [],
            audit=lambda *_: [],
            rows=lambda step: describe_rows(reader, step - 1),
        ),
        resumed_from=chosen,
    )
    finished = train(run)
    losses = {r["step"]: r["loss"] for r in sink.records if r["kind"] == "train"}
    return {
        "finished": finished,
        "losses": losses,
        "norms": {r["step"]: r["grad_norm"] for r in sink.records if r["kind"] == "train"},
        "resumed": chosen,
        "rejected": rejected,
        "records": sink.records,
        "weights": {name: tensor.clone() for name, tensor in engine.full_parameters()},
        "slices": {(s.param, s.kind, s.offset): s.tensor.clone() for s in engine.owned_slices()},
        "state": state.state_dict(),
    }
