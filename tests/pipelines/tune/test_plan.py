"""Sweeps planned: their baselines, reference and replicates, without training anything."""

from pathlib import Path

import pytest
from made_results import result

from rayllm.core.errors import ConfigError, RunFailed
from rayllm.pipelines import tune
from rayllm.pipelines.run_config import load_run, stage_config
from rayllm.pipelines.tune import execute
from rayllm.pipelines.tune.plan import Plan, make_plan
from rayllm.pipelines.tune.reference import curve_of
from rayllm.pipelines.tune.trial_runs import Sweep
from rayllm.report.metrics_log import MetricsLog
from rayllm.tune.results import Ledger, Point, group_of

CONFIGS = Path(__file__).resolve().parents[3] / "configs/sweep"
SHARES = {"english": 0.75, "code": 0.25}
WEIGHTS = {"mixture.weights": {"kind": "simplex"}}


def made(tree=None, **sweep) -> Plan:
    section = {"space": WEIGHTS, **sweep}
    whole = {
        "name": "small",
        "seed": 5,
        "sources": {name: [{"kind": "jsonl", "path": f"{name}.jsonl"}] for name in SHARES},
        "train": {"seq_len": 32, "global_batch_tokens": 128, "max_steps": 40},
    }
    config = tune.Config.model_validate({**whole, "tune": section, **(tree or {})})
    assert config.tune
    return make_plan(tune.base_config(config), config.tune, SHARES, list(SHARES))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_sweep_of_the_project_can_be_planned(path):
    config = stage_config("tune", load_run(str(path), []))
    shares = dict.fromkeys(config.sources, 1 / len(config.sources))
    plan = make_plan(tune.base_config(config), config.tune, shares, list(shares))
    assert plan.reference or plan.sampler().ask() is not None


def test_baselines_say_what_the_run_file_has_for_the_space():
    space = {**WEIGHTS, "train.optimizer.lr": {"kind": "uniform", "low": 0, "high": 1}}
    plan = made(space=space, baselines=[{}, "uniform", {"train.optimizer.lr": 0.5}])
    lr = plan.base.train.optimizer.lr
    assert plan.baselines == [
        {"mixture.weights": "natural", "train.optimizer.lr": lr},
        {"mixture.weights": "uniform", "train.optimizer.lr": lr},
        {"train.optimizer.lr": 0.5, "mixture.weights": "natural"},
    ]
    assert list(plan.names.values()) == ["the run file", "uniform", "baseline 2"]
    assert list(plan.names) == [group_of(one) for one in plan.baselines]


def test_baselines_that_mean_the_same_training_are_one_and_the_reference_with_them():
    space = {"train.optimizer.lr": {"kind": "uniform", "low": 0, "high": 1}}
    plan = made(space=space, baselines=[{}, "natural", {"seed": 7}, "uniform"], objective="max(excess)")
    lr = plan.base.train.optimizer.lr
    as_it_is = {"train.optimizer.lr": lr}
    assert plan.baselines == [as_it_is, {**as_it_is, "seed": 7}, {**as_it_is, "mixture.weights": "uniform"}]
    assert plan.names == {
        group_of(as_it_is): "the run file = natural = baseline 2",
        group_of(plan.baselines[2]): "uniform",
    }
    assert plan.reference == as_it_is


def test_a_sample_that_is_a_baseline_is_tried_once():
    plan = made(space={"train.max_steps": {"kind": "grid", "values": [20, 40]}})
    sampler = plan.sampler()
    assert [sampler.ask(), sampler.ask(), sampler.ask()] == [{"train.max_steps": 40}, {"train.max_steps": 20}, None]


def test_a_mixture_by_name_takes_the_place_of_all_weights():
    stages = [{"frac": 0.5, "weights": {"english": 1, "code": 3}}, {"frac": 0.5}]
    space = {"curriculum.0.weights": {"kind": "simplex"}}
    [natural] = made({"curriculum": stages}, space=space, baselines=["natural"]).baselines
    assert natural == {"mixture.weights": "natural", "curriculum.0.weights": "natural"}


def test_replicates_have_the_seeds_after_the_runs_own():
    sampler = made(replicates=3, baselines=["uniform"], budget={"trials": 9}).sampler()
    asked = [sampler.ask() for _ in range(6)]
    assert [one.get("seed") for one in asked] == [None, 6, 7, None, 6, 7]
    assert asked[0] == {"mixture.weights": "uniform"}
    assert asked[3]["mixture.weights"] == asked[5]["mixture.weights"] != "uniform"


def test_replicates_count_for_the_budget_of_a_grid():
    space = {"train.max_steps": {"kind": "grid", "values": [10, 20]}}
    with pytest.raises(ConfigError, match="set it to 9"):
        made(space=space, replicates=3)


@pytest.mark.parametrize(
    ("tree", "path"),
    [
        ({"mixture": {"adaptive": {"reference": "runs/x"}}}, "mixture.adaptive"),
        ({"train": {"max_steps": 40, "guards": {"early_stopping": {}}}}, "train.guards.early_stopping"),
    ],
)
def test_a_scheduler_is_refused_where_its_validations_would_change_the_trials(tree, path):
    with pytest.raises(ConfigError, match=path):
        made(tree, scheduler={"kind": "asha"})
    assert made(tree, scheduler={"kind": "none"})


@pytest.mark.parametrize("kind", ["pbt", "asha"])
def test_a_scheduler_is_refused_where_its_checkpoints_would_change_the_trials(kind):
    tree = {"train": {"max_steps": 40, "guards": {"spikes": {"action": "rollback"}}}}
    with pytest.raises(ConfigError, match="rollback` goes back to them"):
        made(tree, scheduler={"kind": kind})
    assert made(tree, scheduler={"kind": "median"})


TWO = {"kind": "choice", "values": [128, 256]}
PER_PARAM = {"train": {"seq_len": 32, "global_batch_tokens": 128, "tokens_per_param": 20}}


@pytest.mark.parametrize("kind", ["asha", "median", "pbt"])
@pytest.mark.parametrize(
    ("tree", "path"),
    [
        ({}, "train.global_batch_tokens"),
        ({}, "train.max_steps"),
        ({"curriculum": [{"frac": 1.0}]}, "curriculum.0.global_batch_tokens"),
        (PER_PARAM, "train.tokens_per_param"),
        (PER_PARAM, "model.dim"),
    ],
)
def test_a_scheduler_is_refused_where_it_would_compare_trials_at_unequal_tokens(tree, path, kind):
    sweep = {"space": {path: TWO}, "budget": {"trials": 4}}
    with pytest.raises(ConfigError, match=rf"varies `{path}`(.|\n)*unequal tokens"):
        made(tree, **sweep, scheduler={"kind": kind})
    assert made(tree, **sweep, scheduler={"kind": "none"})
    with pytest.raises(ConfigError, match="unequal tokens"):
        made(tree, baselines=[{path: 128}], budget={"trials": 4}, scheduler={"kind": kind})


def test_sizes_and_lengths_are_varied_under_a_scheduler_where_all_trials_read_as_much():
    sizes = {"model.dim": TWO, "train.seq_len": {"kind": "choice", "values": [16, 32]}}
    for tree, sweep in (({}, {}), (PER_PARAM, {"max_steps": 40})):
        assert made(tree, space=sizes, scheduler={"kind": "asha"}, budget={"trials": 4}, **sweep)


def test_a_population_without_end_is_refused():
    endless = {"scheduler": {"kind": "pbt"}, "budget": {"hours": 1}}
    with pytest.raises(ConfigError, match="grow without end"):
        made(**endless)
    assert made(**endless | {"budget": {"hours": 1, "trials": 4}})


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        ({"budget": {}}, "`budget` has no limit"),
        ({"sampler": {"kind": "grid"}}, "`mixture.weights` is simplex"),
        ({"sampler": {"kind": "tpe"}, "scheduler": {"kind": "pbt"}}, "its sampler cannot learn"),
        ({"space": {"seed": {"kind": "int", "low": 1, "high": 2}}, "replicates": 2}, "varies `seed`"),
        ({"space": {"seed": {"kind": "int", "low": 1, "high": 2, "when": {"x": [1]}}}}, "not in the space"),
    ],
)
def test_sections_that_cannot_be_searched_are_refused_by_the_schema(sweep, words):
    with pytest.raises(ValueError, match=words):
        made(**sweep)


def test_a_floor_of_an_unknown_domain_is_refused_before_anything_runs():
    with pytest.raises(ConfigError, match="did you mean code"):
        made(space={"mixture.weights": {"kind": "simplex", "floor": {"cod": 0.1}}})


def test_an_excess_trains_its_reference_first(tmp_path, monkeypatch):
    plan = made(objective="max(excess)", baselines=["uniform"])
    assert plan.reference == {"mixture.weights": "natural"}
    assert made(objective="mean_loss").reference is None
    sweep = Sweep(plan.base, plan.settings, "packed", plan.base.ray, str(tmp_path), plan.objective.at)
    curve = [Point(step=1, tokens=10, metrics={f"bits_per_byte/{name}": 1.5 for name in SHARES})]
    asked = []

    def run_trials(sampler, sweep, ledger):
        asked.append(sampler.ask())
        assert sweep.judge(curve[0].metrics, 10) == 0.0
        return [result(0, 1.0, settings=asked[-1], curve=curve)]

    monkeypatch.setattr(execute, "run_trials", run_trials)
    ready = tune.with_reference(plan, sweep, Ledger(str(tmp_path / "trials.jsonl")))
    assert asked == [plan.reference]
    assert ready.objective.at({"bits_per_byte/english": 2.0, "bits_per_byte/code": 1.0}, 10) == 0.5

    monkeypatch.setattr(execute, "run_trials", lambda *_: [result(0, error="out of memory")])
    with pytest.raises(RunFailed, match="reference"):
        tune.with_reference(plan, sweep, Ledger(str(tmp_path / "trials.jsonl")))


def test_a_reference_that_was_trained_needs_no_budget(tmp_path, monkeypatch):
    plan = made(objective="max(excess)")
    sweep = Sweep(plan.base, plan.settings, "packed", plan.base.ray, str(tmp_path), plan.objective.at)
    curve = [Point(step=1, tokens=10, metrics={f"bits_per_byte/{name}": 1.5 for name in SHARES})]
    trained = result(0, 1.5, settings=plan.reference, curve=curve)
    ledger = Ledger(str(tmp_path / "trials.jsonl"))
    ledger.append(trained.model_copy(update={"key": sweep.plan(0, plan.reference).key}))
    monkeypatch.setattr(execute, "run_trials", lambda *_: [])  # as where `budget.trials` are used up
    ready = tune.with_reference(plan, sweep, ledger)
    assert ready.objective.at({"bits_per_byte/english": 2.0, "bits_per_byte/code": 1.0}, 10) == 0.5


COMPARING = {
    "train": {
        "objective": {"kind": "dpo"},
        "init": "from_checkpoint:base",
        "packing": "best_fit",
        "seq_len": 32,
        "global_batch_tokens": 128,
        "max_steps": 40,
    }
}
BETA = {"train.objective.beta": {"kind": "choice", "values": [0.1, 0.5]}}


def test_a_sweep_of_preferences_is_judged_by_what_is_measured_of_pairs():
    plan = made(COMPARING, space=BETA, objective="0.5 * mean_preference_loss - accuracy/code")
    assert plan.objective.at({"mean_preference_loss": 0.6, "accuracy/code": 0.75}, 10) == pytest.approx(-0.45)
    assert made(COMPARING, space=BETA, objective="-mean(accuracy)").objective.uses == (
        "accuracy/english",
        "accuracy/code",
    )
    with pytest.raises(ConfigError, match="no metric 'mean_accuracy'"):
        made(objective="-mean_accuracy")


@pytest.mark.parametrize("path", ["train.init", "train.precision", "model.dim"])
def test_what_shapes_the_reference_is_the_same_in_all_trials(path):
    with pytest.raises(ConfigError, match=f"varies `{path}`, on which the reference's"):
        made(COMPARING, space={path: {"kind": "choice", "values": ["a", "b"]}})
    with pytest.raises(ConfigError, match=f"varies `{path}`, on which the reference's"):
        made(COMPARING, space=BETA, baselines=[{path: "a"}])


def test_the_curve_of_a_run_has_the_tokens_of_its_steps():
    log = MetricsLog(
        train=tuple({"step": step, "tokens": tokens} for step, tokens in ((10, 1000), (20, 2000), (30, 5000))),
        validation=tuple(
            {"step": step, "bits_per_byte/a": 1.0, "mean_loss": 2.0, "kind": "validation", "perplexity/a": None}
            for step in (0, 10, 25, 30)
        ),
    )
    curve = curve_of(log)
    assert [(point.step, point.tokens) for point in curve] == [(0, 0), (10, 1000), (25, 3500), (30, 5000)]
    assert curve[0].metrics == {"bits_per_byte/a": 1.0, "mean_loss": 2.0}
