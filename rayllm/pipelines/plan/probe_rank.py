"""One rank of a probe: a process that builds the configured model in its engine and takes a few steps on random tokens.

In: a file with a ``Spec``. Out: on rank 0, a file with a ``Measured``. The process imports what a worker of a run
imports and builds what it builds, so that time and memory are those of a run.
"""

import dataclasses
import gc
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
import torch.distributed as dist

import rayllm.pipelines.train.worker  # noqa: F401 - for the memory that a worker's imports take
from rayllm.data.batches import Batch
from rayllm.model.config import ModelConfig
from rayllm.optim.schedules import Rates
from rayllm.pipelines.train import Config
from rayllm.pipelines.train.building import build_engine, choose_compute
from rayllm.train import collective
from rayllm.train.engine import Engine

#: Steps that count, at most and at least; between them a shape is left when its time is over.
STEPS, FEWEST_STEPS, SECONDS = 7, 3, 15.0
#: Learning rate of the steps: so small that random tokens do not drive the weights anywhere.
LR = 1e-6
#: A model so small that a step of it shows what libraries take, which load much of themselves when they first compute.
MINIATURE = ModelConfig(vocab_size=64, dim=64, num_layers=1, num_heads=4, num_kv_heads=4, ffn_dim=64, max_seq_len=64)


@dataclass(frozen=True)
class Spec:
    """What to probe.

    Attributes:
        config: The stage's config, as JSON.
        vocab_size: Ids of the tokenizer.
        shapes: Rows and tokens of the micro-batches to run, and how many of them a step has, two at most.
        threads: Of each rank.
        world_size: Ranks.
        rank: This one.
        directory: Where ranks meet, and where the result goes.
    """

    config: str
    vocab_size: int
    shapes: list[tuple[int, int, int]]
    threads: int
    world_size: int
    rank: int
    directory: str


@dataclass(frozen=True)
class Timing:
    """Median seconds of a shape.

    Attributes:
        rows: Of a micro-batch.
        seq_len: Tokens of a row.
        micro_s: Forward and backward of one micro-batch.
        step_s: What a step takes beside them.
    """

    rows: int
    seq_len: int
    micro_s: float
    step_s: float


@dataclass(frozen=True)
class Measured:
    """What a probe found, on rank 0.

    Attributes:
        precision: What it computed in.
        base_bytes: Memory of the process after a step of a model of almost nothing.
        peak_bytes: The most memory of the device; on a CPU, of the process.
        timings: One for each shape.
    """

    precision: str
    base_bytes: int
    peak_bytes: int
    timings: list[Timing]


def main(path: str) -> None:
    """Probe as one rank."""
    spec = Spec(**json.loads(Path(path).read_text()))
    torch.set_num_threads(spec.threads)
    device = torch.device("cuda", spec.rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{spec.directory}/store",
        rank=spec.rank,
        world_size=spec.world_size,
    )
    measured = probe(spec, device)
    if spec.rank == 0:
        Path(spec.directory, "measured.json").write_text(json.dumps(dataclasses.asdict(measured)))
    collective.barrier()


def probe(spec: Spec, device: torch.device) -> Measured:
    """Build and measure; all ranks together."""
    config = Config.model_validate_json(spec.config)
    rows = max(rows for rows, _, _ in spec.shapes)
    config = config.model_copy(update={"train": config.train.model_copy(update={"micro_batch_size": rows})})
    model = config.model.with_vocab(spec.vocab_size)
    compute = choose_compute(config.train, config.train.precision, model, device, config.train.engine)
    _time(build_engine(config, MINIATURE, config.train.engine, compute), MINIATURE, 1, MINIATURE.max_seq_len, 1)
    gc.collect()
    base_bytes = psutil.Process().memory_info().rss
    engine = build_engine(config, model, config.train.engine, compute)
    timings = [_time(engine, model, *shape) for shape in spec.shapes]
    return Measured(compute.precision, base_bytes, _peak_bytes(device), timings)


def _time(engine: Engine, model: ModelConfig, rows: int, seq_len: int, micro_batches: int) -> Timing:
    batch = _random_batch(model, rows, seq_len).to(engine.device)
    micro_s: list[float] = []
    step_s: list[float] = []
    begin = time.perf_counter()
    for number in range(STEPS + 1):
        spent = [_micro_batch(engine, batch, micro_batches) for _ in range(micro_batches)]
        start = time.perf_counter()
        collective.sum_over_ranks(torch.zeros(1))
        engine.step(Rates(lr=LR))
        _wait(engine)
        if number:  # the first is warm-up
            step_s.append(time.perf_counter() - start)
            micro_s += spent
        late = collective.broadcast(time.perf_counter() - begin > SECONDS)
        if late and number >= FEWEST_STEPS:
            break
    return Timing(rows, seq_len, statistics.median(micro_s), statistics.median(step_s))


def _micro_batch(engine: Engine, batch: Batch, micro_batches: int) -> float:
    start = time.perf_counter()
    loss = engine.token_losses(batch).sum() / (batch.labels.numel() * micro_batches * engine.world_size)
    engine.backward(loss)
    _wait(engine)
    return time.perf_counter() - start


def _wait(engine: Engine) -> None:
    if engine.device.type == "cuda":
        torch.cuda.synchronize(engine.device)


def _random_batch(model: ModelConfig, rows: int, seq_len: int) -> Batch:
    """Speed does not depend on the ids; a few documents a row, so that their mask is there."""
    ids = torch.randint(model.real_vocab_size or model.resolved_vocab_size, (rows, seq_len + 1))
    documents = (torch.arange(seq_len) * 4 // seq_len).expand(rows, seq_len).contiguous()
    domain = torch.zeros(rows, dtype=torch.int64)
    return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), documents, domain)


def _peak_bytes(device: torch.device) -> int:
    """On a CPU from the kernel's own mark for this program: that of ``getrusage`` counts what started it, too."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if not status.exists():
        return psutil.Process().memory_info().rss
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(sys.argv[1])
    os._exit(0)  # not held up by the threads of imported libraries
