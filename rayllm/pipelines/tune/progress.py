"""What goes between a sweep's driver and the processes of its trials."""

from collections.abc import Callable
from dataclasses import dataclass

from rayllm.pipelines import train
from rayllm.pipelines.train.job import Job
from rayllm.pipelines.tune.capacity import Needs
from rayllm.pipelines.tune.stepwise import Gate, Reached
from rayllm.tune.results import Point
from rayllm.tune.space import Settings

#: Trains a trial, with its records going through the gate, until it is done or all trials are asked to save and stop;
#: returns whether it is done.
TrainTrial = Callable[[Job, Needs, Gate, Callable[[], bool]], bool]


@dataclass(frozen=True)
class Surroundings:
    """What the trials of a sweep have in common, as each process is told once.

    Attributes:
        packed_uri: Token shards.
        trials: Where the trials write.
        stop_file: Asks all trials to save and end.
        needs: What a trial holds.
        train: Trains one.
        reference_uri: What the objective compares replies with, where it does.
    """

    packed_uri: str
    trials: str
    stop_file: str
    needs: Needs
    train: TrainTrial
    reference_uri: str = ""


@dataclass(frozen=True)
class Order:
    """What a process is told to train.

    Attributes:
        config: The run.
        settings: What made it differ from the run file.
        asked_s: When the trial was asked for, in seconds since 1970.
        directory: Where it goes on, if not in its own.
    """

    config: train.Config
    settings: Settings
    asked_s: float
    directory: str = ""


@dataclass(frozen=True)
class Progress:
    """What a trial reports.

    Attributes:
        reached: How far it came.
        earlier: Validations before a process that was lost, or a sweep that was interrupted.
        turn_s: When this process took it up, in seconds since 1970; a trial may be taken up several times.
        wall_s: Seconds since then.
        start_s: Seconds from its turn to its first step.
        reused: Whether the process had trained another before.
        parent: URI of the checkpoint that it goes on from, of another trial.
        settings: What it trains with.
        directory: Where it writes; another one each time that it goes on from another trial's checkpoint.
    """

    reached: Reached
    earlier: tuple[Point, ...]
    turn_s: float
    wall_s: float
    start_s: float
    reused: bool
    parent: str
    settings: Settings
    directory: str
