"""A tiny model, really trained for a few steps, then evaluated and reported."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from packing_fixture import pack_splits

from rayllm.core.artifact import Artifact
from rayllm.core.errors import ArtifactDamaged
from rayllm.core.stage import Task, Work, run_task
from rayllm.data.shards.packed import PackedData
from rayllm.evals.config import EvaluateConfig, SampleConfig
from rayllm.evals.samples import choose_prompts
from rayllm.pipelines import evaluate, report
from rayllm.pipelines import train as train_stage

VALIDATION_TOKENS = 600
SAMPLES = SampleConfig(per_domain=3, prompt_tokens=8, max_new_tokens=12)


def texts_of(domain: str) -> list[str]:
    if domain == "math":
        return [f"What is {a} plus {a % 7}? It is {a + a % 7}.\n" for a in range(400)]
    source = Path(os.__file__).read_text()
    return [source[i : i + 300] for i in range(0, 36_000, 300)]


def pack(root: str) -> Artifact:
    texts = {domain: texts_of(domain) for domain in ("math", "code")}
    splits = {
        "train": {domain: [text for i, text in enumerate(part) if i % 5] for domain, part in texts.items()},
        "validation": {domain: part[::5] for domain, part in texts.items()},
    }
    return pack_splits(Path(root), splits, 400)


def train(work: Work) -> dict[str, object]:
    train_stage.run_single(work.config, work.inputs["pack"], work.directory)
    return {}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """The pack and train artifacts of twelve steps on two little domains."""
    root = str(tmp_path_factory.mktemp("run"))
    packed = pack(root)
    config = train_stage.Config.model_validate(
        {
            "name": "tiny",
            "model": {"dim": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "ffn_dim": 48, "max_seq_len": 64},
            "train": {
                "max_steps": 12,
                "seq_len": 32,
                "global_batch_tokens": 512,
                "optimizer": {"lr": 1e-2},
                "checkpoint": {"every_steps": 6},
                "validation": {"every_steps": 6, "max_tokens": VALIDATION_TOKENS},
                "logging": {"every_steps": 3, "tensorboard": False},
            },
        }
    )
    artifact, _ = run_task(Task("train", train, config, {"pack": packed}), root)
    return {"pack": packed, "train": artifact}


@pytest.fixture(scope="module")
def evaluated(trained: dict[str, Artifact]) -> Artifact:
    config = evaluate.Config(name="tiny", evaluate=EvaluateConfig(samples=SAMPLES))
    return run_task(Task("evaluate", evaluate.run, config, trained), str(Path(trained["pack"].uri).parent))[0]


def scores_of(artifact: Artifact) -> dict:
    return json.loads(Path(artifact.file("scores.json")).read_text())


def test_scores_equal_those_of_the_validation_during_training(
    trained: dict[str, Artifact], evaluated: Artifact
) -> None:
    lines = [json.loads(line) for line in Path(trained["train"].file("metrics.jsonl")).read_text().splitlines()]
    validations = {line["step"]: line for line in lines if line["kind"] == "validation"}
    scores = scores_of(evaluated)
    for domain, row in scores["domains"].items():
        for measure in ("loss", "perplexity", "bits_per_byte", "surprise_ratio"):
            assert row[measure] == pytest.approx(validations[scores["step"]][f"{measure}/{domain}"], rel=1e-4)
            assert scores["before"][domain][measure] == validations[0][f"{measure}/{domain}"]
        assert row["bits_per_byte"] < scores["before"][domain]["bits_per_byte"]
        assert row["tokens"] == VALIDATION_TOKENS


def test_the_untrained_model_guesses_uniformly(evaluated: Artifact) -> None:
    before = scores_of(evaluated)["before"]
    assert all(row["loss"] == pytest.approx(math.log(400), rel=0.02) for row in before.values())


def test_the_bigram_is_scored_on_the_same_text_and_beats_a_model_of_a_few_steps(evaluated: Artifact) -> None:
    for row in scores_of(evaluated)["domains"].values():
        assert 0 < row["bigram_bits_per_byte"] < row["bits_per_byte"]


def test_samples_continue_validation_documents_and_are_counted_by_domain(evaluated: Artifact) -> None:
    scores = scores_of(evaluated)
    assert [sample["domain"] for sample in scores["samples"]] == ["math"] * 3 + ["code"] * 3
    for sample in scores["samples"]:
        assert sample["prompt"]
        assert any(sample["prompt"] in text for text in texts_of(sample["domain"])[::5])
    found = scores["identification"]
    assert found["total"] == 6
    assert found["correct"] == sum(sample["identified"] == sample["domain"] for sample in scores["samples"])
    assert found["reference_accuracy"] > 0.8


def test_evaluation_is_the_same_when_it_is_done_again(trained: dict[str, Artifact], evaluated: Artifact) -> None:
    config = evaluate.Config(name="tiny", evaluate=EvaluateConfig(samples=SAMPLES))
    assert evaluate.compute_scores(config, trained["pack"], trained["train"]) == scores_of(evaluated)


def test_damaged_tokens_are_named_and_never_scored(trained: dict[str, Artifact], tmp_path: Path) -> None:
    shard = Path(trained["pack"].file("validation/math/00000.tokens"))
    content = shard.read_bytes()
    shard.write_bytes(content[:-2] + bytes([content[-2] ^ 1, content[-1]]))
    try:
        with pytest.raises(ArtifactDamaged, match=r"validation/math/00000\.tokens"):
            run_task(Task("evaluate", evaluate.run, evaluate.Config(name="tiny"), trained), str(tmp_path))
    finally:
        shard.write_bytes(content)


def test_prompts_are_places_of_different_documents(trained: dict[str, Artifact]) -> None:
    packed = PackedData.open(trained["pack"].uri)
    config = SampleConfig(per_domain=20, prompt_tokens=8, max_new_tokens=4)
    prompts = choose_prompts(packed, "math", config, seed=1, longest_question=32)
    stream = packed.stream("validation", "math")
    ids = stream.read(0, stream.num_tokens)
    assert len(prompts) == 20
    for prompt in prompts:
        whole = prompt.ids + prompt.following
        assert packed.separator_id not in whole[1:], "a prompt crosses into another document"
        assert len(prompt.ids) <= 9
        assert any(np.array_equal(ids[s : s + len(whole)], whole) for s in range(len(ids) - len(whole) + 1))
    assert len({tuple(prompt.ids + prompt.following) for prompt in prompts}) > 10


@pytest.mark.ray
def test_on_a_cluster_a_ray_task_gives_the_same_scores(
    trained: dict[str, Artifact], evaluated: Artifact, ray_session: None, tmp_path: Path
) -> None:
    config = evaluate.Config.model_validate(
        {"name": "tiny", "ray": {"address": "auto"}, "evaluate": {"samples": SAMPLES.model_dump()}}
    )
    artifact, _ = run_task(Task("evaluate", evaluate.run, config, trained), str(tmp_path))
    here, there = scores_of(evaluated), scores_of(artifact)
    assert there["mean_bits_per_byte"] == pytest.approx(here["mean_bits_per_byte"], rel=1e-4)
    assert there["identification"]["total"] == here["identification"]["total"]


def test_the_report_of_a_real_run_shows_its_scores(trained: dict[str, Artifact], evaluated: Artifact) -> None:
    inputs = {**trained, "evaluate": evaluated}
    root = str(Path(trained["pack"].uri).parent)
    artifact, _ = run_task(Task("report", report.run, report.Config(name="tiny"), inputs), root)
    page = Path(artifact.file("report.html")).read_text()
    markdown = Path(artifact.file("report.md")).read_text()
    for row in scores_of(evaluated)["domains"].values():
        assert f"{row['bits_per_byte']:.3f}" in page
        assert f"{row['bits_per_byte']:.3f}" in markdown
