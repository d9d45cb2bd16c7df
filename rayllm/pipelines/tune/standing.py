"""What a sweep remembers between its starts beside its ledger: its seconds, and how far trials came that did not end.

A trial's own checkpoints say where it goes on; what is here is what they cannot say: what it has cost, its validations,
and, in a population, whose checkpoint it took over, with which settings.
"""

from pydantic import BaseModel, ConfigDict

from rayllm.core import storage
from rayllm.core.fork_config import ForkConfig
from rayllm.pipelines import train
from rayllm.tune.results import Point
from rayllm.tune.space import Settings

#: Beside the ledger.
FILE = "clock.json"


class Stand(BaseModel):
    """Where a trial stands that has begun and not ended.

    Attributes:
        settings: What it trains with; a population changes them.
        wall_s: Seconds it has taken.
        starts_s: Those of them that went by before its first step, or the first after it was taken up again.
        curve: Its validations.
        directory: Where it writes since it took over another's checkpoint; empty before.
        parent: URI of that checkpoint.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: Settings
    wall_s: float = 0.0
    starts_s: float = 0.0
    curve: list[Point] = []
    directory: str = ""
    parent: str = ""


class Standing(BaseModel):
    """Where a sweep stands.

    Attributes:
        wall_s: Seconds that all its starts took.
        changes: How often a trial took over another's checkpoint.
        trials: By id, those that have begun and not ended.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    wall_s: float = 0.0
    changes: int = 0
    trials: dict[str, Stand] = {}

    @property
    def furthest(self) -> int:
        """The step that the furthest of the trials has reached."""
        return max((point.step for stand in self.trials.values() for point in stand.curve), default=0)


def read_standing(directory: str) -> Standing:
    """Where a sweep stood when it was last written down; at its beginning, if it never was."""
    uri = storage.join(directory, FILE)
    return Standing.model_validate_json(storage.read_text(uri)) if storage.exists(uri) else Standing()


def write_standing(directory: str, standing: Standing) -> None:
    """Write down where a sweep stands."""
    storage.write_text(storage.join(directory, FILE), standing.model_dump_json())


def forked(config: train.Config, parent: str) -> train.Config:
    """The same run as a fork of a checkpoint."""
    training = config.train.model_copy(update={"fork": ForkConfig(source=parent)})
    return config.model_copy(update={"train": training})
