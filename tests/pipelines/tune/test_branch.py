"""Sweeps whose trials go on from one checkpoint: each is a fork, and one without settings is the run it came from."""

from pathlib import Path
from typing import Any

import pytest
from made_results import result
from parent_run import PARENT, weights
from ranks import run_ranks
from small_session import forked_run, make_config, records

from rayllm.core.artifact import Artifact
from rayllm.core.errors import ConfigError
from rayllm.pipelines import train
from rayllm.pipelines.frame import RayConfig
from rayllm.pipelines.tune.branch import Branching, branched, branching, trained_before
from rayllm.pipelines.tune.trial_runs import Sweep
from rayllm.tune.config import TuneConfig
from rayllm.tune.objective import Objective
from rayllm.tune.results import Point, TrialResult
from rayllm.tune.tables import to_markdown


def settings(**values: Any) -> TuneConfig:
    return TuneConfig.model_validate({"space": {"seed": {"kind": "choice", "values": [1]}}} | values)


def from_stable(parent: Path) -> TuneConfig:
    return settings(**{"from": {"source": str(parent), "step": "stable"}})


def test_a_trial_without_settings_matches_the_run_that_it_forks(
    parent: Path, parent_data: Artifact, tmp_path: Path
) -> None:
    config = branched(make_config(tmp_path, **PARENT), from_stable(parent))
    sweep = Sweep(config, from_stable(parent), parent_data.uri, RayConfig(), str(tmp_path), lambda *_: 0.0)
    same, other = sweep.plan(0, {}), sweep.plan(1, {"train.optimizer.lr": 1e-3})
    for run in (same, other):
        run_ranks(forked_run, 1, run.config, parent_data.uri, run.directory)
    assert list(records(same.directory, "train")) == [9, 10, 11, 12]
    assert weights(same.directory) == weights(parent)
    assert weights(other.directory) != weights(parent)


def test_all_trials_fork_the_checkpoint_that_was_named_at_the_start(parent: Path, tmp_path: Path) -> None:
    config = branched(make_config(tmp_path, **PARENT), from_stable(parent))
    assert config.train.fork is not None
    assert config.train.fork.source == str(parent / "checkpoints" / "step-00000008-a1")
    found = branching(config)
    assert found == Branching(config.train.fork.source, 8)
    assert found.describe(12).endswith("4 of 12 steps each, 33% of a whole run")
    assert train.fingerprint(config)["fork"]
    beginning = branched(make_config(tmp_path, **PARENT), settings(**{"from": {"source": str(parent), "step": 0}}))
    assert branching(beginning) == Branching(str(parent / "checkpoints" / "step-00000012-a1"), 0)
    assert [trained_before(config, [], [validated_at(step)]) for step in (8, 12)] == [8, None]
    assert trained_before(beginning, [], [validated_at(0)]) is None  # as it was before it had learnt anything


def test_trials_begin_from_a_trained_model_where_the_run_file_names_one_and_none_names_another(tmp_path: Path) -> None:
    config = make_config(tmp_path, **PARENT)
    assert trained_before(config, [], [validated_at(0)]) is None
    config = config.model_copy(update={"train": config.train.model_copy(update={"init": "from_checkpoint:base"})})
    assert trained_before(config, ["train.lora.rank"], [validated_at(0)]) == 0
    assert trained_before(config, ["train.lora.rank"], [validated_at(5)]) is None
    assert trained_before(config, ["train.init"], [validated_at(0)]) is None


def validated_at(*steps: int) -> TrialResult:
    return result(0, 1.0, curve=[Point(step=step, tokens=step, metrics={}) for step in steps])


def test_the_table_shows_what_each_trial_cost_of_a_run(parent: Path) -> None:
    results = [
        TrialResult(
            trial=trial,
            key=str(trial),
            settings={},
            group="",
            seed=0,
            status="finished",
            curve=[Point(step=step, tokens=1, metrics={})],
            metrics={"mean_loss": 1.0},
        )
        for trial, step in ((0, 12), (1, 10))
    ]
    found = Branching(str(parent), 8)
    assert found.shares(results) == {0: pytest.approx(1 / 3), 1: pytest.approx(0.2)}
    objective = Objective.parse("mean_loss", ["code"])
    lines = to_markdown(results, objective, found.shares(results)).splitlines()
    assert "of a run" in lines[0]
    assert [line.split("|")[-3].strip() for line in lines[2:]] == ["33%", "20%"]


def test_two_checkpoints_to_go_on_from_are_refused(parent: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names two checkpoints"):
        branched(make_config(tmp_path, **PARENT | {"fork": str(parent)}), from_stable(parent))


def test_the_setting_is_written_as_it_is_read() -> None:
    tune = settings(**{"from": "runs/trunk"})
    assert tune.model_dump(mode="json")["from"] == {"source": "runs/trunk", "step": "last"}
    assert TuneConfig.model_validate(tune.model_dump(mode="json")) == tune
