"""One GPU: is everything computed right, and how fast? Three parts, each within eight minutes on an H100 or H200.

- ``check``: bf16, fp16, fp8 (tensorwise and rowwise), torch's compiler, the attention kernels that are there, ZeRO 0 to
  3 at world size 1, each against float32 on small sizes: losses and gradients, pass or fail. Exit code 1 if one fails.
- ``bf16``: tokens a second, MFU (PaLM convention) and peak memory at 124M (T 1024), 350M and 1B (T 2048), our engine
  beside a plain compiled loop of the same model in the same process, in turn. Aims: MFU 45 %, 48 % and 55 %; never
  under 97 % of the plain loop; document masks cost at most 5 %.
- ``fp8``: the same in fp8, beside bf16. Aim: at least 1.25 times bf16 at width 2048. Where it is slower, that is said;
  ``train.precision: auto`` never chooses it.

Results go to ``benchmarks/results/`` with date, hardware and versions. ``--device cpu --sizes tiny`` runs every path
on a CPU, fp8 emulated, to see that it works; its speeds mean nothing.
"""

import argparse
import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from support import gpu_check
from support.engine_steps import Step
from support.gpu_sides import Bench, Setup, engine_step, make_batch, new_engine, plain_step
from support.gpu_speed import Speed, Work, compare, release
from support.peers import REPO
from support.results import DIRECTORY, Table, describe, keep

from rayllm.core.config import load_config
from rayllm.data.batches import Batch
from rayllm.model.config import ModelConfig
from rayllm.model.flops import training_flops_per_token
from rayllm.model.layers.kernels import choose_kernel
from rayllm.train.metrics import peak_flops

VOCAB = 50_257
LEAST_OF_PLAIN, MOST_FOR_MASKS, LEAST_OF_FP8, FP8_DIM = 0.97, 0.05, 1.25, 2048


@dataclass(frozen=True)
class Size:
    """A model and its step.

    Attributes:
        name: For the table.
        model: Sizes.
        length: Of a row.
        rows: Of a step.
        document_tokens: Mean length of a document.
        mfu: The aim.
        steps: Of a turn.
    """

    name: str
    model: ModelConfig
    length: int
    rows: int
    document_tokens: int
    mfu: float
    steps: int

    def batch(self, device: torch.device) -> Batch:
        """The rows of every step."""
        return make_batch(self.model, self.rows, self.length, self.document_tokens, device)

    def step(self, device: torch.device) -> Work:
        """What a step amounts to."""
        flops = training_flops_per_token(self.model, self.length)
        return Work(self.rows * self.length, flops, peak_flops(device), self.steps)


class Deadline:
    """When a part begins nothing new any more."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def passed(self) -> bool:
        """Whether it is over."""
        return time.monotonic() > self._end


def sizes(kind: str) -> list[Size]:
    """``full``: what the aims are stated for. ``tiny``: something for a CPU."""
    if kind == "tiny":
        model = ModelConfig(dim=32, num_layers=2, num_heads=2, num_kv_heads=1, ffn_dim=64, max_seq_len=64)
        return [Size("tiny", model.with_vocab(96), 64, 2, 16, 0.45, 1)]
    presets = [("124M", "gpt2-124m", 1024, 32, 0.45), ("350M", "350m", 2048, 8, 0.48), ("1B", "1b", 2048, 4, 0.55)]
    return [Size(name, _preset(file), length, rows, 500, mfu, 5) for name, file, length, rows, mfu in presets]


def _preset(file: str) -> ModelConfig:
    return load_config(str(REPO / "configs" / "model" / f"{file}.yaml"), [], ModelConfig).with_vocab(VOCAB)


def check(bench: Bench, kind: str, deadline: Deadline) -> tuple[list[Table], bool]:
    """Everything against float32; the length of a row is small, since what is wrong is wrong at any length."""
    model = ModelConfig(dim=256, num_layers=2, num_heads=4, num_kv_heads=2, ffn_dim=512, max_seq_len=256)
    tiny = ModelConfig(dim=32, num_layers=2, num_heads=2, num_kv_heads=1, ffn_dim=64, max_seq_len=64)
    chosen, length = (tiny, 64) if kind == "tiny" else (model, 256)
    verdicts = gpu_check.run_checks(chosen.with_vocab(512), length, bench, deadline.passed)
    return [gpu_check.table(verdicts)], all(verdict.passed for verdict in verdicts)


def bf16(bench: Bench, kind: str, deadline: Deadline) -> tuple[list[Table], bool]:
    """Our engine on DeepSpeed beside the plain loop, and what masks cost."""
    rows = []
    for size in sizes(kind):
        kernel = choose_kernel("auto", bench.device, size.model, half=True, document_mask=True).name
        found = _measure(_bf16_sides(size, kernel, bench), size, bench, deadline)
        if isinstance(found, str):
            rows.append([size.name, found, *[""] * 6])
            continue
        rows.append([size.name, *_cells(found, size.mfu), f"{1 - found['masks'].over(found['ours']):.1%} ({kernel})"])
    columns = ["size", "tokens/s", "MFU (aim)", "peak memory", "plain loop, tokens/s", "its peak memory"]
    columns.append(f"of the plain loop (aim: at least {LEAST_OF_PLAIN:.0%})")
    columns.append(f"masks cost (aim: at most {MOST_FOR_MASKS:.0%})")
    return [Table("bf16, compiled, ZeRO-1 at world size 1", columns, rows)], True


def _bf16_sides(size: Size, kernel: str, bench: Bench) -> dict[str, Callable[[], Step]]:
    """A plain loop, and one engine without and with document masks."""
    batch = size.batch(bench.device)
    setup = Setup("bf16", attention=kernel, compiled=True, zero_stage=1)
    engine = functools.cache(lambda: new_engine(size.model, setup, bench, size.rows))
    return {
        "plain": lambda: plain_step(size.model, Setup("bf16", compiled=True), bench, batch),
        "ours": lambda: engine_step(engine(), batch, documents=False),
        "masks": lambda: engine_step(engine(), batch, documents=True),
    }


def fp8(bench: Bench, kind: str, deadline: Deadline) -> tuple[list[Table], bool]:
    """fp8 beside bf16 and beside a plain loop in fp8; the largest size first, since the aim is stated there."""
    rows = []
    for size, ours, other in _fp8_pairs(kind):
        head = [f"{size.name}, width {size.model.dim}", ours.name]
        head.append(f"{'plain loop' if other.zero_stage is None else 'ours'}, {other.name}")
        sides = {"ours": _fp8_side(size, ours, bench), "plain": _fp8_side(size, other, bench)}
        found = _measure(sides, size, bench, deadline)
        if isinstance(found, str):
            rows.append([*head, found, *[""] * 5])
            continue
        ratio = found["ours"].over(found["plain"])
        rows.append([*head, *_cells(found, size.mfu)[:5], f"{ratio:.2f}{'' if ratio >= 1 else ': slower'}"])
    columns = ["size", "setup", "against", "tokens/s", "MFU (of bf16's peak)", "peak memory", "other, tokens/s"]
    columns += ["its peak memory", "times the other's speed"]
    aims = f"aims: {LEAST_OF_FP8} times bf16 at width {FP8_DIM}, {LEAST_OF_PLAIN} times the plain loop"
    return [Table(f"fp8, compiled, ZeRO-0 at world size 1; {aims}", columns, rows)], True


def _fp8_pairs(kind: str) -> Iterator[tuple[Size, Setup, Setup]]:
    """What runs side by side: our engine in fp8, against itself in bf16, then against a plain loop in fp8."""
    tensorwise, rowwise = (
        Setup("fp8", recipe=recipe, compiled=True, zero_stage=0) for recipe in ("tensorwise", "rowwise")
    )
    ours_bf16, plain_fp8 = Setup("bf16", compiled=True, zero_stage=0), Setup("fp8", compiled=True)
    for ours, other in ((tensorwise, ours_bf16), (rowwise, ours_bf16), (tensorwise, plain_fp8)):
        for size in reversed(sizes(kind)):
            yield size, ours, other


def _fp8_side(size: Size, setup: Setup, bench: Bench) -> Callable[[], Step]:
    batch = size.batch(bench.device)
    if setup.zero_stage is None:
        return lambda: plain_step(size.model, setup, bench, batch)
    return lambda: engine_step(new_engine(size.model, setup, bench, size.rows), batch, documents=False)


def _measure(
    sides: dict[str, Callable[[], Step]], size: Size, bench: Bench, deadline: Deadline
) -> dict[str, Speed] | str:
    """The speed of each side, or why there is none."""
    if deadline.passed():
        return gpu_check.NO_TIME
    try:
        return compare(sides, size.step(bench.device), bench, spread=0.2)
    except torch.OutOfMemoryError:
        return "out of memory"
    finally:
        sides.clear()  # with them goes what they hold
        release(bench.device)


def _cells(found: dict[str, Speed], aim: float) -> list[str]:
    """Ours and the plain loop's, and the ratio."""
    ours, plain = found["ours"], found["plain"]
    mfu = "unknown" if ours.mfu is None else f"{ours.mfu:.1%}"
    return [
        f"{ours.tokens_per_s:,.0f}",
        f"{mfu} ({aim:.0%})",
        f"{ours.peak_bytes / 1e9:.1f} GB",
        f"{plain.tokens_per_s:,.0f}",
        f"{plain.peak_bytes / 1e9:.1f} GB",
        f"{ours.over(plain):.1%}",
    ]


PARTS = {"check": check, "bf16": bf16, "fp8": fp8}


@dataclass(frozen=True)
class Order:
    """What is to be run.

    Attributes:
        parts: Names of ``PARTS``.
        sizes: ``full`` or ``tiny``.
        minutes: After these a part begins nothing new.
        results: Where the tables are kept.
    """

    parts: Sequence[str]
    sizes: str
    minutes: float
    results: Path


def main() -> int:
    """Run the parts that are named, or all; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--sizes", choices=("full", "tiny"), default="full")
    parser.add_argument("--no-compile", action="store_true", help="leave torch's compiler out")
    parser.add_argument("--minutes", type=float, default=6.0, help="after these a part begins nothing new")
    parser.add_argument("--results", type=Path, default=DIRECTORY)
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    if args.device == "cuda" and not torch.cuda.is_available():
        print("this machine has no CUDA GPU; `--device cpu --sizes tiny` shows that the script works")
        return 0
    os.environ["LOCAL_RANK"] = "0"
    bench = Bench(torch.device(args.device), emulate=args.device == "cpu", compiles=not args.no_compile)
    with tempfile.TemporaryDirectory() as scratch:
        kinds = "cpu:gloo,cuda:nccl" if args.device == "cuda" else "gloo"
        dist.init_process_group(kinds, init_method=f"file://{scratch}/store", rank=0, world_size=1)
        passed = run(Order(args.parts or list(PARTS), args.sizes, args.minutes, args.results), bench)
        dist.destroy_process_group()
    return 0 if passed else 1


def run(order: Order, bench: Bench) -> bool:
    """Run, print and keep the parts in a group of one rank; whether all passed."""
    print(", ".join(f"{key} {value}" for key, value in describe(bench.device).items()))
    outcomes = []
    for name in order.parts:
        start = time.monotonic()
        tables, passed = PARTS[name](bench, order.sizes, Deadline(60 * order.minutes))
        file = keep(name, bench.device, tables, order.results)
        for table in tables:
            print(f"\n{table.markdown()}")
        seconds = time.monotonic() - start
        print(f"\n{name}: {'passed' if passed else 'FAILED'} in {seconds:.0f} s, kept in {file}", flush=True)
        outcomes.append(passed)
    return all(outcomes)


if __name__ == "__main__":
    sys.exit(main())
