"""What a training is told, and where its starts are counted: all that the driver and Ray's controller know of it.

No torch here: importing it costs a process more than a second, and only the workers compute.
"""

import json
from dataclasses import dataclass

from rayllm.core import storage
from rayllm.core.checkpoint import DIRECTORY
from rayllm.core.errors import ArtifactDamaged
from rayllm.pipelines.train import Config

STOP_FILE = "stop-requested"
ATTEMPT = "attempt.json"


@dataclass(frozen=True)
class Job:
    """What a worker is told: the config, the packed data, and the directory of the train artifact.

    ``news`` is why this start was made, as (level, message), for the record; ``reference_uri`` is the artifact of the
    stage ``reference``, where the objective compares replies; ``judged_at`` are steps at whose validations the workers
    wait for the driver's word.
    """

    config: Config
    packed_uri: str
    directory: str
    news: tuple[tuple[str, str], ...] = ()
    reference_uri: str = ""
    judged_at: tuple[int, ...] = ()

    @property
    def checkpoints(self) -> str:
        """URI of the directory of checkpoints."""
        return storage.join(self.directory, DIRECTORY)


def with_absolute_paths(config: Config) -> Config:
    """The config with what training reads of other runs named absolutely: Ray's workers have another working directory.

    Args:
        config: As in the run file, whose paths are relative to where the command was given.
    """
    train, mixture = config.train, config.mixture
    if train.init is not None:
        train = train.model_copy(update={"init": absolute_init(train.init)})
    if train.fork is not None:
        fork = train.fork.model_copy(update={"source": storage.absolute(train.fork.source)})
        train = train.model_copy(update={"fork": fork})
    if mixture.adaptive is not None and isinstance(mixture.adaptive.reference, str):
        reference = storage.absolute(mixture.adaptive.reference)
        adaptive = mixture.adaptive.model_copy(update={"reference": reference})
        mixture = mixture.model_copy(update={"adaptive": adaptive})
    return config.model_copy(update={"train": train, "mixture": mixture})


def absolute_init(init: str) -> str:
    """``train.init`` with its path made absolute."""
    kind, _, uri = init.partition(":")
    return f"{kind}:{storage.absolute(uri)}"


def read_attempt(directory: str) -> int:
    """The latest start of a run; 0 before the first.

    Raises:
        ArtifactDamaged: If the file that counts them is damaged.
    """
    where = storage.join(directory, ATTEMPT)
    if not storage.exists(where):
        return 0
    text = storage.read_bytes(where)
    try:
        return int(json.loads(text)["attempt"])
    except (ValueError, TypeError, KeyError) as error:
        raise ArtifactDamaged(
            "the file that counts the starts of this run is damaged",
            where=where,
            why=f"it holds {text[:80]!r}",
            fix='write {"attempt": N} into it, N being the highest number after `-a` in the names of the checkpoints',
        ) from error


def write_attempt(directory: str, attempt: int) -> None:
    """Note that a start of a run is the latest."""
    storage.write_text(storage.join(directory, ATTEMPT), json.dumps({"attempt": attempt}))
