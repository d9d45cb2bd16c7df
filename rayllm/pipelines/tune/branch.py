"""A sweep whose trials all go on from one checkpoint: what is shared is trained once, and a trial costs its own steps.

In: ``tune.from``. Out: the run file with ``train.fork`` at that very checkpoint, so that every trial, and the best run
file, is a fork of it; and what a trial costs beside a whole run.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rayllm.core import storage
from rayllm.core.errors import ConfigError
from rayllm.pipelines import train
from rayllm.tune.config import TuneConfig
from rayllm.tune.results import TrialResult
from rayllm.tune.trials import apply_settings

RunFile = TypeVar("RunFile", bound=train.Config)


@dataclass(frozen=True)
class Branching:
    """What the trials of a sweep share.

    Attributes:
        checkpoint: URI of where they begin.
        step: Steps of it.
    """

    checkpoint: str
    step: int

    def shares(self, results: Sequence[TrialResult]) -> dict[int, float]:
        """By trial, what it cost as a share of the steps of a whole run up to its end."""
        last = {result.trial: result.curve[-1].step for result in results if result.curve}
        return {trial: (step - self.step) / step for trial, step in last.items() if step}

    def to_json(self, shares: Mapping[int, float]) -> dict[str, Any]:
        """For ``table.json``."""
        share_of_a_run = {str(trial): round(share, 4) for trial, share in shares.items()}
        return {"checkpoint": self.checkpoint, "step": self.step, "share_of_a_run": share_of_a_run}

    def describe(self, total_steps: int | None) -> str:
        """One line for the console; the cost where the steps of a trial are known before its data."""
        line = f"trials go on from step {self.step:,} of {self.checkpoint}"
        if total_steps is None:
            return line
        own = total_steps - self.step
        return f"{line}: {own:,} of {total_steps:,} steps each, {own / total_steps:.0%} of a whole run"


def branched(config: RunFile, settings: TuneConfig) -> RunFile:
    """A run file whose trials fork the checkpoint that ``tune.from`` names now; as it is, where none is named.

    Raises:
        ConfigError: If there is none, or the run may not fork it, or ``train.fork`` names another one.
    """
    if settings.from_ is None:
        return config
    if config.train.fork is not None:
        raise ConfigError(
            "the sweep names two checkpoints to go on from",
            where="tune.from, train.fork",
            fix="remove one of them: all trials go on from either",
        )
    from rayllm.pipelines.train.fork_source import find_fork

    where = storage.absolute(find_fork(settings.from_).uri)
    step = 0 if settings.from_.step == 0 else "last"
    return apply_settings(config, {"train.fork": {"source": where, "step": step}})


def trained_before(config: train.Config, space: Collection[str], results: Sequence[TrialResult]) -> int | None:
    """The step at which all trials begin from a trained model; None where they begin untrained, or not alike.

    Args:
        config: What a trial without settings trains.
        space: Paths of the settings that trials differ in.
        results: The trials; None too where none of them was validated at that step, as forks may not be.
    """
    begun = branching(config)
    step = begun.step if begun else 0
    trained = step > 0 or (config.train.init is not None and "train.init" not in space)
    return step if trained and any(one.curve and one.curve[0].step == step for one in results) else None


def branching(config: train.Config) -> Branching | None:
    """Where the trials of a run file begin, if they are forks."""
    if config.train.fork is None:
        return None
    from rayllm.pipelines.train.fork_source import find_fork

    found = find_fork(config.train.fork)
    return Branching(found.uri, 0 if config.train.fork.step == 0 else found.step)
