"""Out of memory: what the run needs, where most of it goes, and what to change, instead of a failed allocation.

In: an exception, or the end of a worker without one. Out: a ``RunFailed`` that shows the estimate, its largest part and
the three cheapest changes. It ends the run at once: a restart would meet the same end.
"""

import contextlib
from collections.abc import Iterator

import torch

from rayllm.core.errors import RunFailed
from rayllm.report.formats import data_size
from rayllm.train.memory.advice import advise
from rayllm.train.memory.estimate import Estimate, estimate
from rayllm.train.memory.setting import Setting

#: How torch words a failed allocation on a CPU, which has no exception of its own.
CPU_ALLOCATOR = "can't allocate memory"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory was not enough."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and CPU_ALLOCATOR in str(error)


@contextlib.contextmanager
def memory_named(setting: Setting, rank: int) -> Iterator[None]:
    """Turn a failed allocation into an error that says what to change.

    Args:
        setting: Of the run.
        rank: Of this process.

    Raises:
        RunFailed: In its place.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise explained(setting, where=f"rank {rank}", said=str(error)) from error


def explained(setting: Setting, *, where: str, said: str) -> RunFailed:
    """The error for a run that needs too much.

    Args:
        setting: Of the run.
        where: Who ran out of memory.
        said: What told of it.
    """
    found = estimate(setting)
    first = said.strip().splitlines()
    why = f"a rank needs about {data_size(found.total)}" + (f"; {first[0]}" if first else "")
    return RunFailed("out of memory", where=where, why=why, fix=in_words(setting, found))


def in_words(setting: Setting, found: Estimate) -> str:
    """The largest part of an estimate that settings change, and the cheapest changes with what each saves."""
    changes = [f"{change.override} (saves {data_size(change.saved_bytes)})" for change in advise(setting)]
    told = ", ".join(changes) if changes else "more or larger devices: no setting saves much"
    return f"{found.biggest} takes most, {data_size(found.device[found.biggest])}; try {told}"
