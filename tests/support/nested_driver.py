"""A sweep of trials with two workers each, as a process of its own: ``nested_driver.py PACKED ROOT [WORDS]``.

Words: ``dashboard`` starts Ray's; ``one`` trains a single trial that takes its time, instead of three under ASHA.
Writes ``done.json`` when it is through: how each trial ended, and the seconds until Ray had everything back.
"""

import json
import sys
import time
from pathlib import Path

import ray
from small_sweep import make_sweep, run_rates, seconds_until_free

from rayllm.core.log import configure

TRAIN = {"max_steps": 40, "validation": {"every_steps": 5, "max_tokens": 512}, "engine": {"kind": "torch"}}
TRAIN |= {"logging": {"every_steps": 1}}
LONG = TRAIN | {"max_steps": 1500, "checkpoint": {"every_steps": 20}}


def main() -> None:
    """Run the sweep: of three, the first rate learns, and the others are stopped at their first rung."""
    packed, root = sys.argv[1], Path(sys.argv[2])
    ray.init(address="local", num_cpus=2, include_dashboard="dashboard" in sys.argv, log_to_driver=False)
    configure()
    if "one" in sys.argv:
        sweep = make_sweep(root, packed, LONG, workers=2, cpus_per_trial=2)
        results = run_rates(sweep, [3e-3])
    else:
        asha = {"kind": "asha", "first": 5, "reduction": 2}
        sweep = make_sweep(root, packed, TRAIN, workers=2, cpus_per_trial=2, scheduler=asha)
        results = run_rates(sweep, [3e-3, 1e-9, 2e-9])
    free_s = seconds_until_free(time.monotonic(), CPU=2)
    ended = [(one.trial, one.status, one.error) for one in results]
    seconds = [(one.start_s, one.wall_s) for one in results]
    (root / "done.json").write_text(json.dumps({"ended": ended, "free_s": free_s, "seconds": seconds}))


if __name__ == "__main__":
    main()
