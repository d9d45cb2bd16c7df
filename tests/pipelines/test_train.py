"""Training on a real Ray: it does what forked ranks do, survives a killed worker, and says its causes first."""

import contextlib
import json
import re
import time
from pathlib import Path

import psutil
import pytest
import torch
from fault_table import RECOVERY
from packing_fixture import make_packed
from ranks import run_ranks
from recovery import first_step_s
from small_session import all_records, forked_run, make_config, records

from rayllm.core.artifact import Artifact
from rayllm.core.checkpoint import list_checkpoints
from rayllm.core.errors import RunFailed, SavedForRerun
from rayllm.core.stage import Task, run_task
from rayllm.pipelines import train
from rayllm.pipelines.train.job import Job
from rayllm.pipelines.train.session import NullSink, Outlets, run_session, train_alone
from rayllm.train.config import EngineConfig


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_packed(tmp_path_factory.mktemp("packed"), count=120)


def run_train(config: train.Config, packed: Artifact, root: Path) -> Artifact:
    return run_task(Task("train", train.run, config, {"pack": packed}, in_place=True), str(root))[0]


def seconds_to_go_on(artifact: Artifact) -> float:
    """From the last step of the first start to the first step of the second."""
    steps = all_records(artifact.uri, "train")
    died = max(record["time"] for record in steps if record["attempt"] == 1)
    return first_step_s(steps, since=died, attempt=2)


def weights(directory: str) -> bytes:
    return Path(list_checkpoints(directory + "/checkpoints")[-1].uri, "model.safetensors").read_bytes()


@pytest.mark.fault("P3", "a worker of Ray Train killed", "started again from the last checkpoint; the same bits")
@pytest.mark.ray
def test_a_killed_worker_costs_no_bit(
    packed: Artifact, tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch, record_property
) -> None:
    config = make_config(tmp_path, checkpoint={"every_steps": 4, "asynchronous": False})
    straight = str(tmp_path / "straight")
    run_ranks(forked_run, 2, config, packed.uri, straight)
    monkeypatch.setenv("RAYLLM_ALLOW_FAULTS", "1")
    monkeypatch.setenv("RAYLLM_FAULT", "step:10@1=kill")
    artifact = run_train(config, packed, tmp_path / "ray")
    assert artifact.counts["attempts"] == 2
    record_property(RECOVERY, seconds_to_go_on(artifact))
    ours, theirs = records(artifact.uri, "train"), records(straight, "train")
    assert list(ours) == list(range(1, 13))
    assert {step: record["loss"] for step, record in ours.items()} == {s: r["loss"] for s, r in theirs.items()}
    assert weights(artifact.uri) == weights(straight)
    resumed = [event for event in all_records(artifact.uri, "event") if event["message"].startswith("resumed from")]
    assert [event["step"] for event in resumed] == [8]
    artifact.verify(deep=True)
    assert not _alive("TrainController", within_s=5), "the controller of a start that failed lives on"


def _alive(title: str, within_s: float) -> list[str]:
    """Processes that Ray has started and that are called so, still after some seconds."""
    until = time.monotonic() + within_s
    while True:
        found = []
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                found += [name for name in child.cmdline()[:1] if title in name]
        if not found or time.monotonic() > until:
            return found
        time.sleep(0.1)


@pytest.mark.fault("P13", "a rank hangs (limit 5 s)", "named with its stacks, ended, started again")
@pytest.mark.ray
def test_a_rank_that_hangs_is_named_and_the_run_goes_on_from_its_checkpoint(
    packed: Artifact, tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch, record_property
) -> None:
    config = make_config(tmp_path, max_steps=6, guards={"stall_timeout_s": 5})
    monkeypatch.setenv("RAYLLM_ALLOW_FAULTS", "1")
    monkeypatch.setenv("RAYLLM_FAULT", "rank1:6@1=hang")
    artifact = run_train(config, packed, tmp_path / "ray")
    assert artifact.counts["attempts"] == 2
    record_property(RECOVERY, seconds_to_go_on(artifact))
    events = [record["message"] for record in all_records(artifact.uri, "event")]
    named = [text for text in events if text.startswith("rank ")]
    assert re.match(r"rank 1 made no progress for \d+ s at step 6: forward and backward; its stacks: ", named[0])
    assert list(records(artifact.uri, "train")) == [1, 2, 3, 4, 5, 6]
    assert any(text.startswith("first batch: code") for text in events)


def test_early_stopping_ends_the_run_where_an_interrupted_one_ends_too(packed: Artifact, tmp_path: Path) -> None:
    watched = {"early_stopping": {"metric": "mean_loss", "patience": 2, "min_delta": 100.0}}
    config = make_config(tmp_path, guards=watched, validation={"every_steps": 2, "max_tokens": 512})
    straight, killed = str(tmp_path / "straight"), str(tmp_path / "killed")
    run_ranks(forked_run, 1, config, packed.uri, straight)
    assert list(records(straight, "train")) == [1, 2, 3, 4]  # the validation before the first step is the best
    assert [ref.step for ref in list_checkpoints(straight + "/checkpoints")] == [4]
    assert "was not below" in records(straight, "event")[4]["message"]
    run_ranks(_stopped_run, 1, config, packed.uri, killed, 1)
    run_ranks(forked_run, 1, config, packed.uri, killed)
    assert list(records(killed, "train")) == [1, 2, 3, 4]
    assert weights(killed) == weights(straight)


@pytest.mark.parametrize("engine", [{"kind": "torch"}, *({"zero_stage": stage} for stage in range(4))])
def test_a_spike_is_told_and_its_step_skipped_where_asked(
    packed: Artifact, tmp_path: Path, engine: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYLLM_ALLOW_FAULTS", "1")
    monkeypatch.setenv("RAYLLM_FAULT", "step:36=spike")
    for action in ("report", "skip") if engine == {"kind": "torch"} else ("skip",):  # only skipping is the engine's
        guards = {"spikes": {"action": action}, "audit": False, "slow_factor": 0}
        changes = {"global_batch_tokens": 256, "checkpoint": {"every_steps": 35}, "samples": {}, "guards": guards}
        config = make_config(tmp_path, max_steps=36, engine=engine, **changes)
        run_ranks(forked_run, 1, config, packed.uri, str(tmp_path / action))
        message = records(str(tmp_path / action), "event")[36]["message"]
        assert "standard deviations above the last 35" in message
        before, after = (
            Path(ref.uri, "model.safetensors").read_bytes()
            for ref in list_checkpoints(str(tmp_path / action / "checkpoints"))
        )
        assert (before == after) == (action == "skip") == message.endswith("the step was skipped")


@pytest.mark.fault("P10", "three losses in a row are not finite", "the run ends and says where")
@pytest.mark.ray
def test_an_error_of_the_run_is_told_and_not_tried_again(
    packed: Artifact, tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYLLM_ALLOW_FAULTS", "1")
    monkeypatch.setenv("RAYLLM_FAULT", "step:2=nan,step:3=nan,step:4=nan")
    with pytest.raises(RunFailed, match="not finite for 3 steps in a row"):
        run_train(make_config(tmp_path, workers={"count": 1}), packed, tmp_path / "ray")
    (directory,) = (tmp_path / "ray").glob("train-*")
    assert json.loads((directory / "attempt.json").read_text()) == {"attempt": 1}


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_validation_and_samples_do_not_depend_on_the_engine(packed: Artifact, tmp_path: Path, stage: int) -> None:
    engines = {"torch": {"kind": "torch"}, "zero": {"kind": "deepspeed", "zero_stage": stage}}
    for name, engine in engines.items():
        run_ranks(forked_run, 2, make_config(tmp_path, engine=engine), packed.uri, str(tmp_path / name))
    plain, zero = (records(str(tmp_path / name), "validation") for name in engines)
    assert {step: record["mean_bits_per_byte"] for step, record in zero.items()} == pytest.approx(
        {step: record["mean_bits_per_byte"] for step, record in plain.items()}, rel=1e-5
    )
    plain, zero = (records(str(tmp_path / name), "sample") for name in engines)
    assert {step: record["text"] for step, record in zero.items()} == {s: r["text"] for s, r in plain.items()} != {}


def test_a_trial_trains_alone_and_returns_its_scores(packed: Artifact, tmp_path: Path) -> None:
    scores = train_alone(make_config(tmp_path, max_steps=4), packed.uri, str(tmp_path / "trial"))
    assert set(scores) >= {"mean_bits_per_byte", "bits_per_byte/code", "bits_per_byte/math"}
    validations = records(str(tmp_path / "trial"), "validation")
    assert validations[4]["mean_bits_per_byte"] == scores["mean_bits_per_byte"]
    assert validations[4]["mean_bits_per_byte"] < validations[0]["mean_bits_per_byte"]


def test_a_stop_saves_and_the_next_start_goes_on(packed: Artifact, tmp_path: Path) -> None:
    config = make_config(tmp_path)
    straight, halves = str(tmp_path / "straight"), str(tmp_path / "halves")
    run_ranks(forked_run, 1, config, packed.uri, straight)
    finished = run_ranks(_stopped_run, 1, config, packed.uri, halves)
    assert finished == [False]
    assert [ref.step for ref in list_checkpoints(halves + "/checkpoints")][-1] == 6
    run_ranks(forked_run, 1, config, packed.uri, halves)
    assert weights(halves) == weights(straight)
    losses = {step: record["loss"] for step, record in records(halves, "train").items()}
    assert losses == {step: record["loss"] for step, record in records(straight, "train").items()}


def _stopped_run(config: train.Config, packed_uri: str, directory: str, after: int = 5) -> bool:
    job = Job(config, packed_uri, directory)
    looks = iter(range(100))
    outlets = Outlets(NullSink(), stop_requested=lambda: next(looks) >= after)
    return run_session(job, outlets, EngineConfig(), torch.device("cpu"))[0]


def test_what_a_killed_save_left_is_gone_after_the_next_start(
    packed: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path, max_steps=4, engine={"kind": "torch"}, samples={"max_new_tokens": 1})
    directory = str(tmp_path / "run")
    monkeypatch.setenv("RAYLLM_ALLOW_FAULTS", "1")
    monkeypatch.setenv("RAYLLM_FAULT", "publish.file:1=kill")
    with pytest.raises(AssertionError, match="died"):
        run_ranks(forked_run, 1, config, packed.uri, directory)
    checkpoints = Path(directory, "checkpoints")
    assert {path.name for path in checkpoints.iterdir()} == {".staging", "step-00000004-a1"}
    assert list_checkpoints(str(checkpoints)) == []
    monkeypatch.delenv("RAYLLM_FAULT")
    run_ranks(forked_run, 1, config, packed.uri, directory)
    assert {path.name for path in checkpoints.iterdir()} == {"best.json", "step-00000004-a2"}


@pytest.mark.fault("P3", "an older start of the run is still alive", "it publishes nothing more")
def test_a_survivor_of_an_older_start_publishes_nothing(packed: Artifact, tmp_path: Path) -> None:
    directory = tmp_path / "run"

    def taken_over() -> bool:
        (directory / "attempt.json").write_text('{"attempt": 2}')
        return False

    job = Job(make_config(tmp_path), packed.uri, str(directory))
    outlets = Outlets(NullSink(), stop_requested=taken_over)
    with pytest.raises(RunFailed, match="a newer start of this run has taken over"):
        run_session(job, outlets, EngineConfig(kind="torch"), torch.device("cpu"))
    assert list_checkpoints(job.checkpoints) == []


def test_samples_shrink_to_the_context(packed: Artifact, tmp_path: Path) -> None:
    samples = {"prompt_tokens": 100, "max_new_tokens": 500}
    train_alone(make_config(tmp_path, max_steps=1, samples=samples), packed.uri, str(tmp_path / "trial"))
    assert records(str(tmp_path / "trial"), "sample")[1]["text"]


def test_precision_is_chosen_once_and_frozen(packed: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rayllm.train import precision

    config = make_config(tmp_path, precision="auto")
    train_alone(config, packed.uri, str(tmp_path / "a"))
    state = Path(list_checkpoints(str(tmp_path / "a") + "/checkpoints")[-1].uri, "state.json")
    assert json.loads(state.read_text())["precision"] == "fp32"
    monkeypatch.setattr(precision, "CPU_BF16_MIN_DIM", 1)
    monkeypatch.setattr(precision, "multiplies_bf16", lambda: True)
    train_alone(config, packed.uri, str(tmp_path / "a"))
    assert json.loads(Path(tmp_path, "a", "environment.json").read_text())["precision"] == "fp32"
    train_alone(config, packed.uri, str(tmp_path / "b"))
    assert json.loads(Path(tmp_path, "b", "environment.json").read_text())["precision"] == "bf16"


def test_stopped_is_an_ending_of_its_own() -> None:
    assert SavedForRerun("x").exit_code == 75
