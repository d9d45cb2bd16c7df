"""The search for a mixture as a stage: checked before it trains, and the same however often it is killed."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from made_domains import pack_domains

from rayllm.core.artifact import Artifact
from rayllm.core.errors import ConfigError, SavedForRerun
from rayllm.core.stage import Task, run_task
from rayllm.data.mixing.weights import domain_shares
from rayllm.data.shards.packed import PackedData
from rayllm.pipelines import tune
from rayllm.pipelines.train.planning import plan_packed
from rayllm.pipelines.tune import execute, mixture_law
from rayllm.pipelines.tune.trial_runs import Sweep
from rayllm.tune.law import surfaces, validation
from rayllm.tune.results import Ledger, TrialResult
from rayllm.tune.samplers.sampler import Sampler

SIZES = {"code": 40_000, "english": 100_000, "math": 20_000}
LAW = {"until_converged": True, "rounds": 2, "bootstraps": 20}
#: Of the made trainings: bits per byte fall with a domain's own share and, less, with its neighbour's.
SLOPES = np.asarray([[-0.5, -0.1, 0.0], [0.0, -0.4, -0.1], [0.0, 0.0, -3.0]])


@pytest.fixture(autouse=True)
def _smooth_families_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "FAMILIES", tuple(family for family in surfaces.FAMILIES if family.smooth))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return pack_domains(tmp_path_factory.mktemp("packed"), SIZES)


def make_config(tmp_path: Path, *, law: dict[str, Any] = LAW, tree: dict[str, Any] | None = None, **sweep: Any):
    whole = {
        "name": "small",
        "storage": str(tmp_path / "runs"),
        "sources": {name: [{"kind": "jsonl", "path": f"{name}.jsonl"}] for name in SIZES},
        "model": {"dim": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "ffn_dim": 32, "max_seq_len": 64},
        "train": {"seq_len": 32, "global_batch_tokens": 128, "max_steps": 500, "precision": "fp32"},
        "tune": {"space": {"mixture.weights": {"kind": "simplex", "floor": 0.05}}, "max_steps": 20, "law": law}
        | {"objective": "bits_per_byte/math"}
        | sweep,
    }
    return tune.Config.model_validate(whole | (tree or {}))


def made_training(settings: dict[str, Any], seed: int, trial: int, key: str) -> TrialResult:
    """What training would measure, by a law that is not the fitted one, with noise of its own and of its seed."""
    shares = np.asarray(list(domain_shares(settings["mixture.weights"], SIZES).values()))
    noise = np.random.default_rng([seed, *np.round(shares * 1e6).astype(int)])
    common = np.random.default_rng(seed).normal(0, 0.01)
    values = 1 + 0.6 * np.exp(SLOPES @ np.sqrt(shares)) + common + noise.normal(0, 0.002, 3)
    metrics = {f"bits_per_byte/{name}": float(value) for name, value in zip(SIZES, values, strict=True)}
    metrics["mean_bits_per_byte"] = float(values.mean())
    return TrialResult(
        trial=trial, key=key, settings=settings, group=key, seed=seed, metrics=metrics, status="finished", tokens=2560
    )


class Trainer:
    """Stands in for ``run_trials``: makes results, and dies after some."""

    def __init__(self, dies_after: int | None = None) -> None:
        self.made, self.calls, self._left = 0, 0, dies_after

    def __call__(self, sampler: Sampler, sweep: Sweep, ledger: Ledger) -> list[TrialResult]:
        self.calls += 1
        found = []
        limit = sweep.settings.budget.trials
        while (limit is None or len(found) < limit) and (settings := sampler.ask()) is not None:
            known = ledger.finished()
            key = sweep.plan(0, settings).key
            if key not in known:
                if self.made == self._left:
                    raise SavedForRerun("killed")
                seed = int(str(settings.get("seed", sweep.config.seed)))
                ledger.append(made_training(settings, seed, len(known), key))
                self.made += 1
            found.append(ledger.finished()[key])
            sampler.tell(found[-1])
        return found


def run_law(config: tune.Config, packed: Artifact, root: Path) -> Artifact:
    goes_on = partial(tune.goes_on, config)
    return run_task(Task("tune", tune.run, config, {"pack": packed}, in_place=True, goes_on=goes_on), str(root))[0]


def outputs(artifact: Artifact) -> dict[str, str]:
    return {name: Path(artifact.file(name)).read_text() for name in ("law.json", "best.yaml", "trials.jsonl")}


def test_the_mixture_that_is_found_is_confirmed_and_stands_in_best_yaml(
    tmp_path: Path, packed: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer()
    monkeypatch.setattr(execute, "run_trials", trainer)
    artifact = run_law(make_config(tmp_path), packed, tmp_path / "sweeps")
    law = json.loads(Path(artifact.file("law.json")).read_text())
    assert law["confirmed"], law["verdict"]
    assert law["best"]["math"] > SIZES["math"] / sum(SIZES.values())
    best = tune.Config.model_validate(yaml.safe_load(Path(artifact.file("best.yaml")).read_text()))
    assert best.mixture.weights == law["best"]
    assert best.tune is None
    assert best.train.max_steps == 500
    assert best.seed == make_config(tmp_path).seed
    assert artifact.counts["trials"] == trainer.made
    assert trainer.made >= 18
    assert trainer.calls == 1, "what trains stays warm over all rounds"


def test_a_search_that_was_killed_anywhere_ends_as_if_it_had_not_been(
    tmp_path: Path, packed: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, trainer = make_config(tmp_path), Trainer()
    monkeypatch.setattr(execute, "run_trials", trainer)
    straight = outputs(run_law(config, packed, tmp_path / "straight"))
    # Within the points, after them, within the first confirmation, after it, within the last step.
    for kill in (7, 12, 14, 18, trainer.made - 1):
        root = tmp_path / f"killed-{kill}"
        first, second = Trainer(kill), Trainer()
        monkeypatch.setattr(execute, "run_trials", first)
        with pytest.raises(SavedForRerun):
            run_law(config, packed, root)
        monkeypatch.setattr(execute, "run_trials", second)
        assert outputs(run_law(config, packed, root)) == straight
        assert second.made == trainer.made - kill


def test_a_training_is_known_whatever_its_settings_are_called(tmp_path: Path, packed: Artifact) -> None:
    config = make_config(tmp_path)
    assert config.tune is not None
    sweep = Sweep(tune.base_config(config), config.tune, packed.uri, config.ray, str(tmp_path), lambda *_: 0.0)
    key = mixture_law.key_of(sweep)
    assert key({"mixture.weights": "natural"}) == sweep.plan(7, {}).key
    assert key({"mixture.weights": "uniform"}) != key({})


def test_a_raised_budget_goes_on_with_the_same_search(
    tmp_path: Path, packed: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = make_config(tmp_path, budget={"trials": 15}), make_config(tmp_path, budget={"trials": 60})
    first, second = Trainer(), Trainer()
    monkeypatch.setattr(execute, "run_trials", first)
    artifact = run_law(small, packed, tmp_path / "sweeps")
    assert first.made == 15
    assert "the budget is spent" in artifact.counts["verdict"]
    assert not tune.goes_on(small, artifact.manifest)
    assert tune.goes_on(large, artifact.manifest)
    monkeypatch.setattr(execute, "run_trials", second)
    again = run_law(large, packed, tmp_path / "sweeps")
    assert again.uri == artifact.uri
    assert second.made == again.counts["trials"] - 15 > 0
    assert "the budget is spent" not in again.counts["verdict"]


def test_proposals_keep_the_repetition_caps_of_the_whole_run(
    tmp_path: Path, packed: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execute, "run_trials", Trainer())
    cap = 0.25
    epochs = cap * 500 * 128 / SIZES["math"]
    config = make_config(tmp_path, tree={"mixture": {"max_epochs": {"math": epochs}}})
    artifact = run_law(config, packed, tmp_path / "sweeps")
    law = json.loads(Path(artifact.file("law.json")).read_text())
    assert law["bounds"]["math"] == pytest.approx([0.05, cap], rel=1e-2)
    assert all(one["proposal"]["mixture"]["math"] <= cap + 1e-9 for one in law["rounds"])


@pytest.mark.parametrize(("path", "cap"), [("curriculum.1.weights", 1 / 3), ("mixture.weights", 0.25)])
def test_repetition_caps_of_a_stage_leave_room_for_what_the_other_stages_read(
    tmp_path: Path, packed: Artifact, path: str, cap: float
) -> None:
    """Two stages of 32,000 tokens: the first reads a quarter of its tokens from math, the second a third."""
    first = {"code": 0.5, "english": 0.25, "math": 0.25}
    third = {"code": 1 / 3, "english": 1 / 3, "math": 1 / 3}
    stages: list[dict[str, Any]] = [{"frac": 0.5, "weights": first}, {"frac": 0.5, "weights": third}]
    if path == "mixture.weights":
        stages = [{"frac": 0.5}, stages[1]]
    tree = {"mixture": {"weights": first, "max_epochs": {"math": (0.25 + 1 / 3) * 32_000 / SIZES["math"]}}}
    full = tune.base_config(make_config(tmp_path, tree=tree | {"curriculum": stages}))
    plan = plan_packed(full, PackedData.open(packed.uri))
    caps = mixture_law.repetition_caps(full, plan, path)
    assert caps == {"code": 1.0, "english": 1.0, "math": pytest.approx(cap, abs=2e-3)}


def refused(change: Callable[[], tune.Config], packed: Artifact, root: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        run_law(change(), packed, root)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"space": {"train.optimizer.lr": {"kind": "uniform", "low": 0.1, "high": 0.2}}}, "nothing else may vary"),
        ({"scheduler": {"kind": "asha"}}, "none may be stopped early"),
        ({"objective": "mean_loss"}, "the law models bits per byte"),
        ({"sampler": {"kind": "tpe"}, "replicates": 2}, "tune.replicates, tune.sampler"),
        ({"space": {"mixture.weights": {"kind": "simplex", "pull": 0.5}}}, "tune.space.mixture.weights.pull"),
        ({"tree": {"mixture": {"temperature": 2}}}, "a temperature of 2 would change the weights"),
        ({"tree": {"mixture": {"max_epochs": 0.1}}}, "cannot sum to 1"),
    ],
)
def test_a_sweep_that_is_no_search_for_a_mixture_is_refused(
    tmp_path: Path, packed: Artifact, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr(execute, "run_trials", Trainer(0))
    assert words in refused(lambda: make_config(tmp_path, **changes), packed, tmp_path / "sweeps")


def test_a_budget_that_was_not_set_is_as_large_as_the_rounds_need(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    assert config.tune is not None
    assert mixture_law.budget(config.tune, 3).trials == 12 + 6 + 2 + 2 * 2 * 4
    config = make_config(tmp_path, budget={"trials": 15})
    assert config.tune is not None
    assert mixture_law.budget(config.tune, 3).trials == 15
