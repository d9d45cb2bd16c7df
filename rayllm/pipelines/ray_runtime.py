"""Ray itself: start it or join it, know what it has, and fail in seconds when it cannot be had."""

import atexit
import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from rayllm.core.errors import ClusterLost, SetupError
from rayllm.core.log import get_logger
from rayllm.pipelines.frame import RayConfig
from rayllm.pipelines.local_ray import Crowd, lean_start

logger = get_logger(__name__)

PROBE_TIMEOUT_S = 5.0

#: Set before Ray is imported, unless the user has: no usage statistics, no waiting for a slow poll, no driver noise. A
#: raylet's notice of a dead worker goes to standard output whatever `log_to_driver` says; our messages tell more.
#: Torch's large tensors on CPUs lie in huge pages: small ones cost a training step a tenth of its time to make.
#: Workers have the niceness of other processes: at 15, as by default, training stands still beside whatever else runs
#: there, and starts behind Ray's own processes.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "^A worker died or was killed while executing a task",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_worker_niceness": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCHDYNAMO_DISABLE": "1",
    "THP_MEM_ALLOC_ENABLE": "1",
}
#: On this machine alone, too. Nobody takes it away with notice: Ray Train need not start a process that looks out for
#: it. No dashboard shows which task began when, nor a person how often Ray's own handlers ran: nobody keeps count.
LOCAL_ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_event_stats": "0",
}
NOBODY_MORE = Crowd()


def ensure_ray(config: RayConfig, crowd: Crowd = NOBODY_MORE) -> None:
    """Start a local Ray, or join the cluster that the config names; nothing to do when this process has one.

    Args:
        config: Where Ray is, or what it gets here.
        crowd: The worker processes that a local Ray starts at once.

    Raises:
        SetupError: If the cluster does not answer within seconds, or refuses the token.
    """
    prepare_environment()
    import ray

    if ray.is_initialized():
        return
    if config.address != "local":
        _join(config)
        return
    for name, value in LOCAL_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with lean_start(crowd):
        ray.init(
            address="local",
            num_cpus=config.num_cpus,
            object_store_memory=config.object_store_bytes,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    quiet_libraries()
    logger.info("Ray started on this machine: %s", describe_resources())


def prepare_environment() -> None:
    """Set the environment that Ray and its workers should have; what the user has set stays."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not has_gpu():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def has_gpu() -> bool:
    """Whether this machine shows an NVIDIA GPU, without importing torch."""
    return os.path.exists("/dev/nvidia0") or bool(os.environ.get("CUDA_VISIBLE_DEVICES"))


def quiet_libraries() -> None:
    """Keep the chatter of Ray's libraries out of the console; errors stay."""
    for name in ("ray", "ray.data", "ray.train", "ray.tune", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _join(config: RayConfig) -> None:
    import ray

    _probe(config.address)
    os.environ.setdefault("RAY_AUTH_MODE", "token" if has_token() else "disabled")
    try:
        ray.init(address=config.address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SetupError(
            "the Ray cluster cannot be joined",
            where=f"ray.address={config.address}",
            why=str(error).strip().splitlines()[0],
            fix="start it with `ray start --head`, submit the run as a job, or set ray.address=local",
        ) from error
    quiet_libraries()
    logger.info("joined the Ray cluster at %s: %s", config.address, describe_resources())


def has_token() -> bool:
    """Whether a Ray authentication token is at hand: in the environment or in its default file."""
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(named) or os.path.exists(os.path.expanduser("~/.ray/auth_token"))


def _probe(address: str) -> None:
    """Knock at a cluster's door first: Ray itself retries a dead address for ever."""
    if address == "auto":
        return
    parts = urlsplit(address if "//" in address else f"//{address}")
    try:
        socket.create_connection((parts.hostname or "", parts.port or 6379), PROBE_TIMEOUT_S).close()
    except OSError as error:
        raise SetupError(
            "nothing answers at the Ray cluster's address",
            where=f"ray.address={address}",
            why=str(error),
            fix="check host and port, and that the cluster runs",
        ) from error


def cluster_resources() -> dict[str, float]:
    """What the cluster has in all: ``CPU``, ``GPU`` and the rest."""
    import ray

    return dict(ray.cluster_resources())


def num_nodes() -> int:
    """Number of live nodes."""
    import ray

    return sum(1 for node in ray.nodes() if node["Alive"])


def describe_resources() -> str:
    """One line: nodes, CPUs, GPUs."""
    found = cluster_resources()
    gpus = f", {found['GPU']:.0f} GPUs" if found.get("GPU") else ""
    nodes = num_nodes()
    return f"{nodes} node{'s' if nodes != 1 else ''}, {found.get('CPU', 0):.0f} CPUs{gpus}"


def require(need: dict[str, float], *, what: str, fix: str) -> None:
    """Refuse work that the cluster can never start; Ray would wait for ever.

    Args:
        need: Resources that must exist in all, such as ``{"CPU": 4}``.
        what: What needs them.
        fix: The settings to change.

    Raises:
        SetupError: Naming what lacks.
    """
    have = cluster_resources()
    lacking = [
        f"{amount:g} {name} (there are {have.get(name, 0):g})"
        for name, amount in need.items()
        if amount > have.get(name, 0)
    ]
    if lacking:
        raise SetupError(f"{what} needs more than the cluster has", why="it needs " + ", ".join(lacking), fix=fix)


def shutdown() -> None:
    """Stop what ``ensure_ray`` started."""
    import ray

    if ray.is_initialized():
        ray.shutdown()


@contextlib.contextmanager
def stopping_ray() -> Iterator[None]:
    """Stop Ray when the work is over, unless it is gone: stopping would wait for it, until Ray ended this process."""
    try:
        yield
    except ClusterLost:
        import ray

        atexit.unregister(ray.shutdown)
        raise
    except BaseException:
        shutdown()
        raise
    shutdown()
