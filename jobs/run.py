"""Run all stages, as a job of a cluster.

``ray job submit --working-dir . -- python jobs/run.py FILE [a.b=c ...] [--force]``
"""

import sys

from rayllm.cli import main
from rayllm.commands.submit import on_cluster

if __name__ == "__main__":
    sys.exit(main(on_cluster("run", sys.argv[1:])))
