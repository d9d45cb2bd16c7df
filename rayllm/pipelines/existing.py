"""What a run has made so far: found by the same hashes that the stages go by, and nothing is made."""

from collections.abc import Mapping

from rayllm.core import storage
from rayllm.core.artifact import MANIFEST, Artifact, read_artifact
from rayllm.core.errors import SetupError
from rayllm.pipelines.run_config import RunConfig, has_stage
from rayllm.pipelines.runner import artifact_root, stage_task, verbs_for


def find_artifacts(config: RunConfig, verb: str, file: str) -> dict[str, Artifact]:
    """The finished artifacts of a stage and of all that it stands on.

    Args:
        config: The whole run.
        verb: The stage.
        file: Its run file, for the error.

    Raises:
        SetupError: If one of them is not there.
    """
    artifacts: dict[str, Artifact] = {}
    for name in (needed for needed in verbs_for(verb) if has_stage(needed, config)):
        uri = stage_task(config, name, artifacts).uri(artifact_root(config, name))
        if not storage.exists(storage.join(uri, MANIFEST)):
            raise SetupError(
                f"this run has no {name} artifact yet",
                where=uri,
                why="its settings or its sources differ from those of what is there, or the stage was never finished",
                fix=f"rayllm {verb} {file}",
            )
        artifacts[name] = read_artifact(uri)
    return artifacts


def train_directory(config: RunConfig, artifacts: Mapping[str, Artifact]) -> str:
    """Where the run trains, or will: the URI of its train artifact, finished or not.

    Args:
        config: The whole run.
        artifacts: Those that training stands on.
    """
    return stage_task(config, "train", artifacts).uri(artifact_root(config, "train"))
