"""Runs whose mixture moves: where they are worse than the reference they read more, resumed as if never stopped."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from packing_fixture import make_packed
from ranks import run_ranks
from small_session import all_records, forked_run, make_config, records

from rayllm.core.artifact import Artifact
from rayllm.core.checkpoint import list_checkpoints
from rayllm.core.errors import ConfigError
from rayllm.data.mixing.adaptive_config import AdaptiveConfig
from rayllm.data.mixing.plan import Plan
from rayllm.pipelines import train
from rayllm.pipelines.train.reference import read_reference, speaking

SETTINGS: dict[str, Any] = {
    "engine": {"kind": "torch"},
    "checkpoint": {"every_steps": 4, "keep_last": 3},
    "validation": {"every_steps": 2, "max_tokens": 512},
    "samples": {"every_steps": 0},
}
#: Code is far above its reference, math is not.
NUMBERS: dict[str, Any] = {"reference": {"code": 1.0, "math": 20.0}, "max_change": 0.05, "rate": 1.0}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_packed(tmp_path_factory.mktemp("packed"), count=120)


def adaptive(root: Path, settings: dict[str, Any] = NUMBERS, **changes: Any) -> train.Config:
    config = make_config(root, **SETTINGS | changes).model_dump()
    return train.Config.model_validate(config | {"mixture": {"weights": "uniform", "adaptive": settings}})


def train_run(config: train.Config, packed: Artifact, ranks: int = 1) -> Path:
    directory = Path(config.storage) / "run"
    run_ranks(forked_run, ranks, config, packed.uri, str(directory))
    return directory


@pytest.fixture(scope="module")
def straight(packed: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_run(adaptive(tmp_path_factory.mktemp("straight")), packed)


def table(directory: Path | str) -> list[tuple[int, tuple[int, ...]]]:
    plan = Plan.from_json(Path(directory, "plan.json").read_text())
    return [(row.steps, row.weights) for row in plan.stages]


def outcome(run: Path) -> dict[str, Any]:
    files = {path.name: path.read_bytes() for path in Path(last(run)).glob("model.safetensors")}
    losses = {step: record["loss"] for step, record in records(str(run), "train").items()}
    return {"losses": losses, "table": table(run), "weights": files, "saved": table(last(run))}


def last(run: Path) -> str:
    return list_checkpoints(str(run / "checkpoints"))[-1].uri


def test_weights_move_towards_the_domain_above_its_reference_and_every_move_is_told(straight: Path) -> None:
    rows = table(straight)
    assert [steps for steps, _ in rows] == [2] * 6
    code = [weights[0] / 1024 for _, weights in rows]
    assert code == pytest.approx([0.5, 0.55, 0.6, 0.65, 0.7, 0.75], abs=0.002)
    moves = records(str(straight), "mixture")
    assert list(moves) == [2, 4, 6, 8, 10]
    assert moves[2]["weight/code"] == pytest.approx(0.55, abs=0.002)
    assert moves[2]["excess/math"] == 0
    said = [record["message"] for record in all_records(str(straight), "event") if "next step on" in record["message"]]
    assert len(said) == 5
    assert table(last(straight)) == rows
    read = records(str(straight), "train")[12]
    assert read["tokens/code"] / (read["tokens/code"] + read["tokens/math"]) == pytest.approx(0.625, abs=0.02)


@pytest.mark.parametrize("kept", [4, 8])
def test_a_killed_run_makes_the_same_moves_bit_for_bit(
    kept: int, straight: Path, packed: Artifact, tmp_path: Path
) -> None:
    shutil.copytree(straight, tmp_path / "run")
    for ref in list_checkpoints(str(tmp_path / "run" / "checkpoints")):
        if ref.step > kept:
            shutil.rmtree(ref.uri)
    assert outcome(train_run(adaptive(tmp_path), packed)) == outcome(straight)


def test_any_number_of_workers_reads_the_same(straight: Path, packed: Artifact, tmp_path: Path) -> None:
    two = outcome(train_run(adaptive(tmp_path), packed, ranks=2))
    assert two["table"] == outcome(straight)["table"]
    assert two["losses"] == pytest.approx(outcome(straight)["losses"], rel=1e-4)


def test_a_fork_goes_on_with_the_moves_and_one_that_does_not_adapt_with_its_own_weights(
    straight: Path, packed: Artifact, tmp_path: Path
) -> None:
    fork = {"source": str(straight), "step": 8}
    assert outcome(train_run(adaptive(tmp_path / "same", fork=fork), packed))["table"] == table(straight)
    fixed = train_run(make_config(tmp_path / "fixed", **SETTINGS | {"fork": fork}), packed)
    assert table(fixed) == [*table(straight)[:4], (4, (512, 512))]


def test_another_run_is_a_reference_at_equal_tokens(straight: Path, packed: Artifact, tmp_path: Path) -> None:
    curves = read_reference(AdaptiveConfig(reference=str(straight)))
    first = records(str(straight), "validation")
    assert [value for _, value in curves["code"]] == [record["bits_per_byte/code"] for record in first.values()]
    run = train_run(adaptive(tmp_path, {"reference": str(straight), "smoothing": 0.0}), packed)
    moves = records(str(run), "mixture")
    assert moves[2]["excess/code"] == moves[2]["excess/math"] == 0  # until then the runs are the same
    config = adaptive(tmp_path, {"reference": str(straight)})
    assert "reference" in train.fingerprint(config)


def test_references_and_domains_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run to measure against"):
        train.check(adaptive(tmp_path, {"reference": str(tmp_path / "none")}))
    settings = AdaptiveConfig(reference={"c4": 1.0}, domains={"c4": "web", "humaneval": "code"})
    assert speaking(settings, ["web", "code"], ["c4", "humaneval"]) == {"c4": "web", "humaneval": "code"}
    with pytest.raises(ConfigError, match="there is no domain 'books'"):
        speaking(AdaptiveConfig(reference={}, domains={"c4": "books"}), ["web"], ["c4"])
    with pytest.raises(ConfigError, match="two training domains"):
        speaking(AdaptiveConfig(reference={}), ["web", "code"], ["web"])


def test_stages_with_weights_of_their_own_are_refused(tmp_path: Path) -> None:
    values = adaptive(tmp_path).model_dump() | {"curriculum": [{"frac": 1.0, "weights": "natural"}]}
    with pytest.raises(ValueError, match="curriculum stage 0 has its own"):
        train.Config.model_validate(values)
