"""The driver's side of training: join Ray, size the workers, have them supervised, say what was made."""

from typing import Any

from rayllm.core import storage
from rayllm.core.checkpoint import list_checkpoints
from rayllm.core.stage import Work
from rayllm.pipelines import ray_runtime
from rayllm.pipelines.local_ray import Crowd
from rayllm.pipelines.nodes import live_nodes
from rayllm.pipelines.train import Config
from rayllm.pipelines.train.crew.sizing import Crew, size_crew
from rayllm.pipelines.train.crew.stopping import StopRequest
from rayllm.pipelines.train.job import STOP_FILE, Job, with_absolute_paths
from rayllm.train.console import open_display

#: A local Ray has a process ready for each worker, and for the controller, which holds no CPU; while they wait they
#: import what they need, beside the driver.
CROWD = Crowd(beyond_cpus=1, modules=("rayllm.pipelines.train.crew.lean_trainer",))


def run_with_ray(work: Work) -> dict[str, Any]:
    """Train with Ray Train.

    Raises:
        RunFailed: With the cause first.
        SavedForRerun: If the run was asked to stop and has saved.
        SetupError: If the cluster is too small, or was for too long.
    """
    config: Config = work.config
    ray_runtime.ensure_ray(config.ray, CROWD)
    # Ray Train takes a second to import: once Ray is started, so that its processes do so at the same time.
    from rayllm.pipelines.train.crew.fitting import remove_records
    from rayllm.pipelines.train.crew.supervisor import Supervisor

    crew = size_crew(config.train.workers, live_nodes())
    uris = {verb: storage.absolute(artifact.uri) for verb, artifact in work.inputs.items()}
    directory = storage.absolute(work.directory)
    job = Job(with_absolute_paths(config), uris["pack"], directory, reference_uri=uris.get("reference", ""))
    storage.make_dirs(job.checkpoints)
    display = open_display()
    try:
        with StopRequest(storage.join(job.directory, STOP_FILE)) as stop:
            crew = Supervisor(job, crew, display, stop).run()
            stop.clear()
    finally:
        display.close()
    remove_records(job.directory)
    return _counts(job, crew)


def _counts(job: Job, crew: Crew) -> dict[str, Any]:
    last = list_checkpoints(job.checkpoints)[-1]
    return {
        "steps": last.step,
        "attempts": last.attempt,
        "workers": crew.count,
        "last_checkpoint": last.uri.rpartition("/")[2],
    }
