"""What a checkpoint costs the step path: the pause of an asynchronous save beside the fastest synchronous one.

One process (or ``--ranks`` of them, for ZeRO), a model of about 50 million parameters with AdamW, the plain engine and
ZeRO 1. Three ways to save the same weights and moments alternate: our asynchronous save (until training may go on), our
synchronous one (until the checkpoint is published and verified hashes stand in its manifest), and a bare ``torch.save``
of all tensors on each rank, without hashes, manifest or flush. Steps are measured too, alone and beside a save at work.

Aims: the pause is at most 0.15 times the faster synchronous save, and at most one step.
"""

import argparse
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

import numpy as np
import torch
import torch.distributed as dist
from support.peers import alternate, describe_machine

from rayllm.data.batches import Batch, BatchReader
from rayllm.data.mixing.curriculum import build_plan
from rayllm.data.mixing.weights import MixtureConfig
from rayllm.model.config import ModelConfig
from rayllm.model.transformer import Transformer
from rayllm.optim.config import AdamWConfig
from rayllm.optim.schedules import Rates
from rayllm.train import collective
from rayllm.train.checkpoint import Attachments
from rayllm.train.config import CheckpointConfig, TrainConfig
from rayllm.train.deepspeed_engine import DeepSpeedEngine
from rayllm.train.engine import Engine, TorchEngine
from rayllm.train.guards.speed import SpeedGuard
from rayllm.train.guards.watchdog import Watchdog
from rayllm.train.metrics import Speedometer
from rayllm.train.objectives import LanguageModeling
from rayllm.train.run import Run, Services
from rayllm.train.saving import Saver
from rayllm.train.state import RunState

AIM_SAVE, AIM_STEPS = 0.15, 1.0
SEQ_LEN, VOCAB = 128, 32_768
RATES = Rates(lr=1e-4, momentum=0.9)


class Tokens:
    """A token stream in memory, as far as a plan asks for one."""

    has_mask = False
    num_tokens = 100_000

    def read(self, start: int, count: int) -> np.ndarray:
        return np.arange(start, start + count) % VOCAB

    def read_mask(self, start: int, count: int) -> np.ndarray:
        return np.ones(count, bool)


@dataclass
class Sink:
    """Takes records and forgets them."""

    records: list[Any] = field(default_factory=list)

    def write(self, record: Any) -> None: ...

    def close(self) -> None: ...


def new_model(layers: int, width: int) -> Transformer:
    sizes = {"dim": width, "num_layers": layers, "num_heads": width // 64, "num_kv_heads": width // 64}
    sizes |= {"vocab_size": VOCAB, "ffn_dim": width * 11 // 4, "max_seq_len": SEQ_LEN}
    model = Transformer(ModelConfig.model_validate(sizes))
    model.init_weights(1)
    return model


def new_run(engine: Engine, directory: str, *, asynchronous: bool) -> Run:
    """A run of which only the saving is used."""
    config = TrainConfig(
        seq_len=SEQ_LEN,
        global_batch_tokens=4 * SEQ_LEN,
        max_steps=1000,
        checkpoint=CheckpointConfig(asynchronous=asynchronous, best=None),
    )
    plan = build_plan(
        mixture=MixtureConfig(),
        curriculum=[],
        seq_len=SEQ_LEN,
        global_batch_tokens=config.global_batch_tokens,
        domain_tokens={"a": Tokens.num_tokens},
        seed=1,
        max_steps=config.max_steps,
    )
    reader = BatchReader([Tokens()], plan, 0)
    return Run(
        config=config,
        engine=engine,
        plan=plan,
        batches=lambda step: reader.micro_batches(step, engine.world_size, engine.rank, 4),
        domains=("a",),
        objective=LanguageModeling(),
        state=RunState(),
        checkpoints=f"{directory}/checkpoints",
        attachments=Attachments({"model.json": b"{}"}),
        speed=Speedometer(lambda _: 1.0, None),
        slowness=SpeedGuard(0.0),
        watchdog=Watchdog(directory, engine.rank, 1, 0.0),
        update_ratios=None,
        services=Services(
            sink=Sink(),
            claim=lambda: None,
            announce=lambda _: None,
            stop_requested=lambda: False,
            notice=lambda: "",
            validate=lambda _: {},
            sample=lambda *_: [],
            audit=lambda *_: [],
            rows=str,
        ),
    )


def take_step(engine: Engine, batches: list[Batch]) -> float:
    """One optimiser step; its seconds."""
    collective.barrier()
    begin = time.perf_counter()
    for batch in batches:
        engine.backward(engine.token_losses(batch).sum() / (4 * SEQ_LEN))
    engine.step(RATES)
    return time.perf_counter() - begin


def measure(name: str, directory: str, layers: int, width: int, rounds: int) -> dict[str, Any]:
    """All numbers of one engine on this rank, medians."""
    device, model = torch.device("cpu"), new_model(layers, width)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if name == "torch":
        engine: Engine = TorchEngine(model, AdamWConfig(), "bf16", device)
    else:
        engine = DeepSpeedEngine(model, AdamWConfig(), "bf16", device, zero_stage=1, micro_batch_size=4)
    run = new_run(engine, directory, asynchronous=True)
    batches = list(run.batches(0))
    beside: list[float] = []
    with Saver(run) as saver, Saver(new_run(engine, f"{directory}/waiting", asynchronous=False)) as waiting:
        sides = [
            lambda: _asynchronous(saver, run, lambda: beside.append(take_step(engine, batches))),
            lambda: _synchronous(waiting),
            lambda: _bare(engine, Path(directory) / f"bare-{engine.rank}.pt"),
            lambda: take_step(engine, batches),
        ]
        alternate(sides, 1)  # the first round makes the moments and the memory that is kept
        beside.clear()
        pause, ours, bare, step = alternate(sides, rounds)
    fastest = [min(pair) for pair in zip(ours, bare, strict=True)]
    return {
        "engine": f"{name}, {engine.world_size} rank(s)",
        "parameters": parameters,
        "pause_s": statistics.median(pause),
        "synchronous_s": statistics.median(ours),
        "torch_save_s": statistics.median(bare),
        "step_s": statistics.median(step),
        "step_beside_s": statistics.median(beside),
        "of_fastest": statistics.median(a / b for a, b in zip(pause, fastest, strict=True)),
        "of_step": statistics.median(a / b for a, b in zip(pause, step, strict=True)),
    }


def _asynchronous(saver: Saver, run: Run, step: Callable[[], object]) -> float:
    """Seconds until training may go on; a step is taken beside the save, and then the save is waited for."""
    run.state.step += 1
    collective.barrier()
    begin = time.perf_counter()
    saver.save()
    seconds = time.perf_counter() - begin
    step()
    saver.wait()
    return seconds


def _synchronous(saver: Saver) -> float:
    saver._run.state.step += 1
    collective.barrier()
    begin = time.perf_counter()
    saver.save()
    return time.perf_counter() - begin


def _bare(engine: Engine, path: Path) -> float:
    collective.barrier()
    begin = time.perf_counter()
    tensors: dict[str, Any] = {f"{item.param} {item.kind} {item.offset}": item.tensor for item in engine.owned_slices()}
    if engine.rank == 0:
        tensors |= dict(engine.full_parameters())
    torch.save(tensors, path)
    collective.barrier()
    return time.perf_counter() - begin


def rank_main(rank: int, ranks: int, name: str, root: str, options: argparse.Namespace) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks))
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    dist.init_process_group("gloo", init_method=f"file://{root}/store", rank=rank, world_size=ranks)
    found = measure(name, f"{root}/run", options.layers, options.width, options.rounds)
    if rank == 0:
        show(found)
    dist.barrier()
    os._exit(0)  # the group's threads are still up


def show(found: dict[str, Any]) -> None:
    print(f"{found['engine']}, {found['parameters'] / 1e6:.1f} M parameters")
    for key in ("step_s", "step_beside_s", "torch_save_s", "synchronous_s", "pause_s"):
        print(f"  {key:16}{found[key]:8.3f}")
    print(f"  pause / fastest synchronous save {found['of_fastest']:.3f} (aim: at most {AIM_SAVE})")
    print(f"  pause / step {found['of_step']:.3f} (aim: at most {AIM_STEPS:g})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--ranks", type=int, default=1, help="of ZeRO 1")
    parser.add_argument("--directory", help="where checkpoints go; by default a temporary one")
    options = parser.parse_args()
    print(describe_machine())
    context = multiprocessing.get_context("spawn")
    for name, ranks in (("torch", 1), ("ZeRO 1", options.ranks)):
        root = tempfile.mkdtemp(dir=options.directory)
        workers = [context.Process(target=rank_main, args=(rank, ranks, name, root, options)) for rank in range(ranks)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
