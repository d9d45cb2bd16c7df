"""Sweeps: settings checked before Ray, trials scheduled by it, results kept."""

import json
import random
from pathlib import Path

import pytest
import yaml
from packing_fixture import pack_splits
from simulated_sweep import trial

from rayllm.core.artifact import Artifact
from rayllm.core.errors import ConfigError, DataError, RunFailed, SetupError
from rayllm.core.stage import Task, run_task
from rayllm.pipelines import tune
from rayllm.pipelines.run_config import load_run
from rayllm.pipelines.train import run_single
from rayllm.pipelines.tune.plan import Plan, make_plan
from rayllm.pipelines.tune.trial_runs import Sweep, TrialRun

WORDS = {
    "english": ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "two", "dogs"],
    "maths": ["1", "2", "3", "+", "-", "=", "12", "7"],
}
DOMAINS = list(WORDS)


def texts_of(domain: str, seed: int) -> list[str]:
    rng = random.Random(f"{domain} {seed}")
    return [" ".join(rng.choices(WORDS[domain], k=40)) for _ in range(60)]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Two small domains, tokenised, as pack would publish them."""
    splits = {
        split: {domain: texts_of(domain, seed) for domain in DOMAINS}
        for seed, split in enumerate(("train", "validation"))
    }
    return pack_splits(tmp_path_factory.mktemp("packed"), splits, 300)


def make_config(tmp_path: Path, **sweep) -> tune.Config:
    """A run file with a tiny model and a sweep."""
    tree = {
        "name": "small",
        "storage": str(tmp_path / "runs"),
        "sources": {name: [{"kind": "jsonl", "path": f"{name}.jsonl"}] for name in DOMAINS},
        "model": {"dim": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "ffn_dim": 32, "max_seq_len": 64},
        "train": {"seq_len": 32, "global_batch_tokens": 128, "max_steps": 40, "precision": "fp32"},
        "tune": {
            "space": {"mixture.weights": {"kind": "simplex", "floor": 0.1}},
            "budget": {"trials": 3},
            "significance": {"leaders": 0},
            **sweep,
        },
    }
    return tune.Config.model_validate(tree)


def plan(config: tune.Config) -> Plan:
    assert config.tune
    return make_plan(tune.base_config(config), config.tune, {"english": 0.75, "maths": 0.25}, DOMAINS)


def trials(config: tune.Config, count: int) -> list[TrialRun]:
    """The first trials, as far as they do not depend on results."""
    made = plan(config)
    sampler = made.sampler()
    sweep = Sweep(made.base, made.settings, "packed", config.ray, "sweep", made.objective.at)
    return [sweep.plan(index, settings) for index in range(count) if (settings := sampler.ask()) is not None]


def run_sweep(config: tune.Config, packed: Artifact, root: Path) -> Artifact:
    task = Task("tune", tune.run, config, {"pack": packed}, in_place=True)
    return run_task(task, str(root))[0]


def fake_training(monkeypatch, body):
    """Train by a function of (config, directory) instead; it is sent to the workers by value."""
    from rayllm.pipelines.tune import execute

    def train(job, needs, gate, asked):
        metrics = body(job.config, job.directory)
        gate.write({"kind": "train", "step": 1, "total_steps": 1})
        gate.write({"kind": "validation", "step": 1, "tokens": 1, "attempt": 1, "time": 0.0, **metrics})
        return True

    monkeypatch.setattr(execute, "train_trial", train)


def test_baselines_come_first_and_samples_are_drawn_over_the_domains(tmp_path):
    runs = trials(make_config(tmp_path, baselines=[{}, "uniform"], max_steps=7, budget={"trials": 4}), 4)
    assert [run.trial.name for run in runs] == ["trial-000", "trial-001", "trial-002", "trial-003"]
    assert [run.config.mixture.weights for run in runs[:2]] == ["natural", "uniform"]
    assert list(runs[2].config.mixture.weights) == DOMAINS
    assert {run.config.train.max_steps for run in runs} == {7}
    assert len({run.key for run in runs}) == len({run.directory for run in runs}) == 4


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        ({"space": {"train.optimizr.lr": {"kind": "uniform", "low": 0, "high": 1}}}, "train.optimizr.lr"),
        ({"space": {"train.sec_len": {"kind": "choice", "values": [8]}}}, "Did you mean `train.seq_len`"),
        ({"space": {"storage": {"kind": "choice", "values": ["x"]}}}, "`storage` is not a setting of a trial"),
        ({"space": {"train.workers.count": {"kind": "choice", "values": [2]}}}, "not a setting of a trial"),
        ({"baselines": [{"mixture.weight": "uniform"}]}, "Did you mean `mixture.weights`"),
        (
            {"space": {"train.seq_len": {"kind": "grid", "values": [16, 24]}}},
            r"trial-002 \(train.seq_len=24",
        ),
        ({"space": {"seed": {"kind": "grid", "values": [1, 2, 3]}}}, "set it to 4"),
        ({"objective": "bits_per_byte/code"}, "use one of mean_bits_per_byte, mean_loss"),
    ],
)
def test_a_sweep_that_cannot_work_is_refused_before_anything_runs(tmp_path, sweep, words):
    with pytest.raises(ConfigError, match=words):
        plan(make_config(tmp_path, **sweep))


def test_weights_that_no_stage_reads_are_not_varied(tmp_path):
    config = make_config(tmp_path)
    stages = [{"frac": 1.0, "weights": "uniform"}]
    with pytest.raises(ConfigError, match="no stage of the curriculum uses"):
        plan(tune.Config.model_validate({**config.model_dump(), "curriculum": stages}))


def test_a_run_file_without_a_sweep_is_told_what_to_add(tmp_path, packed):
    config = make_config(tmp_path).model_copy(update={"tune": None})
    with pytest.raises(ConfigError, match="no section `tune:`"):
        run_sweep(config, packed, tmp_path)


def test_what_trials_do_not_read_leaves_the_hash_of_a_sweep(tmp_path):
    config = make_config(tmp_path)
    other = config.model_copy(update={"name": "other", "tune": config.tune.model_copy(update={"cpus_per_trial": 2})})
    assert other.identity() == config.identity()
    assert make_config(tmp_path, budget={"trials": 4}).identity() == config.identity(), "a raised budget goes on"
    assert make_config(tmp_path, max_steps=4).identity() != config.identity()


def test_a_trial_killed_after_its_last_checkpoint_still_gives_its_final_metrics(tmp_path, packed):
    config = trials(make_config(tmp_path, max_steps=3), 1)[0].config
    straight = run_single(config, packed, str(tmp_path / "trial"))
    assert run_single(config, packed, str(tmp_path / "trial")) == straight


@pytest.mark.ray
def test_a_sweep_trains_ranks_and_writes_a_run_file_of_the_best(tmp_path, packed, ray_session):
    artifact = run_sweep(make_config(tmp_path, max_steps=4), packed, tmp_path / "sweeps")
    table = json.loads(Path(artifact.file("table.json")).read_text())
    scores = [row["metrics"]["mean_bits_per_byte"] for row in table["trials"]]
    assert len(scores) == 3
    assert scores == sorted(scores)
    assert "bits_per_byte/maths" in table["trials"][0]["metrics"]
    assert artifact.counts["best"] == table["best"] == table["trials"][0]["trial"]
    assert Path(artifact.file("table.md")).read_text().split("\n\n")[-1].count("\n") == 5
    assert artifact.counts["verdict"] in Path(artifact.file("sweep.html")).read_text()
    assert not list(Path(artifact.uri).glob("trials/*/checkpoints/*"))
    best = yaml.safe_load(Path(artifact.file("best.yaml")).read_text())
    again = tune.Config.model_validate(best)
    assert (again.name, again.tune, again.train.max_steps) == ("small-best", None, 40)
    assert again.sources == make_config(tmp_path).sources
    settings = table["trials"][0]["settings"]
    assert again.mixture.weights == settings["mixture.weights"]
    assert load_run(artifact.file("best.yaml"), []).mixture == again.mixture


@pytest.mark.fault("P14", "a trial of a sweep fails", "the others are never run again")
@pytest.mark.ray
def test_a_failed_trial_is_reported_and_only_it_runs_again(tmp_path, packed, ray_session, monkeypatch):
    log = tmp_path / "log"
    space = {"train.optimizer.lr": {"kind": "grid", "values": [0.001, 0.002, 0.003, 0.004]}}
    config = make_config(tmp_path, space=space, baselines=[], budget={"trials": 4})

    def train(config, directory):
        lr = config.train.optimizer.lr
        with log.open("a") as file:
            file.write(f"{lr}\n")
        if lr == 0.002 and log.read_text().count("0.002") == 1:
            raise DataError("a shard is gone", where="s3://data")
        if lr == 0.004:
            raise ValueError("nothing works")
        return {"mean_bits_per_byte": float("nan") if lr == 0.003 else lr}

    fake_training(monkeypatch, train)
    artifact = run_sweep(config, packed, tmp_path / "sweeps")
    rows = json.loads(Path(artifact.file("table.json")).read_text())["trials"]
    assert [row["trial"] for row in rows] == [0, 1, 2, 3]
    assert rows[1]["error"] == "a shard is gone\n  where: s3://data"
    assert rows[2]["error"] == "its last validation gave no finite mean_bits_per_byte"
    assert rows[3]["error"] == "ValueError: nothing works"
    assert artifact.counts["failed"] == 3
    assert "DataError" in next(Path(artifact.uri).glob("trials/trial-001-*/error.txt")).read_text()

    Path(artifact.file("manifest.json")).unlink()  # as if it had been killed before the end
    again = run_sweep(config, packed, tmp_path / "sweeps")
    assert again.counts["failed"] == 2
    assert sorted(log.read_text().split()) == ["0.001", "0.002", "0.002", "0.003", "0.003", "0.004", "0.004"]


def test_the_leaders_are_trained_again_with_fresh_seeds_before_one_is_named(tmp_path, packed, monkeypatch):
    from rayllm.pipelines.tune import execute

    space = {"train.optimizer.lr": {"kind": "grid", "values": [0.0005, 0.002]}}
    config = make_config(tmp_path, space=space, significance={"leaders": 1, "seeds": 2})

    def train(sampler, sweep, ledger):
        while (settings := sampler.ask()) is not None:
            run = sweep.plan(len(ledger.results), settings)
            value = run.config.train.optimizer.lr + run.config.seed % 7 * 1e-6
            ledger.append(trial(run.trial.index, settings, value, seed=run.config.seed, key=run.key))
            sampler.tell(ledger.results[-1])
        return ledger.results

    monkeypatch.setattr(execute, "run_trials", train)
    artifact = run_sweep(config, packed, tmp_path / "sweeps")
    table = json.loads(Path(artifact.file("table.json")).read_text())
    again = [row for row in table["trials"] if row["settings"].get("seed") is not None]
    assert len(table["trials"]) == 6
    assert len(again) == 3  # the leader twice, the baseline once
    assert (table["verdict"]["kind"], artifact.counts["settings"]) == ("winner", {"train.optimizer.lr": 0.0005})
    assert artifact.counts["verdict"] in Path(artifact.file("sweep.html")).read_text()
    assert artifact.counts["verdict"] in Path(artifact.file("table.md")).read_text()
    best = yaml.safe_load(Path(artifact.file("best.yaml")).read_text())
    assert (best["train"]["optimizer"]["lr"], best["seed"]) == (0.0005, config.seed)


def test_a_sweep_fails_when_all_trials_do(tmp_path, packed, monkeypatch):
    from rayllm.pipelines.tune import execute

    def train(sampler, sweep, ledger):
        while (settings := sampler.ask()) is not None:
            run = sweep.plan(len(ledger.results), settings)
            failed = {"status": "failed", "error": "ValueError: nothing works", "metrics": {}}
            ledger.append(trial(run.trial.index, settings, 0.0, key=run.key).model_copy(update=failed))
            sampler.tell(ledger.results[-1])
        return ledger.results

    monkeypatch.setattr(execute, "run_trials", train)
    space = {"train.optimizer.lr": {"kind": "grid", "values": [0.001, 0.002]}}
    with pytest.raises(RunFailed, match="trial 0: ValueError: nothing works"):
        run_sweep(make_config(tmp_path, space=space, baselines=[]), packed, tmp_path / "sweeps")


@pytest.mark.ray
def test_a_trial_larger_than_every_node_is_refused_at_once(tmp_path, packed, ray_session):
    with pytest.raises(SetupError, match=r"lower tune\.cpus_per_trial"):
        run_sweep(make_config(tmp_path, cpus_per_trial=64), packed, tmp_path / "sweeps")


@pytest.mark.slow
@pytest.mark.ray
def test_a_search_that_learns_lowers_the_excess_over_its_reference(tmp_path, packed, ray_session):
    config = make_config(
        tmp_path,
        sampler={"kind": "tpe", "startup": 2},
        baselines=["uniform"],
        objective="max(excess)",
        budget={"trials": 5},
        max_steps=4,
    )
    artifact = run_sweep(config, packed, tmp_path / "sweeps")
    rows = json.loads(Path(artifact.file("table.json")).read_text())["trials"]
    values = {row["trial"]: row["value"] for row in rows}
    assert rows[0]["value"] == min(values.values())
    assert len(values) == 5
    [reference] = [row for row in rows if row["settings"]["mixture.weights"] == "natural"]
    assert (reference["trial"], reference["value"]) == (0, 0.0)  # the first, and no worse than itself
    [other] = [row for row in rows if row["settings"]["mixture.weights"] == "uniform"]
    worst = max(
        other["metrics"][name] - reference["metrics"][name] for name in other["metrics"] if "bits_per_byte/" in name
    )
    assert other["value"] == pytest.approx(worst)
