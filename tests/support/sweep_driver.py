"""A sweep of a slow training as a process of its own: ``sweep_driver.py ADDRESS PACKED ROOT TRIALS [DASHBOARD]``.

``local`` starts a Ray with two CPUs and two GPUs that are not there. Writes ``done.json`` when it is through: how each
trial ended, and the seconds until Ray had everything back.
"""

import json
import sys
import time
from pathlib import Path

import ray
from small_sweep import make_sweep, run_rates, seconds_until_free, slow_training

from rayllm.core.errors import SavedForRerun
from rayllm.core.log import configure
from rayllm.pipelines.tune import execute


def main() -> None:
    """Run the sweep."""
    address, packed, root, trials = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    if address == "local":
        ray.init(
            address="local", num_cpus=2, num_gpus=2, include_dashboard="dashboard" in sys.argv, log_to_driver=False
        )
    else:
        ray.init(address=address, log_to_driver=False)
    configure()
    execute.train_trial = slow_training()
    sweep = make_sweep(root, packed, cpus_per_trial=1)
    (root / "ready").touch()
    ended: list[tuple[int, str, bool]] = []
    try:
        results = run_rates(sweep, [0.001 * number for number in range(1, trials + 1)])
        ended = [(one.trial, one.status, one.reused) for one in results]
    except SavedForRerun as error:
        ended = [(-1, str(error.why), False)]
    finally:
        total = {"CPU": 2, "GPU": 2} if address == "local" else {"CPU": 1}  # of a cluster, the head's is left
        free_s = seconds_until_free(time.monotonic(), **total)
        (root / "done.json").write_text(json.dumps({"ended": ended, "free_s": free_s, "at": time.time()}))


if __name__ == "__main__":
    main()
