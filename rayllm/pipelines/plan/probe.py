"""A few real steps of a run's model, measured in fresh processes: what the forecast is checked against.

In: a config and how many ranks. Out: a ``Measured``, or what went wrong. Ranks are processes of their own without Ray:
their memory is their own, and a crash of theirs is a line of the plan.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rayllm.core.errors import RunFailed
from rayllm.pipelines.plan.probe_rank import Measured, Spec, Timing
from rayllm.pipelines.ray_runtime import prepare_environment
from rayllm.pipelines.train import Config

TIMEOUT_S = 300.0
POLL_S = 0.1


def run_probe(
    config: Config, vocab_size: int, shapes: Sequence[tuple[int, int, int]], *, world_size: int, threads: int
) -> Measured:
    """Take a few steps on this machine.

    Args:
        config: The run.
        vocab_size: Ids of the tokenizer.
        shapes: Rows, tokens of a row, and micro-batches in a step: each pair of the first two once.
        world_size: Ranks.
        threads: Of each.

    Raises:
        RunFailed: If a rank ends with an error, or takes too long.
    """
    prepare_environment()
    with tempfile.TemporaryDirectory(prefix="rayllm-probe-") as directory:
        spec = Spec(config.model_dump_json(), vocab_size, list(shapes), threads, world_size, 0, directory)
        ranks = [_start(dataclasses.replace(spec, rank=rank)) for rank in range(world_size)]
        try:
            _wait(ranks, Path(directory))
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
        found = json.loads(Path(directory, "measured.json").read_text())
    return Measured(**found | {"timings": [Timing(**timing) for timing in found["timings"]]})


def _start(spec: Spec) -> "subprocess.Popen[bytes]":
    path = Path(spec.directory, f"rank-{spec.rank}.json")
    path.write_text(json.dumps(dataclasses.asdict(spec)))
    place = {"RANK": spec.rank, "LOCAL_RANK": spec.rank, "WORLD_SIZE": spec.world_size}
    environment = os.environ | {name: str(value) for name, value in place.items()}
    environment["OMP_NUM_THREADS"] = str(spec.threads)
    with _output(path).open("wb") as output:
        command = [sys.executable, "-m", "rayllm.pipelines.plan.probe_rank", str(path)]
        return subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)


def _output(path: Path) -> Path:
    return path.with_suffix(".out")


def _wait(ranks: "list[subprocess.Popen[bytes]]", directory: Path) -> None:
    """Until all are through, or one has failed."""
    deadline = time.monotonic() + TIMEOUT_S
    while any(rank.poll() is None for rank in ranks):
        failed = [number for number, rank in enumerate(ranks) if rank.poll()]
        if failed:
            break
        if time.monotonic() > deadline:
            raise RunFailed("the probe took too long", why=f"{TIMEOUT_S:g} s were not enough for a few steps")
        time.sleep(POLL_S)
    for number, rank in enumerate(ranks):
        if code := rank.poll():
            lines = _output(directory / f"rank-{number}.json").read_text(errors="replace").strip().splitlines()
            why = "it was killed, perhaps for want of memory" if code == -9 else lines[-1] if lines else "it died"
            raise RunFailed("the probe failed", where=f"rank {number}, exit code {code}", why=why)
