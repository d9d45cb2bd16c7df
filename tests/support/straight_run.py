"""The training of a run file, never disturbed, on forked ranks: what an interrupted one must equal."""

from pathlib import Path

import torch

from rayllm.pipelines import train
from rayllm.pipelines.run_config import load_run, stage_config
from rayllm.pipelines.train.job import Job
from rayllm.pipelines.train.session import NullSink, Outlets, run_session


def straight_run(file: str, directory: str, steps: int | None = None) -> None:
    """Train on this rank; the packed artifact must be there.

    Args:
        file: The run file.
        directory: Where metrics and checkpoints go.
        steps: Stop after so many; train to the end if None.
    """
    run = load_run(file, [])
    config = stage_config("train", run)
    assert isinstance(config, train.Config)
    (packed,) = Path(run.storage).glob("data/pack-*")
    job = Job(config, str(packed), directory)
    looks = 0

    def stop() -> bool:
        nonlocal looks
        looks += 1
        return looks == steps

    run_session(job, Outlets(NullSink(), stop_requested=stop), config.train.engine, torch.device("cpu"))
