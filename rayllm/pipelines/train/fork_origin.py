"""Where a fork began, as it notes itself: what it goes on by once the other run, or that checkpoint of it, is gone.

In: a run's config, and the notes (``fork.json``) that earlier starts of the run have left. Out: the checkpoint that the
run begins, or has begun, with.
"""

from pydantic import BaseModel, ConfigDict, ValidationError

from rayllm.core import storage
from rayllm.core.artifact import MANIFEST
from rayllm.core.checkpoint import DIRECTORY, CheckpointRef, list_checkpoints
from rayllm.core.errors import ArtifactDamaged, ConfigError
from rayllm.core.fork_config import ForkConfig
from rayllm.pipelines.train import Config
from rayllm.pipelines.train.fork_source import find_fork

#: The note, in a run's directory and in each of its checkpoints.
FORK = "fork.json"


class Origin(BaseModel):
    """Where a fork begins: the content of ``fork.json``.

    Attributes:
        run: Name of the other run.
        checkpoint: URI of its checkpoint.
        step: Steps that it has taken there.
        sha256: Hash of the checkpoint's commit, and so of all its files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    checkpoint: str
    step: int
    sha256: str

    def to_json(self) -> bytes:
        """The content of ``fork.json``."""
        return self.model_dump_json(indent=1).encode()

    def describe(self) -> str:
        """One line for the record."""
        return f"forked from {self.run} at step {self.step:,}: {self.checkpoint}"

    def answers(self, fork: ForkConfig) -> bool:
        """Whether this may be what a run file asks for."""
        source = storage.absolute(fork.source).rstrip("/")
        return f"{self.checkpoint}/".startswith(f"{source}/") and fork.step in (self.step, "last", "stable")


def read_origin(directory: str) -> Origin | None:
    """The note in a run's directory or checkpoint; None where there is none.

    Raises:
        ArtifactDamaged: If it cannot be read.
    """
    where = storage.join(directory, FORK)
    if not storage.exists(where):
        return None
    try:
        return Origin.model_validate_json(storage.read_bytes(where))
    except ValidationError as error:
        raise ArtifactDamaged(
            "the note of where a fork began cannot be read",
            where=where,
            why="; ".join(f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors()),
            fix="it may be from another version of rayllm; use that one, or fork anew under another `name`",
        ) from error


def find_or_recall(config: Config) -> CheckpointRef | Origin:
    """The checkpoint that a fork begins with or, where the other run has it no more, has begun with.

    Raises:
        ConfigError: If there is none, and no earlier start of this run has come to a checkpoint from one.
        ArtifactDamaged: If such a note cannot be read.
    """
    assert config.train.fork is not None
    try:
        return find_fork(config.train.fork)
    except ConfigError:
        noted = {origin.sha256: origin for origin in _begun(config).values() if origin.answers(config.train.fork)}
        if len(noted) != 1:  # with several nothing tells which of them is meant
            raise
        return noted.popitem()[1]


def newest_since(config: Config, origin: Origin) -> CheckpointRef | None:
    """The newest checkpoint of those that trainings of this run have made since they began there."""
    begun = [storage.join(uri, DIRECTORY) for uri, other in _begun(config).items() if other == origin]
    return max((ref for directory in begun for ref in list_checkpoints(directory)), default=None)


def _begun(config: Config) -> dict[str, Origin]:
    """Trainings of this run that need their beginning no more, being finished or at a checkpoint of their own."""
    home = storage.join(storage.absolute(config.storage), config.name)
    fs, path = storage.filesystem(home)
    entries = fs.ls(path, detail=False) if fs.isdir(path) else []
    names = sorted(str(entry).rstrip("/").rpartition("/")[2] for entry in entries)
    found = {}
    for uri in (storage.join(home, name) for name in names if name.startswith("train-")):
        origin = read_origin(uri)
        if origin and (storage.exists(storage.join(uri, MANIFEST)) or list_checkpoints(storage.join(uri, DIRECTORY))):
            found[uri] = origin
    return found
