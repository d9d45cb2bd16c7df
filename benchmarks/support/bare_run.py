"""A training session without Ray, to be started by ``torchrun``: what a run costs when no Ray Train is under it."""

import argparse
from unittest import mock

import torch
import torch.distributed as dist

from rayllm.core import storage
from rayllm.core.config import load_config
from rayllm.pipelines import train
from rayllm.pipelines.train import session
from rayllm.pipelines.train.job import Job
from rayllm.train.run import Run


def arguments() -> argparse.Namespace:
    """What the process is told."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("packed")
    parser.add_argument("directory")
    parser.add_argument("--save-at", type=int, help="take this step alone, wherever the run stands, and save")
    parser.add_argument("--one-step", action="store_true", help="take one step, save and stop")
    return parser.parse_args()


def main() -> None:
    """Train as one rank."""
    args = arguments()
    dist.init_process_group("gloo")
    job = Job(load_config(args.config, [], train.Config), args.packed, args.directory)
    torch.set_num_threads(int(job.config.train.workers.cpus or 1))
    storage.make_dirs(job.checkpoints)
    outlets = session.Outlets(sink=session.NullSink(), stop_requested=lambda: args.one_step or args.save_at is not None)
    real = session.train

    def jump(run: Run) -> bool:
        """Train from the step before the one asked for, as if all before it had been taken."""
        if args.save_at is not None:
            run.state.step = args.save_at - 1
        return real(run)

    with mock.patch.object(session, "train", jump):
        session.run_session(job, outlets, job.config.train.engine, torch.device("cpu"))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
