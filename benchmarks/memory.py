"""What saving memory costs, and what the engine costs for each tensor; every ratio from one run, sides in turn.

One process, one thread; times are the process's CPU time, which a busy machine stretches little.

``recompute``: a step's forward and backward pass with ``train.activation_checkpointing`` none, full and selective:
bytes that are held between the two passes, and time. ``offload``: steps of ZeRO 1 to 3 with optimiser state and
parameters in the host's memory, which on a CPU costs ZeRO's bookkeeping and copies alone. ``tensors``: steps of the
plain engine and of ZeRO for a model with and without gains in its norms; the difference, by tensor. ``ratios``: what
measuring update ratios adds to a logged step. Aims: selective holds at most 0.6 of what none does in at most 1.1 times
the time; update ratios cost at most 1 ms for each logged step of the tiny model.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

import torch
import torch.distributed as dist
from support.peers import alternate, describe_machine, median_ratio
from torch.profiler import ProfilerActivity, profile

from rayllm.data.batches import Batch
from rayllm.model.config import ModelConfig
from rayllm.model.recompute import RUNNERS
from rayllm.model.transformer import Transformer
from rayllm.optim.config import AdamWConfig
from rayllm.optim.schedules import Rates
from rayllm.train.config import Precision
from rayllm.train.deepspeed_engine import DeepSpeedEngine
from rayllm.train.engine import Engine, TorchEngine
from rayllm.train.update_ratio import UpdateRatios

CPU = torch.device("cpu")
RATES = Rates(lr=1e-5, momentum=0.9)
Step = Callable[[], float]


def new_model(dim: int, layers: int, vocab: int, **changes: Any) -> Transformer:
    """A model of the usual shape, the same weights each time."""
    sizes = {"dim": dim, "num_layers": layers, "num_heads": dim // 64, "num_kv_heads": dim // 64}
    sizes |= {"ffn_dim": dim * 8 // 3 // 64 * 64, "vocab_size": vocab, "max_seq_len": 1024}
    model = Transformer(ModelConfig.model_validate(sizes | changes))
    model.init_weights(1)
    return model


def new_batch(rows: int, length: int, vocab: int) -> Batch:
    """Random tokens, one document a row."""
    ids = torch.randint(vocab, (rows, length + 1), generator=torch.Generator().manual_seed(0))
    return Batch(
        ids[:, :-1], ids[:, 1:], torch.ones(rows, length, dtype=torch.int64), torch.zeros(rows, dtype=torch.int64)
    )


def both_passes(engine: Engine, batch: Batch) -> Step:
    """Times forward and backward, and drops the gradient."""

    def step() -> float:
        start = time.process_time()
        engine.backward(engine.token_losses(batch).mean())
        passed = time.process_time() - start
        engine.step(RATES, discard=True)
        return passed

    return step


def whole_step(engine: Engine, batch: Batch) -> Step:
    """Times all of a step."""

    def step() -> float:
        start = time.process_time()
        engine.backward(engine.token_losses(batch).mean())
        engine.step(RATES)
        return time.process_time() - start

    return step


def held_bytes(engine: Engine, batch: Batch) -> int:
    """What is still allocated between forward and backward pass, but for the losses."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        losses = engine.token_losses(batch).mean()
    engine.backward(losses)
    engine.step(RATES, discard=True)
    return sum(event.self_cpu_memory_usage for event in found.key_averages())


def recompute(rounds: int, dim: int, layers: int, precision: Precision) -> None:
    """Memory and time of each kind of recomputation."""
    vocab, rows, length = 1024, 2, 512
    batch = new_batch(rows, length, vocab)
    engines = []
    for kind in RUNNERS:
        model = new_model(dim, layers, vocab)
        model.set_activation_checkpointing(kind)
        engines.append(TorchEngine(model, AdamWConfig(), precision, CPU, document_mask=False))
    steps = [both_passes(engine, batch) for engine in engines]
    for step in steps:
        step()
    held = [held_bytes(engine, batch) for engine in engines]
    times = alternate(steps, rounds)
    say(f"recompute: width {dim}, {layers} layers, {rows} rows of {length}, {precision}")
    for kind, size, taken in zip(RUNNERS, held, times, strict=True):
        tokens = rows * length * layers
        say(
            f"  {kind:9}  {size / 2**20:8.1f} MiB held ({size / held[0]:.2f})  {size / tokens:7.0f} bytes a token and "
            f"layer  {statistics.median(taken) * 1e3:8.1f} ms ({median_ratio(taken, times[0]):.2f})"
        )


def offload(rounds: int, dim: int, layers: int) -> None:
    """Steps of ZeRO with and without offloading."""
    vocab, batch = 1024, new_batch(2, 128, 1024)
    say(f"offload: width {dim}, {layers} layers, 2 rows of 128, fp32, one rank; ratio to the same stage without")
    for stage, parameters in ((1, False), (2, False), (3, False), (3, True)):
        plain, moved = (
            DeepSpeedEngine(
                new_model(dim, layers, vocab),
                AdamWConfig(),
                "fp32",
                CPU,
                zero_stage=stage,
                micro_batch_size=2,
                offload_optimizer=on,
                offload_parameters=on and parameters,
            )
            for on in (False, True)
        )
        times = alternate([whole_step(plain, batch), whole_step(moved, batch)], rounds)
        what = "optimiser and parameters" if parameters else "optimiser"
        say(f"  ZeRO {stage}, {what:25} {median_ratio(times[1], times[0]):.2f}")


def tensors(rounds: int, dim: int, layers: int) -> None:
    """What a tensor costs: the same products, with and without gains in all norms."""
    vocab, batch = 64, new_batch(1, 16, 64)
    changes = {True: {}, False: {"norm": "rmsnorm_unweighted", "qk_norm": "unweighted", "exportable": False}}
    say(f"tensors: width {dim}, {layers} layers, 1 row of 16, fp32, one rank")
    for stage in (None, 0, 1, 2, 3):
        steps, counts = [], []
        for gains in (True, False):
            model = new_model(dim, layers, vocab, **changes[gains])
            counts.append(len(list(model.parameters())))
            if stage is None:
                engine: Engine = TorchEngine(model, AdamWConfig(), "fp32", CPU)
            else:
                engine = DeepSpeedEngine(model, AdamWConfig(), "fp32", CPU, zero_stage=stage, micro_batch_size=1)
            steps.append(whole_step(engine, batch))
        for step in steps:
            step()
        times = alternate(steps, rounds)
        gap = statistics.median(a - b for a, b in zip(*times, strict=True))
        name = "plain" if stage is None else f"ZeRO {stage}"
        say(
            f"  {name:7} {counts[0]} tensors {statistics.median(times[0]) * 1e3:6.2f} ms, {counts[1]} tensors "
            f"{statistics.median(times[1]) * 1e3:6.2f} ms: {gap / (counts[0] - counts[1]) * 1e6:5.1f} µs a gain"
        )


def ratios(rounds: int) -> None:
    """What measuring update ratios adds to a logged step of the tiny model."""
    vocab = 2048
    say("ratios: width 256, 2 layers (configs/model/tiny.yaml), what a logged step takes longer")
    for stage in (None, 1, 3):
        model = new_model(256, 2, vocab, num_heads=4, num_kv_heads=2, ffn_dim=640)
        if stage is None:
            engine: Engine = TorchEngine(model, AdamWConfig(), "fp32", CPU)
        else:
            engine = DeepSpeedEngine(model, AdamWConfig(), "fp32", CPU, zero_stage=stage, micro_batch_size=1)
        with torch.device("meta"):
            whole = Transformer(model.config)
        measure, taken = UpdateRatios(whole, engine), []
        for _ in range(10 * rounds):
            start = time.process_time()
            measure.since(measure.look())()
            taken.append(time.process_time() - start)
        name = "plain" if stage is None else f"ZeRO {stage}"
        say(f"  {name:7} {statistics.median(taken) * 1e3:.2f} ms")


def say(text: str) -> None:
    """A line of the result."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    """Measure the parts asked for."""
    parts: dict[str, Callable[[argparse.Namespace], Any]] = {
        "recompute": lambda args: [recompute(args.rounds, args.dim, args.layers, name) for name in ("fp32", "bf16")],
        "offload": lambda args: offload(args.rounds, args.dim, args.layers),
        "tensors": lambda args: tensors(args.rounds, 64, 24),
        "ratios": lambda args: ratios(args.rounds),
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(parts), help=f"of {', '.join(parts)}")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--layers", type=int, default=6)
    args = parser.parse_args()
    torch.set_num_threads(1)
    say(describe_machine())
    with tempfile.TemporaryDirectory() as scratch:
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        dist.init_process_group("gloo", init_method=f"file://{scratch}/store", rank=0, world_size=1)
        for part in args.parts:
            parts[part](args)
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
