"""Training under random kills: however often it dies, it ends in the bits of the run that nobody disturbed.

In: minutes and a seed. One run is trained undisturbed; then the same run again and again while its workers, Ray Train's
controller and its driver are killed by signal 9 at random moments, some of them while a checkpoint is being written. A
driver that has ended is started again with the same command, as a scheduler would. Out: what was killed, how long the
run took to go on, how many steps it did again; exit code 1 if one bit of a final checkpoint or of a record differs.

    make soak MINUTES=10 SEED=1
"""

import argparse
import collections
import contextlib
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from own_ray import OwnRay, own_ray
from tiny_run import write_run

from rayllm.core.artifact import sha256_file
from rayllm.core.checkpoint import list_checkpoints
from rayllm.report.metrics_log import read_metrics

STEPS, EVERY = 1200, 20
RUN = {
    "seq_len": 128,
    "global_batch_tokens": 2048,
    "micro_batch_size": 8,
    "checkpoint": {"every_steps": EVERY},
    "validation": {"every_steps": 10 * EVERY, "max_tokens": 1024},
    "samples": {"every_steps": 0, "max_new_tokens": 4},
    "workers": {"count": 2, "cpus": 1, "max_failures": 1000},
}
MODEL = ("model.dim=96", "model.num_layers=4", "model.ffn_dim=256", "model.max_seq_len=128")
#: Seconds between the first new step after a kill and the next kill, at most; and how many kills do not wait for it.
CALM_S, IMPATIENT_FRAC = 12.0, 0.2
#: Seconds after which a run that makes no step is taken to hang.
HANG_S = 180.0
#: What is killed → what its processes are called; a driver is the command itself.
TITLES = {"worker": "TrainWorker", "worker while saving": "TrainWorker", "controller": "TrainController"}
KINDS = (*TITLES, "driver")
MEASURED = ("time", "attempt", "step_s", "tokens_per_s", "mfu", "memory_bytes")


@dataclass
class Trial:
    """One run and what was done to it.

    Attributes:
        directory: Of the train artifact.
        kills: Kind and moment of each kill, in order.
        starts: How often the command was started.
    """

    directory: Path
    kills: list[tuple[str, float]] = field(default_factory=list)
    starts: int = 0

    def steps(self) -> list[dict[str, Any]]:
        """Records of steps in the order in which they were written; the last line may be torn."""
        path = self.directory / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        records = []
        for line in filter(lambda line: line.endswith("\n"), lines):
            with contextlib.suppress(json.JSONDecodeError):
                records.append(json.loads(line))
        return [record for record in records if record["kind"] == "train"]

    def new_step_since(self, moment: float) -> float | None:
        """When a later start than that of a moment did the first step that had not been done before it."""
        steps = self.steps()
        before = [record for record in steps if record["time"] <= moment]
        reached, attempt = (max((record[name] for record in before), default=0) for name in ("step", "attempt"))
        new = [record["time"] for record in steps if record["step"] > reached and record["attempt"] > attempt]
        return min(new, default=None)

    def outcome(self) -> tuple[dict[str, str], list[dict[str, Any]]]:
        """What must be equal: hashes of the last checkpoint's tensors, and the records but for the clock."""
        last = Path(list_checkpoints(str(self.directory / "checkpoints"))[-1].uri)
        hashes = {str(path.relative_to(last)): sha256_file(str(path)) for path in last.rglob("*.safetensors")}
        log = read_metrics(str(self.directory / "metrics.jsonl"))
        kept = [
            {name: value for name, value in record.items() if name not in MEASURED}
            for record in (*log.train, *log.validation)
        ]
        return hashes, kept

    def recoveries(self) -> Iterator[tuple[str, float]]:
        """Kind and seconds to the next new step of each kill after which the run was left in peace for so long."""
        ends = [moment for _, moment in self.kills[1:]] + [float("inf")]
        for (kind, moment), end in zip(self.kills, ends, strict=True):
            if (found := self.new_step_since(moment)) and found < end:
                yield kind, found - moment

    def repeated(self) -> list[int]:
        """Steps done again by each later start of the workers."""
        highest, again = 0, collections.Counter[int]()
        for record in self.steps():
            again[record["attempt"]] += record["step"] <= highest
            highest = max(highest, record["step"])
        return [count for _, count in sorted(again.items())][1:]


class Soak:
    """Runs of one configuration in one storage.

    Args:
        ray: Starts commands.
        root: An empty directory.
        chance: What to kill, and when.
    """

    def __init__(self, ray: OwnRay, root: Path, chance: random.Random) -> None:
        self._ray, self._root, self._chance = ray, root, chance
        self._file = write_run(root, str(root / "runs"), max_steps=STEPS, **RUN)
        self._check(self._start("pack", "name=texts"))

    def straight(self) -> tuple[Trial, float]:
        """The run that nobody disturbs, and its seconds."""
        begun = time.monotonic()
        self._check(self._start("train", "name=straight"))
        return Trial(self._directory("straight")), time.monotonic() - begun

    def broken(self, name: str, deadline: float) -> Trial:
        """The same run with kills until a moment of ``time.time()``, started again until it is done."""
        process = self._start("train", f"name={name}")
        self._wait(process, lambda: any((self._root / "runs" / name).glob("train-*")))
        trial = Trial(self._directory(name), starts=1)
        died_with = 0
        while process.poll() != 0:
            if process.poll() is not None:
                if len(trial.kills) == died_with:
                    raise SystemExit(f"the run ended by itself, code {process.returncode}:\n{self._said()}")
                trial.starts, died_with = trial.starts + 1, len(trial.kills)
                process = self._start("train", f"name={name}")
            last = trial.kills[-1][1] if trial.kills else 0.0
            if self._chance.random() >= IMPATIENT_FRAC or not last:
                self._wait(process, lambda last=last: trial.new_step_since(last) is not None)
            if time.time() > deadline:
                self._wait(process, lambda: False, limit_s=5 * HANG_S)
                continue
            pause = time.monotonic() + self._chance.uniform(0, CALM_S)
            self._wait(process, lambda pause=pause: time.monotonic() > pause)
            self._kill(process, trial)
        return trial

    def _kill(self, process: "subprocess.Popen[bytes]", trial: Trial) -> None:
        """Kill a process of a kind chosen by chance, as soon as there is one."""
        kind, victims = self._chance.choice(KINDS), list[psutil.Process]()

        def found() -> bool:
            victims[:] = _victims(process, kind)
            saving = any((trial.directory / "checkpoints").glob(".staging*"))
            return bool(victims) and (saving or "saving" not in kind)

        self._wait(process, found, pause_s=0.002)
        if not victims:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            self._chance.choice(sorted(victims, key=lambda victim: victim.pid)).kill()
            trial.kills.append((kind, time.time()))
        if kind == "driver":
            process.wait()

    def _wait(
        self,
        process: "subprocess.Popen[bytes]",
        condition: Callable[[], bool],
        *,
        limit_s: float = HANG_S,
        pause_s: float = 0.05,
    ) -> None:
        """Wait for a condition or for the end of the command."""
        begun = time.monotonic()
        while process.poll() is None and not condition():
            if time.monotonic() - begun > limit_s:
                raise SystemExit(f"nothing happened for {limit_s:.0f} s; the command said:\n{self._said()}")
            time.sleep(pause_s)

    def _start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        with (self._root / "output.txt").open("ab") as output:
            return self._ray.start_into(output, arguments[0], str(self._file), *MODEL, *arguments[1:])

    def _check(self, process: "subprocess.Popen[bytes]") -> None:
        if process.wait() != 0:
            raise SystemExit(f"exit code {process.returncode}:\n{self._said()}")

    def _said(self) -> str:
        return "\n".join((self._root / "output.txt").read_text(errors="replace").splitlines()[-60:])

    def _directory(self, name: str) -> Path:
        (directory,) = (self._root / "runs" / name).glob("train-*")
        return directory


def _victims(process: "subprocess.Popen[bytes]", kind: str) -> list[psutil.Process]:
    """Processes of a kind, alive now."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        command = psutil.Process(process.pid)
        if kind == "driver":
            return [command]
        for child in command.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if TITLES[kind] in " ".join(child.cmdline()):
                    found.append(child)
    return found


def _span(seconds: list[float]) -> str:
    return f"median {statistics.median(seconds):.1f} s, longest {max(seconds):.1f} s" if seconds else "not measured"


def report(trials: list[Trial], straight_s: float, minutes: float) -> list[str]:
    """What happened, as lines."""
    counts = collections.Counter(kind for trial in trials for kind, _ in trial.kills)
    recoveries = [found for trial in trials for found in trial.recoveries()]
    repeated = [count for trial in trials for count in trial.repeated()]
    again, steps = sum(repeated), STEPS * len(trials)
    lines = [
        f"unbroken run: {STEPS} steps in {straight_s:.0f} s; kills for {minutes:g} minutes over {len(trials)} runs",
        f"kills: {sum(counts.values())}; the command was started {sum(trial.starts for trial in trials)} times",
        *(
            f"  {kind:20} {counts[kind]:3}   to the next new step: {_span([s for k, s in recoveries if k == kind])}"
            for kind in KINDS
        ),
        f"steps done again: {again} of {steps} ({again / steps:.1%}), at once at most {max(repeated, default=0)} "
        f"(a checkpoint every {EVERY})",
    ]
    return lines


def main() -> int:
    """Run the soak; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to kill (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of what is killed, and when (default: %(default)s)")
    args = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="rayllm-soak-"))
    with own_ray() as ray:
        soak = Soak(ray, root, random.Random(args.seed))
        straight, straight_s = soak.straight()
        print(f"unbroken run: {straight_s:.0f} s", flush=True)
        expected, trials = straight.outcome(), list[Trial]()
        deadline = time.time() + 60 * args.minutes
        while time.time() < deadline:
            trials.append(soak.broken(f"broken-{len(trials) + 1}", deadline))
            if trials[-1].outcome() != expected:
                print(f"NOT the unbroken run: {trials[-1].directory} against {straight.directory}")
                return 1
    print("\n".join(report(trials, straight_s, args.minutes)))
    print("every final checkpoint and every record is that of the unbroken run, bit for bit")
    shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
