"""Where the steps of a run begin: at the first one, or at the checkpoint of the run that it forks."""

from dataclasses import dataclass

from rayllm.core.errors import ConfigError
from rayllm.pipelines.run_config import RunConfig, stage_config
from rayllm.pipelines.train import Config
from rayllm.pipelines.train.fork_origin import Origin, find_or_recall, newest_since


@dataclass(frozen=True)
class Beginning:
    """What a run takes over from the one that it forks; a run that is no fork takes over nothing.

    Attributes:
        step: Steps that were taken there.
        precision: What the run is asked to compute in: a fork goes on in what its checkpoint was made in.
        notes: What could not be looked at.
    """

    step: int
    precision: str
    notes: tuple[str, ...] = ()


def find_beginning(config: RunConfig) -> Beginning:
    """Look at the checkpoint that a run forks; one that is named by its step may still be to come.

    Where it is gone, a run that has begun with it tells the rest.

    Raises:
        ConfigError: If there is none, and the step is not known without it.
        ArtifactDamaged: If what tells the rest cannot be read.
    """
    fork, asked = config.train.fork, config.train.precision
    if fork is None or fork.step == 0:
        return Beginning(0, asked)
    run = Config.model_validate(stage_config("train", config))
    try:
        found = find_or_recall(run)
    except ConfigError as error:
        if not isinstance(fork.step, int):
            raise
        return Beginning(fork.step, asked, (f"{error.what}: planned as if it were there",))
    from rayllm.train.checkpoint import read_state

    made = newest_since(run, found) if isinstance(found, Origin) else found
    if made is None:
        return Beginning(found.step, asked, ("the checkpoints of this fork are gone: its precision is not known",))
    return Beginning(found.step, read_state(made.uri).precision)
