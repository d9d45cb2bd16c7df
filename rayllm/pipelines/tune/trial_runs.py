"""From a trial's settings to a run that can be trained, checked; and what all trials of a sweep have in common."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rayllm.core import storage
from rayllm.core.artifact import content_hash
from rayllm.pipelines import train
from rayllm.pipelines.frame import RayConfig
from rayllm.tune.config import TuneConfig
from rayllm.tune.results import group_of
from rayllm.tune.space import Settings
from rayllm.tune.trials import Trial, trial_configs

#: What a trial's last validation is worth, from its metrics and tokens; lowest is best, NaN where it cannot be said.
Judge = Callable[[Mapping[str, float], int], float]

#: Changes the settings of a good trial for one that goes on in its place, from these and the number of the change.
Explore = Callable[[Settings, int], Settings]


@dataclass(frozen=True)
class TrialRun:
    """A trial ready to train: its config, the hash of what shapes its result, and where it writes."""

    trial: Trial
    config: train.Config
    key: str
    directory: str

    @property
    def group(self) -> str:
        """What its replicates have in common."""
        return group_of(self.trial.settings)

    @property
    def id(self) -> str:
        """Its name and the beginning of its key: the name of its directory."""
        return f"{self.trial.name}-{self.key[:8]}"


@dataclass(frozen=True)
class Sweep:
    """What the trials of a sweep have in common.

    Attributes:
        config: What a trial without settings trains.
        settings: The ``tune:`` section.
        packed_uri: Token shards.
        ray: Where Ray runs.
        directory: Of the sweep; everything that it writes lies below.
        judge: See ``Judge``.
        explore: See ``Explore``; by default settings stay as they are.
        reference_uri: What the objective of the trials compares replies with, where it does.
    """

    config: train.Config
    settings: TuneConfig
    packed_uri: str
    ray: RayConfig
    directory: str
    judge: Judge
    explore: Explore = lambda settings, number: settings
    reference_uri: str = ""

    @property
    def trials(self) -> str:
        """Where the trials write."""
        return storage.join(self.directory, "trials")

    def plan(self, index: int, settings: Settings) -> TrialRun:
        """A trial with these settings.

        Raises:
            ConfigError: If they make no valid run.
        """
        trial = Trial(index, settings)
        return plan_trial(trial, trial_configs(self.config, [trial])[0], self.trials)


def plan_trial(trial: Trial, config: train.Config, directory: str) -> TrialRun:
    """A trial whose config is known; ``directory`` is where all trials write."""
    key = training_key(config)
    return TrialRun(trial, config, key, storage.join(directory, f"{trial.name}-{key[:8]}"))


def training_key(config: train.Config) -> str:
    """What a training is known by: equal for settings that differ but mean the same."""
    return content_hash({"config": config.identity(), "validation": config.train.validation.model_dump(mode="json")})
