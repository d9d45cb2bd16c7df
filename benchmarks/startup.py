"""How long a user waits before anything happens: the help, a config check, and a Ray start.

Reading a config must stay fast, which is why modules that define configs import neither torch nor ray at their top.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
CONFIG = str(REPO / "configs" / "run" / "quickstart.yaml")
REPEATS = 5
CASES = {
    "bare python": ["-c", "pass"],
    "rayllm --help": ["-m", "rayllm.cli", "--help"],
    "rayllm config check": ["-m", "rayllm.cli", "config", "check", CONFIG],
    "import torch": ["-c", "import torch"],
    "import ray": ["-c", "import ray"],
    "ray.init(address='local')": ["-c", "import ray; ray.init(address='local', include_dashboard=False)"],
}


def main() -> None:
    """Print the median of a few fresh processes for each case."""
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    for name, arguments in CASES.items():
        times = [_seconds([sys.executable, *arguments], environment) for _ in range(REPEATS)]
        print(f"{name:28} {statistics.median(times):6.2f} s  (fastest {min(times):.2f}, slowest {max(times):.2f})")


def _seconds(command: list[str], environment: dict[str, str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, env=environment, capture_output=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
