"""A Ray of our own on this machine, started with the processes that a run uses and no others.

``ray.init`` has no arguments for any of this, so what it calls is replaced while it runs:

- no reader of log files, whose lines nobody is sent, and nothing that scales clusters: together 1.3 s of a processor at
  the start, and 0.6 % of the time of a training on two cores;
- no server of the dashboard, which is started, and waited for, also where no dashboard is wanted;
- more processes for workers than there are CPUs, if asked for: those that hold none, such as a trainer's controller,
  would else be started one after the other, each only when it is called for;
- modules that every worker process imports as soon as it is up, beside the driver's own imports.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

#: What Ray calls the process.
RAYLET = "raylet"
PRESTART = "--num_prestart_python_workers="
AT_ONCE = "--maximum_startup_concurrency="
#: Beyond so many, by default as many as there are CPUs, a raylet ends those that have been idle for a second.
KEPT = "RAY_num_workers_soft_limit"
PRELOAD = "RAY_preload_python_modules"


@dataclass(frozen=True)
class Crowd:
    """Worker processes that a local Ray starts at once.

    Attributes:
        beyond_cpus: So many more than it has CPUs.
        modules: What each imports while it waits for work.
    """

    beyond_cpus: int = 0
    modules: tuple[str, ...] = ()


@contextlib.contextmanager
def lean_start(crowd: Crowd) -> Iterator[None]:
    """Within it, ``ray.init`` starts what is described above.

    Args:
        crowd: The worker processes to start with it.
    """
    from ray._private import node, parameter, services

    left_out: dict[str, Any] = {"include_log_monitor": False, "no_monitor": True}
    parameters = functools.partial(parameter.RayParams, **left_out)
    start_process = _crowded(services.start_ray_process, crowd)
    with (
        _replaced(parameter, "RayParams", parameters),
        _replaced(node.Node, "start_api_server", _start_nothing),
        _replaced(services, "start_ray_process", start_process),
    ):
        yield


@contextlib.contextmanager
def _replaced(owner: Any, name: str, by: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, by)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _start_nothing(_: Any, **__: Any) -> None:
    """In place of the dashboard's server."""


def _crowded(start: Callable[..., Any], crowd: Crowd) -> Callable[..., Any]:
    """What starts a process of Ray: the raylet, which starts the workers, with what makes the crowd."""

    def start_process(command: Sequence[str], process_type: str, **rest: Any) -> Any:
        if process_type == RAYLET:
            command, variables = crowded_raylet(command, crowd)
            rest["env_updates"] = (rest.get("env_updates") or {}) | variables
        return start(command, process_type, **rest)

    return start_process


def crowded_raylet(command: Sequence[str], crowd: Crowd) -> tuple[list[str], dict[str, str]]:
    """A raylet's command, and the variables beside it, with which it starts a crowd of workers.

    Args:
        command: As Ray has it.
        crowd: The workers to start at once.
    """
    found = {option: part for part in command for option in (PRESTART, AT_ONCE) if part.startswith(option)}
    counts = {option: int(float(part.removeprefix(option))) + crowd.beyond_cpus for option, part in found.items()}
    raised = {found[option]: f"{option}{count}" for option, count in counts.items()}
    variables = {KEPT: str(counts[PRESTART])} if crowd.beyond_cpus else {}
    if crowd.modules:
        variables[PRELOAD] = ",".join(crowd.modules)
    return [raised.get(part, part) for part in command], variables
