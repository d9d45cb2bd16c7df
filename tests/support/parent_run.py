"""A finished run that others fork, and what is compared of it."""

from pathlib import Path
from typing import Any

from ranks import run_ranks
from safetensors import safe_open
from small_session import forked_run

from rayllm.core.artifact import Artifact
from rayllm.core.checkpoint import list_checkpoints
from rayllm.pipelines import train

#: A run of twelve steps with checkpoints at 4, 8 and 12, whose learning rate decays from step 8 on.
PARENT: dict[str, Any] = {
    "engine": {"kind": "torch"},
    "checkpoint": {"every_steps": 4, "keep_last": 3},
    "schedule": {"kind": "wsd", "warmup_frac": 0.1, "decay_frac": 0.34},
    "samples": {"every_steps": 0},
}


def train_run(config: train.Config, packed: Artifact, ranks: int = 1) -> Path:
    """Train to the end on forked ranks; returns the directory of the run."""
    directory = Path(config.storage) / "run"
    run_ranks(forked_run, ranks, config, packed.uri, str(directory))
    return directory


def weights(run: Path | str) -> dict[str, bytes]:
    """The bytes of every tensor of the last checkpoint."""
    last = list_checkpoints(str(Path(run, "checkpoints")))[-1].uri
    with safe_open(Path(last) / "model.safetensors", "np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118
