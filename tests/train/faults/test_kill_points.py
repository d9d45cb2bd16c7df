"""A rank killed by signal 9 at any moment: new processes make of what is left the files of the unbroken run.

The engines and optimisers are crossed at one point of a step, by default each engine with one optimiser and ZeRO 3
with both, the others slow; the points are crossed with nothing, since a save knows nothing of stages.
"""

import time
from pathlib import Path

import pytest
from fault_table import RECOVERY
from ranks import run_ranks, small_config, train_small
from recovery import first_step_s

from rayllm.core.artifact import sha256_file
from rayllm.core.checkpoint import list_checkpoints, newest_valid
from rayllm.optim.config import MuonConfig
from rayllm.train.config import CheckpointConfig, TrainConfig

ENGINES = [("torch", 0), *(("deepspeed", stage) for stage in range(4))]
#: The pairs of engine and optimiser of the default run.
CROSSED = {
    (("torch", 0), "muon"),
    (("deepspeed", 0), "adamw"),
    (("deepspeed", 1), "muon"),
    (("deepspeed", 2), "adamw"),
    (("deepspeed", 3), "adamw"),
    (("deepspeed", 3), "muon"),
}
EVERY = 2
#: Where ranks are killed, and the last step that was saved, or is being saved, before.
POINTS = {
    "step:3": 2,
    "rank1:5": 4,
    "save.write:4": 2,
    "save.staged:4": 2,
    "publish.file:0": 0,
    "save.moved:4": 2,
    "publish.commit:4": 2,
    "report.before:4": 4,
    "report.after:4": 4,
    "prune.uncommitted": 6,
}


def config_of(optimizer: str, **changes: object) -> TrainConfig:
    chosen = {"optimizer": MuonConfig(lr=3e-3, momentum_warmup_steps=4)} if optimizer == "muon" else {}
    return small_config(**(chosen | changes))


def digests(directory: Path) -> dict[str, str]:
    """SHA-256 of every file of the last checkpoint: weights, moments, generators, losses, position, and the commit."""
    uri = Path(list_checkpoints(str(directory / "checkpoints"))[-1].uri)
    files = [path for path in uri.rglob("*") if path.is_file()]
    return {str(path.relative_to(uri)): sha256_file(str(path)) for path in files}


def kill_and_resume(directory: Path, engine: tuple[str, int], config: TrainConfig, point: str) -> tuple[int, float]:
    """Train until the point kills a rank, then again in new processes.

    Returns:
        The step from which the second start went on, and the seconds from the kill to its first step.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYLLM_ALLOW_FAULTS", "1")
        patch.setenv("RAYLLM_FAULT", f"{point}=kill")
        with pytest.raises(AssertionError):  # of the rank that died, or of the one that lost it
            run_ranks(train_small, 2, str(directory), *engine, config)
    killed = time.time()
    result = run_ranks(train_small, 2, str(directory), *engine, config)[0]
    assert result["finished"]
    name = Path(result["resumed"]).name
    return int(name.split("-")[1]) if name else 0, first_step_s(result["records"], since=killed)


@pytest.mark.fault(
    "P1", "a rank killed in a step, the rest in new processes", "the files of the unbroken run, bit for bit"
)
@pytest.mark.parametrize(
    ("engine", "optimizer"),
    [
        pytest.param(
            engine,
            optimizer,
            id=f"{engine[0]}{engine[1]}-{optimizer}",
            marks=() if (engine, optimizer) in CROSSED else pytest.mark.slow,
        )
        for engine in ENGINES
        for optimizer in ("adamw", "muon")
    ],
)
def test_a_resumed_run_ends_in_the_bits_of_an_unbroken_one(
    engine: tuple[str, int], optimizer: str, tmp_path: Path, record_property
) -> None:
    config = config_of(optimizer, checkpoint=CheckpointConfig(every_steps=3, asynchronous=False))
    run_ranks(train_small, 2, str(tmp_path / "straight"), *engine, config)
    resumed, seconds = kill_and_resume(tmp_path / "killed", engine, config, "rank1:5")
    record_property(RECOVERY, seconds)
    assert resumed == 3
    assert digests(tmp_path / "killed") == digests(tmp_path / "straight")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("straight")
    run_ranks(train_small, 2, str(directory), "torch", 0, saving_often())
    return digests(directory)


def saving_often() -> TrainConfig:
    return small_config(max_steps=8, checkpoint=CheckpointConfig(every_steps=EVERY, best=None))


@pytest.mark.fault("P3", "ranks killed in a step or a save, at each point", "at most the steps of one save done again")
@pytest.mark.parametrize(("point", "goes_on_from"), POINTS.items())
def test_a_kill_at_any_point_costs_one_save_at_most(
    point: str, goes_on_from: int, straight: dict[str, str], tmp_path: Path, record_property
) -> None:
    resumed, seconds = kill_and_resume(tmp_path, ("torch", 0), saving_often(), point)
    record_property(RECOVERY, seconds)
    assert goes_on_from - EVERY <= resumed <= goes_on_from  # a save may still have been at work
    assert digests(tmp_path) == straight
    assert newest_valid(str(tmp_path / "checkpoints"))[1] == []
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.startswith("step-"))
    assert left == ["step-00000006-a1", "step-00000008-a1"]
