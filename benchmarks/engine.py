"""What training on Ray and ZeRO costs over a plain loop: the step, the launch, the loop around the step, a resume.

Parts, each a few minutes on two cores; all ratios are from one run, the sides take turns, and their losses are compared
before any time is believed. Aims:

- ``step``: a step of our engine on DeepSpeed at ZeRO 0, 1 and 2 takes at most 1.20 times that of a plain PyTorch loop
  of the same model in the same precision, at width 384, on one rank and on two (there the plain loop is PyTorch's
  ``DistributedDataParallel``). The ranks are bare processes, without Ray.
- ``launch``: under Ray Train a step of the same session takes at most 1.02 times that under ``torchrun``, and the first
  step ends at most 12 s later; with one worker, which leaves a core to Ray's own processes, and with one on every core.
- ``loop``: at most 3 % of a step lie outside forward, backward and optimiser; logging a step takes at most 1 ms.
- ``resume``: from the start of the process to its first step a resumed run takes at most 3 s more than a new one,
  wherever in the data it stands.

How long a checkpoint holds up training is measured by ``checkpoint_stall.py``.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import torch.distributed as dist
from support.engine_steps import Step, engine_step, make_batch, plain_step
from support.loop_clock import Loop, clock_loop
from support.peers import describe_machine, median_ratio
from support.rank_pool import on_ranks
from support.small_runs import Launch, launch, pack_random, write_config

from rayllm.model.config import ModelConfig
from rayllm.pipelines import ray_runtime

WIDTH_384 = {"dim": 384, "num_layers": 6, "num_heads": 6, "num_kv_heads": 6, "ffn_dim": 1024, "max_seq_len": 512}
TINY = {"dim": 64, "num_layers": 2, "num_heads": 2, "num_kv_heads": 2, "ffn_dim": 128, "max_seq_len": 128}
ROWS, SEQ_LEN = 4, 512
#: The most by which the losses of sides that do the same work may differ, in nats.
MOST_APART = 1e-2
SUPPORT = Path(__file__).parent / "support"
TORCHRUN = ("-m", "torch.distributed.run")
ZERO_STAGES = (0, 1, 2)


def step_times(precision: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of every round's steps by side, on one rank; all ranks call it together.

    Raises:
        AssertionError: If the sides do not compute the same.
    """
    model = ModelConfig.model_validate(WIDTH_384 | {"vocab_size": 8192, "real_vocab_size": 8192})
    batch = make_batch(model, ROWS, SEQ_LEN, seed=dist.get_rank())
    sides: dict[str, Step] = {"plain": plain_step(model, precision, batch)}
    sides |= {f"ZeRO-{stage}": engine_step(model, precision, batch, stage) for stage in ZERO_STAGES}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):  # the first one warms up
        losses = {}
        for name in sides if number % 2 else reversed(sides):
            start = time.perf_counter()
            losses[name] = sides[name]()
            times[name].append(time.perf_counter() - start)
        spread = max(losses.values()) - min(losses.values())
        assert spread < MOST_APART, f"the sides do not compute the same: {losses}"
    return {name: seconds[1:] for name, seconds in times.items()}


def measure_step(rounds: int) -> None:
    """Print the engine's step over the plain loop's."""
    print(f"step: width 384, 6 layers, V 8,192, {ROWS} rows of {SEQ_LEN} on each rank (aim: at most 1.20 times)")
    for ranks in (1, 2):
        for precision in ("fp32", "bf16"):
            times = on_ranks(step_times, ranks, precision, rounds)[0]
            plain = times.pop("plain")
            ratios = ", ".join(f"{name} {median_ratio(found, plain):.2f}" for name, found in times.items())
            print(f"  {ranks} ranks, {precision}: plain {statistics.median(plain):.3f} s; {ratios}", flush=True)


def measure_launch(rounds: int) -> None:
    """Print step and first step under Ray Train beside those under ``torchrun``."""
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as scratch:
            pairs = launches(Path(scratch), workers, rounds)
        assert all(ray.losses == bare.losses for ray, bare in pairs), "the launchers do not train the same"
        ratio = statistics.median(ray.step_s / bare.step_s for ray, bare in pairs)
        ray_first, bare_first = (statistics.median(pair[side].first_step_s for pair in pairs) for side in (0, 1))
        print(
            f"launch: width 384, {workers} workers on {os.cpu_count()} cores: a step under Ray Train takes {ratio:.3f} "
            f"times that under torchrun ({statistics.median(pair[1].step_s for pair in pairs):.3f} s; aim: at most "
            f"1.02); the first step ends after {ray_first:.1f} s and {bare_first:.1f} s: "
            f"{ray_first - bare_first:.1f} s later (aim: at most 12)",
            flush=True,
        )


def launches(root: Path, workers: int, rounds: int) -> list[list[Launch]]:
    """Starts under Ray Train and under ``torchrun``, in turn."""
    train = {"seq_len": SEQ_LEN, "global_batch_tokens": workers * SEQ_LEN, "micro_batch_size": 1, "max_steps": 45}
    packed = pack_random(root / "packed", 200_000)
    config = write_config(root / "run.yaml", WIDTH_384 | {"vocab_size": 8192}, train, workers)

    def start(prefix: Sequence[str]) -> Launch:
        directory = Path(tempfile.mkdtemp(dir=root))
        found = launch([*prefix, str(config), packed, str(directory)], directory)
        shutil.rmtree(directory)
        return found

    sides: list[Callable[[], Launch]] = [
        lambda: start([str(SUPPORT / "ray_run.py")]),
        lambda: start([*TORCHRUN, f"--nproc-per-node={workers}", str(SUPPORT / "bare_run.py")]),
    ]
    return in_turn(sides, rounds)


def measure_loop(rounds: int) -> None:
    """Print what the loop adds to forward, backward and optimiser, and what a record costs."""
    print("loop: share of a step outside forward, backward and optimiser (aim: at most 3 % at width 384), one record")
    cases = {"width 384": (WIDTH_384 | {"vocab_size": 8192}, SEQ_LEN, 10), "width 64": (TINY, 64, 200)}
    with tempfile.TemporaryDirectory() as scratch:
        packed = pack_random(Path(scratch) / "packed", 200_000)
        for name, (model, length, steps) in cases.items():
            for ranks in (1, 2):
                tokens = ROWS * length * ranks
                train = {"seq_len": length, "global_batch_tokens": tokens, "micro_batch_size": ROWS}
                train |= {"max_steps": steps * rounds, "optimizer": {"lr": 1e-4}}
                directory = Path(tempfile.mkdtemp(dir=scratch))
                config = write_config(directory / "run.yaml", model, train, ranks)
                found: Loop = on_ranks(clock_loop, ranks, str(config), packed, str(directory))[0]
                print(
                    f"  {name}, {ranks} ranks: {found.step_s * 1e3:.1f} ms a step, {found.outside_s * 1e3:.2f} ms "
                    f"outside ({found.outside_s / found.step_s:.1%}), of them {found.waiting_s * 1e3:.2f} ms in the "
                    f"collectives of the loop; a record {found.record_s * 1e3:.2f} ms, of them "
                    f"{found.record_waiting_s * 1e3:.2f} ms in its collective (aim: the rest at most 1)",
                    flush=True,
                )


def measure_resume(rounds: int) -> None:
    """Print the time to the first step of resumed runs beside that of new ones."""
    total = 19_000
    train = {"seq_len": SEQ_LEN, "global_batch_tokens": 2 * SEQ_LEN, "micro_batch_size": 2, "max_steps": total}
    positions = {"1": 1, "half": total // 2, "near the end": total - 10}
    script = [*TORCHRUN, "--nproc-per-node=1", str(SUPPORT / "bare_run.py")]
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        packed = pack_random(root / "packed", total * 2 * SEQ_LEN + SEQ_LEN)
        config = str(write_config(root / "run.yaml", WIDTH_384 | {"vocab_size": 8192}, train, workers=1))
        for name, step in positions.items():
            launch([*script, config, packed, str(root / name), f"--save-at={step}"], root / name)

        def start(name: str) -> Launch:
            directory = Path(tempfile.mkdtemp(dir=root))
            if name in positions:
                shutil.copytree(root / name, directory, dirs_exist_ok=True)
            found = launch([*script, config, packed, str(directory), "--one-step"], directory)
            shutil.rmtree(directory)
            return found

        names = ["new", *positions]
        found = in_turn([lambda name=name: start(name) for name in names], rounds)
    seconds = {name: [row[index].first_step_s for row in found] for index, name in enumerate(names)}
    print(f"resume: a new run's first step ends after {statistics.median(seconds['new']):.1f} s")
    for name in positions:
        more = statistics.median(a - b for a, b in zip(seconds[name], seconds["new"], strict=True))
        print(f"  resumed at step {name} of {total:,}: {more:+.1f} s (aim: at most +3)")


def in_turn(sides: Sequence[Callable[[], Any]], rounds: int) -> list[list[Any]]:
    """What the sides give in each round; every other round they go backwards."""
    found = []
    for number in range(rounds):
        order = list(range(len(sides)))[:: 1 if number % 2 == 0 else -1]
        row = {index: sides[index]() for index in order}
        found.append([row[index] for index in range(len(sides))])
    return found


#: What measures each part, and how many rounds it takes.
PARTS = {
    "step": (measure_step, 7),
    "launch": (measure_launch, 5),
    "loop": (measure_loop, 3),
    "resume": (measure_resume, 3),
}


def main() -> None:
    """Run the parts that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--rounds", type=int, help="rounds of each part")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    ray_runtime.prepare_environment()  # what the workers of a run have, all sides have
    print(describe_machine())
    for name in arguments.parts or PARTS:
        measure, rounds = PARTS[name]
        measure(arguments.rounds or rounds)


if __name__ == "__main__":
    main()
