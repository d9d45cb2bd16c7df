"""An adaptive mixture against fixed ones at equal tokens: the same model, data and seeds, only the weights differ.

`natural` and `uniform` stay as they are; `adaptive` begins as natural and moves with its excess over the uniform run of
the same seed, and so reads more of what natural reads too little of. Each figure is the last validation's bits per
byte; differences are to natural, seed by seed. The data are the quickstart's, packed first, or taken with `--packed`.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from support.peers import REPO
from support.results import Table

from rayllm.pipelines import train
from rayllm.pipelines.run_config import load_run
from rayllm.pipelines.runner import run_stages, verbs_for
from rayllm.pipelines.train.session import train_alone

MEAN = "mean_bits_per_byte"
SIDES = ("natural", "uniform", "adaptive")


def configure(root: Path, steps: int, seed: int, mixture: dict[str, Any]) -> train.Config:
    """A small run with some mixture; ten validations."""
    return train.Config.model_validate(
        {
            "name": "adaptive",
            "storage": str(root),
            "seed": seed,
            "model": {"dim": 128, "num_layers": 4, "num_heads": 4, "num_kv_heads": 2, "ffn_dim": 384},
            "mixture": mixture,
            "train": {
                "seq_len": 128,
                "global_batch_tokens": 2048,
                "max_steps": steps,
                "precision": "fp32",
                "optimizer": {"lr": 3e-3},
                "engine": {"kind": "torch"},
                "checkpoint": {"every_steps": steps},
                "validation": {"every_steps": max(steps // 10, 1), "max_tokens": 16_384},
                "samples": {"every_steps": 0, "max_new_tokens": 1},
                "logging": {"tensorboard": False, "update_ratios": False},
            },
        }
    )


def compare(packed: str, root: Path, steps: int, seed: int, rate: float) -> dict[str, dict[str, float]]:
    """The last validation of every side."""
    moving = {"reference": str(root / "uniform" / "metrics.jsonl"), "rate": rate}
    mixtures = {
        "natural": {"weights": "natural"},
        "uniform": {"weights": "uniform"},
        "adaptive": {"weights": "natural", "adaptive": moving},
    }
    return {side: train_alone(configure(root, steps, seed, mixtures[side]), packed, str(root / side)) for side in SIDES}


def main() -> None:
    """Train every side for every seed, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packed", help="directory of packed tokens, with at least two domains")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=2.0, help="mixture.adaptive.rate")
    args = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        packed = args.packed or pack_quickstart(scratch)
        for seed in range(args.seeds):
            runs.append(compare(packed, Path(scratch, str(seed)), args.steps, seed, args.rate))
    print(tabulate(runs, args.steps).markdown())


def pack_quickstart(scratch: str) -> str:
    """The quickstart's tokens."""
    config = load_run(str(REPO / "configs/run/quickstart.yaml"), [f"storage={scratch}"])
    return run_stages(config, verbs_for("pack"))["pack"].uri


def tabulate(runs: list[dict[str, dict[str, float]]], steps: int) -> Table:
    """Means over the seeds, and the lead of every seed."""
    names = [name for name in runs[0]["natural"] if name.startswith("bits_per_byte/")]
    rows = []
    for side in SIDES:
        leads = [run[side][MEAN] - run["natural"][MEAN] for run in runs]
        values = [statistics.mean(run[side][name] for run in runs) for name in (*names, MEAN)]
        told = [f"{statistics.mean(leads):+.4f}", " ".join(f"{lead:+.4f}" for lead in leads)]
        rows.append([side, *(f"{value:.4f}" for value in values), *told])
    columns = ["mixture", *(name.partition("/")[2] for name in names), "mean", "against natural", "by seed"]
    return Table(f"Bits per byte after {steps} steps of 2,048 tokens, {len(runs)} seeds", columns, rows)


if __name__ == "__main__":
    main()
