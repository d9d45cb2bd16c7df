"""The train stage alone, on a Ray of its own: the same session as ``bare_run``, under Ray Train."""

import argparse

from rayllm.core.artifact import read_artifact
from rayllm.core.config import load_config
from rayllm.core.log import configure
from rayllm.core.stage import Work
from rayllm.pipelines import ray_runtime, train
from rayllm.pipelines.train.driver import run_with_ray


def main() -> None:
    """Start Ray, train, end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("packed")
    parser.add_argument("directory")
    args = parser.parse_args()
    configure()
    config = load_config(args.config, [], train.Config)
    run_with_ray(Work(config, {"pack": read_artifact(args.packed)}, args.directory, ""))
    ray_runtime.shutdown()


if __name__ == "__main__":
    main()
