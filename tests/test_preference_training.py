"""Preference training from raw pairs on, in this process: prepare, pack, the reference, steps of DPO."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError
from ranks import run_ranks
from small_session import all_records, forked_run, records
from without_ray import score_here, stages_without_ray, trained_base

from rayllm.cli import main
from rayllm.core.artifact import Artifact
from rayllm.core.errors import ConfigError
from rayllm.data.preferences import PairRows, chosen_only, open_scores
from rayllm.data.shards.packed import PackedData
from rayllm.evals.config import EvaluateConfig
from rayllm.evals.ngram import fit_bigram, sample_tokens, score_bigram
from rayllm.evals.runner import Conditions, bigram_baseline
from rayllm.pipelines import reference
from rayllm.pipelines.run_config import RunConfig, load_run, stage_config
from rayllm.pipelines.runner import run_stages
from rayllm.pipelines.tune import execute
from rayllm.pipelines.tune.stepwise import point_of
from rayllm.pipelines.tune.trial_runs import Sweep
from rayllm.train.objective_config import DpoConfig
from rayllm.tune.results import Ledger, TrialResult
from rayllm.tune.samplers.sampler import Sampler

MODEL = {"dim": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "ffn_dim": 64, "max_seq_len": 256}
STAGES = ["prepare", "fit_tokenizer", "pack", "reference"]


@pytest.fixture(scope="module", autouse=True)
def _no_ray() -> Iterator[None]:
    with stages_without_ray():
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that has trained a model for a few steps."""
    return trained_base(tmp_path_factory.mktemp("base"))


def write_pairs(root: Path) -> Path:
    """Pairs in which anybody can tell what is preferred."""
    path = root / "pairs.jsonl"
    if not path.exists():
        rows = [
            {
                "prompt": f"How is {n} and its {n % 7}?",
                "chosen": f"It is fine, {n}, thank you.",
                "rejected": f"GO AWAY {n}!",
            }
            for n in range(200)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings(base: Path, root: Path, **changes: Any) -> dict[str, Any]:
    train = {
        "objective": {"kind": "dpo", "beta": 0.5},
        "init": f"from_checkpoint:{base}",
        "seq_len": 256,
        "global_batch_tokens": 2048,
        "micro_batch_size": 4,
        "max_steps": 4,
        "packing": "best_fit",
        "precision": "fp32",
        "engine": {"kind": "torch"},
        "optimizer": {"lr": 2e-3},
        "schedule": {"warmup_frac": 0.0},
        "checkpoint": {"every_steps": 2},
        "validation": {"every_steps": 2, "max_tokens": 2048},
        "logging": {"every_steps": 1, "tensorboard": False},
    }
    return {
        "name": "dpo",
        "storage": str(root),
        "sources": {"sums": {"kind": "preferences", "path": str(write_pairs(root))}},
        "validation": {"heldout_frac": 0.1},
        "fit_tokenizer": {"kind": "adopt", "from_file": str(base)},
        "pack": {"chat": {"max_tokens": 256}},
        "model": MODEL,
        "train": train | changes,
    }


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Artifact]]:
    """A run file, and its artifacts up to the reference."""
    root = tmp_path_factory.mktemp("dpo")
    file = root / "dpo.yaml"
    file.write_text(yaml.safe_dump(settings(base, root)))
    return file, run_stages(load_run(str(file), []), STAGES)


def trained(made: tuple[Path, dict[str, Artifact]], directory: Path, world: int = 1, **changes: Any) -> dict[int, Any]:
    """Train in forked ranks; returns the `train` records by step."""
    file, artifacts = made
    raw = yaml.safe_load(file.read_text())
    config = stage_config("train", RunConfig.model_validate(raw | {"train": raw["train"] | changes}))
    run_ranks(forked_run, world, config, artifacts["pack"].uri, str(directory), artifacts["reference"].uri)
    return records(str(directory), "train")


@pytest.fixture(scope="module")
def straight(made: tuple[Path, dict[str, Artifact]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("straight")
    trained(made, directory)
    return directory


def test_the_first_step_finds_the_policy_to_be_the_reference(straight: Path) -> None:
    first = records(str(straight), "train")[1]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["margin"] == pytest.approx(0, abs=1e-5)
    held_out = records(str(straight), "validation")[0]
    assert held_out["preference_loss/sums"] == pytest.approx(math.log(2), abs=1e-5)
    assert held_out["margin/sums"] == pytest.approx(0, abs=1e-5)


def test_steps_lower_the_loss_and_held_out_pairs_are_measured(straight: Path) -> None:
    found = records(str(straight), "train")
    assert found[4]["loss"] < found[1]["loss"]
    assert found[4]["margin"] > 0.1
    assert found[4]["accuracy"] > 0.9
    validations = records(str(straight), "validation")
    assert {"preference_loss/sums", "accuracy/sums", "margin/sums", "likelier/sums", "mean_accuracy"} <= set(
        validations[4]
    )
    assert validations[4]["accuracy/sums"] > 0.9
    assert validations[4]["bits_per_byte/sums"] > 0
    best = json.loads((straight / "checkpoints/best.json").read_text())
    assert best["metric"] == "mean_preference_loss"


@pytest.mark.parametrize(
    ("world", "changes"),
    [
        pytest.param(1, {"micro_batch_size": 1}, id="accumulated"),
        pytest.param(2, {"engine": {"zero_stage": 3}}, id="zero3"),
        pytest.param(2, {}, id="two ranks", marks=pytest.mark.slow),
        pytest.param(1, {"engine": {"zero_stage": 0}}, id="zero0", marks=pytest.mark.slow),
        pytest.param(2, {"engine": {"zero_stage": 1}}, id="zero1", marks=pytest.mark.slow),
        pytest.param(2, {"engine": {"zero_stage": 2}}, id="zero2", marks=pytest.mark.slow),
    ],
)
def test_the_curve_does_not_depend_on_who_computes(
    world: int, changes: dict[str, Any], made: tuple[Path, dict[str, Artifact]], straight: Path, tmp_path: Path
) -> None:
    expected, found = records(str(straight), "train"), trained(made, tmp_path, world, **changes)
    for step in expected:
        for name in ("loss", "margin", "accuracy", "chosen_reward"):
            assert found[step][name] == pytest.approx(expected[step][name], abs=2e-5), (step, name)
    for step, record in records(str(straight), "validation").items():
        now = records(str(tmp_path), "validation")[step]
        assert now["preference_loss/sums"] == pytest.approx(record["preference_loss/sums"], abs=2e-5)
        assert now["bits_per_byte/sums"] == pytest.approx(record["bits_per_byte/sums"], abs=2e-5)


def test_the_bigram_is_scored_on_the_replies_that_were_preferred(made: tuple[Path, dict[str, Artifact]]) -> None:
    packed = PackedData.open(made[1]["pack"].uri)
    conditions = Conditions(seq_len=256, document_mask=True, max_tokens=2048, seed=0)
    pairs = list(PairRows.open(packed, "validation", "sums", 256).batches(16, 2048))
    bigram = fit_bigram(sample_tokens(packed.stream("train", "sums"), 1 << 20), packed.vocab_size)
    token_bytes = torch.from_numpy(packed.codec().token_bytes)
    chosen, both = (
        score_bigram(bigram, batches, token_bytes) for batches in ([chosen_only(batch) for batch in pairs], pairs)
    )
    assert chosen.tokens < both.tokens
    assert bigram_baseline(packed, "sums", conditions, EvaluateConfig()) == chosen.bits_per_byte != both.bits_per_byte


def test_adapters_begin_where_the_reference_is(
    made: tuple[Path, dict[str, Artifact]], straight: Path, tmp_path: Path
) -> None:
    found = trained(made, tmp_path, max_steps=2, lora={"rank": 4})
    assert found[1]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert found[1]["margin"] == pytest.approx(0, abs=1e-5)
    assert found[2]["margin"] > 1e-4


def test_a_resumed_run_equals_a_straight_one_bit_for_bit(
    made: tuple[Path, dict[str, Artifact]], straight: Path, tmp_path: Path
) -> None:
    trained(made, tmp_path)
    for name in ("checkpoints/step-00000004-a1", "checkpoints/best.json"):
        path = tmp_path / name
        for file in [*path.rglob("*")] if path.is_dir() else [path]:
            if file.is_file():
                file.unlink()
    trained(made, tmp_path)
    expected, found = records(str(straight), "train"), records(str(tmp_path), "train")
    assert found[4]["attempt"] == 2
    for name in ("loss", "margin", "grad_norm", "likelier"):
        assert found[4][name] == expected[4][name]


def test_the_reference_is_kept_by_what_shapes_it(
    made: tuple[Path, dict[str, Artifact]], base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, artifacts = made
    other = load_run(str(file), ["train.objective.beta=0.1", "train.optimizer.lr=1e-4", "train.max_steps=3"])
    assert run_stages(other, STAGES)["reference"].uri == artifacts["reference"].uri
    assert "/data/reference-" in artifacts["reference"].uri
    packed = PackedData.open(artifacts["pack"].uri)
    scores = open_scores(artifacts["reference"].uri, packed, "train", "sums")
    counts = artifacts["reference"].counts["train"]["sums"]
    assert len(scores.log_probs) == counts["pairs"] == packed.stream("train", "sums").num_documents
    assert (scores.log_probs < 0).all()
    assert counts["chosen_log_prob"] == pytest.approx(scores.log_probs[:, 0].mean())


def test_a_stopped_reference_goes_on_with_the_parts_that_are_missing(
    made: tuple[Path, dict[str, Artifact]], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "PART_TOKENS", 256 * 8)
    config = RunConfig.model_validate(settings(base, tmp_path, precision="auto"))
    seen: list[int] = []

    def stopping(tasks: list[reference.PartTask], packed_uri: str, config: reference.Config) -> Any:
        seen.append(len(tasks))
        for done, precision in enumerate(score_here(tasks, packed_uri, config)):
            if len(seen) == 1 and done == 2:
                raise KeyboardInterrupt
            yield precision
        if len(seen) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(reference, "score_parts", stopping)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_stages(config, STAGES)
    again = run_stages(config, STAGES)
    assert seen[1:] == [seen[0] - 3, 0], "three parts were finished, then all"
    assert again["reference"].counts["precision"] == "fp32", "the parts know in what they were computed"
    uris = [artifacts["reference"].uri for artifacts in (made[1], again)]
    values = [
        open_scores(uri, PackedData.open(artifacts["pack"].uri), "train", "sums").log_probs
        for uri, artifacts in zip(uris, (made[1], again), strict=True)
    ]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-5)


def test_all_trials_of_a_sweep_read_one_reference(
    made: tuple[Path, dict[str, Artifact]], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials train in forked ranks here; everything else is the sweep's own."""
    computed: list[int] = []

    def counting(tasks: list[reference.PartTask], packed_uri: str, config: reference.Config) -> Any:
        computed.append(len(tasks))
        return score_here(tasks, packed_uri, config)

    def train_here(sampler: Sampler, sweep: Sweep, ledger: Ledger) -> list[TrialResult]:
        while (asked := sampler.ask()) is not None:
            run = sweep.plan(len(ledger.results), asked)
            run_ranks(forked_run, 1, run.config, sweep.packed_uri, run.directory, sweep.reference_uri)
            curve = [point_of(record) for record in records(run.directory, "validation").values()]
            ended = {"settings": asked, "group": run.group, "seed": run.config.seed, "status": "finished"}
            found = TrialResult(trial=run.trial.index, key=run.key, curve=curve, metrics=curve[-1].metrics, **ended)
            ledger.append(found)
            sampler.tell(found)
        return ledger.results

    monkeypatch.setattr(reference, "score_parts", counting)
    monkeypatch.setattr(execute, "run_trials", train_here)
    betas = {"train.objective.beta": {"kind": "grid", "values": [0.1, 1.0]}}
    sweep = {"space": betas, "objective": "1 - mean_accuracy", "significance": {"leaders": 0}, "budget": {"trials": 3}}
    config = RunConfig.model_validate(settings(base, tmp_path, max_steps=2) | {"tune": sweep})
    artifact = run_stages(config, [*STAGES, "tune"])["tune"]
    assert len(computed) == 1
    found = [TrialResult.model_validate_json(line) for line in Path(artifact.file("trials.jsonl")).read_text().split()]
    assert [trial.settings["train.objective.beta"] for trial in found] == [0.5, 0.1, 1.0]
    for trial in found:
        first, last = trial.curve[0].metrics, trial.curve[-1].metrics
        assert first["preference_loss/sums"] == pytest.approx(math.log(2), abs=1e-5)
        assert first["likelier/sums"] == found[0].curve[0].metrics["likelier/sums"]
        assert last["margin/sums"] > 0
    best = load_run(artifact.file("best.yaml"), [])
    assert isinstance(best.train.objective, DpoConfig)
    assert artifact.counts["1 - mean_accuracy"] == min(1 - trial.metrics["mean_accuracy"] for trial in found)


def test_a_reference_of_other_pairs_or_another_precision_is_refused(
    made: tuple[Path, dict[str, Artifact]], base: Path, tmp_path: Path
) -> None:
    raw = settings(base, tmp_path) | {"seed": 5}
    other = run_stages(RunConfig.model_validate(raw), STAGES[:-1])["pack"]
    config = stage_config("train", RunConfig.model_validate(raw))
    with pytest.raises(AssertionError, match="those of other pairs"):
        run_ranks(forked_run, 1, config, other.uri, str(tmp_path / "t"), made[1]["reference"].uri)
    rounded = config.model_copy(update={"train": config.train.model_copy(update={"precision": "bf16"})})
    with pytest.raises(AssertionError, match=r"another precision(.|\n)*the reference in fp32, the run in bf16"):
        run_ranks(forked_run, 1, rounded, made[1]["pack"].uri, str(tmp_path / "t"), made[1]["reference"].uri)
    with pytest.raises(AssertionError, match="none was given"):
        run_ranks(forked_run, 1, config, other.uri, str(tmp_path / "t"))


def test_a_run_without_pairs_has_no_reference(base: Path, tmp_path: Path) -> None:
    raw = settings(base, tmp_path, objective={"kind": "language_modeling"})
    with pytest.raises(ValidationError, match=r"sources\.sums holds pairs of replies"):
        RunConfig.model_validate(raw)
    chats = raw | {"sources": {"sums": {"kind": "synthetic_conversations", "documents": 50}}}
    assert list(run_stages(RunConfig.model_validate(chats), STAGES[:-1])) == STAGES[:-1]
    with pytest.raises(ConfigError, match="no stage `reference`"):
        run_stages(RunConfig.model_validate(chats), STAGES)
    chats["train"] = settings(base, tmp_path)["train"]
    with pytest.raises(ValidationError, match=r"sources\.sums holds other documents"):
        RunConfig.model_validate(chats)
    held_out = chats | {"validation": {"sources": {"sums": settings(base, tmp_path)["sources"]["sums"]}}}
    held_out["train"] = raw["train"]
    with pytest.raises(ValidationError, match=r"validation\.sources\.sums holds pairs of replies"):
        RunConfig.model_validate(held_out)
    others = settings(base, tmp_path) | {"validation": {"sources": chats["sources"]}}
    with pytest.raises(ValidationError, match=r"validation\.sources\.sums holds other documents"):
        RunConfig.model_validate(others)
    cut = settings(base, tmp_path) | {"pack": {"chat": {"max_tokens": 256, "truncate": "left"}}}
    with pytest.raises(ValidationError, match="set it to drop"):
        RunConfig.model_validate(cut)


def test_the_preview_shows_which_reply_was_preferred(
    made: tuple[Path, dict[str, Artifact]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "preview", str(made[0]), "--rows", "1", "--width", "100"]) == 0
    shown = capsys.readouterr().out
    assert shown.index("preferred") < shown.index("not preferred")
    assert shown.count("|~<|im_start|>") >= 4, "the prompt stands before both replies, and is only read"


def test_the_events_say_what_is_learnt(straight: Path) -> None:
    said = [record["message"] for record in all_records(str(straight), "event")]
    assert any("% learnt" in line for line in said)
