import json
import re
from pathlib import Path
from typing import Any

import pytest

from rayllm.core import storage
from rayllm.core.artifact import Artifact, record_files
from rayllm.core.checkpoint import COMMIT, DIRECTORY, Commit, write_rank_manifest
from rayllm.core.stage import Task, Work, run_task
from rayllm.pipelines.frame import Frame
from rayllm.pipelines.summary import SAMPLE_CHARACTERS, samples_text, scores_table, summarize
from rayllm.tokenizer.chat.config import ChatConfig
from rayllm.tokenizer.chat.template import load_template, write_template

AFTER = {"loss": 2.0, "perplexity": 7.389, "bits_per_byte": 1.25, "surprise_ratio": 0.5, "bigram_bits_per_byte": 2.5}
SCORES: dict[str, Any] = {
    "domains": {"code": AFTER, "mathematics": AFTER | {"bits_per_byte": 0.5}},
    "before": {"code": {"loss": 6.0, "perplexity": 403.4, "bits_per_byte": 2.5}},
    "samples": [
        {"domain": "code", "prompt": "def f(x):\n", "text": "    return x"},
        {"domain": "code", "prompt": "second", "text": "is left out"},
        {"domain": "mathematics", "prompt": "1 + 1", "text": "= 2" * 200},
    ],
}


def publish(verb: str, root: Path, fill: Any) -> Artifact:
    return run_task(Task(verb, fill, Frame(name="tiny")), str(root))[0]


@pytest.fixture
def artifacts(tmp_path: Path) -> dict[str, Artifact]:
    """What a whole run makes, as far as the summary looks at it."""

    def train(work: Work) -> dict[str, Any]:
        checkpoint = work.path(DIRECTORY, "step-00000012-a1")
        storage.write_text(storage.join(checkpoint, "weights"), "w")
        record = write_rank_manifest(checkpoint, 0, record_files(checkpoint, ["weights"]))
        commit = Commit(step=12, attempt=1, world_size=1, manifests=[record])
        storage.write_text(storage.join(checkpoint, COMMIT), commit.model_dump_json())
        return {}

    def evaluate(work: Work) -> dict[str, Any]:
        storage.write_text(work.path("scores.json"), json.dumps(SCORES))
        return {}

    def report(work: Work) -> dict[str, Any]:
        storage.write_text(work.path("report.html"), "<html>")
        return {}

    return {
        "prepare": publish("prepare", tmp_path, lambda _: {}),
        "train": publish("train", tmp_path, train),
        "evaluate": publish("evaluate", tmp_path, evaluate),
        "report": publish("report", tmp_path, report),
    }


def test_scores_stand_in_columns_with_their_change() -> None:
    title, head, code, mathematics = scores_table(SCORES).splitlines()
    assert title == "validation, before → after training"
    assert head.split() == ["domain", "loss", "perplexity", "bits/byte", "change", "surprise", "bigram"]
    assert code.split() == [
        "code",
        "6.000",
        "→",
        "2.000",
        "403",
        "→",
        "7.4",
        "2.500",
        "→",
        "1.250",
        "-50%",
        "0.50",
        "2.500",
    ]
    assert mathematics.split() == ["mathematics", "2.000", "7.4", "0.500", "0.50", "2.500"]
    for text in ("2.000", "7.4", "0.50"):
        assert code.rindex(text) == mathematics.rindex(text)


def test_one_sample_of_each_domain_is_shown_on_two_lines() -> None:
    lines = samples_text(SCORES).splitlines()
    assert lines[:2] == ["sample, code: def f(x):", "  → return x"]
    assert lines[2] == "sample, mathematics: 1 + 1"
    assert len(lines) == 4
    assert len(lines[3]) <= SAMPLE_CHARACTERS + len("  → ")
    assert samples_text({"samples": []}) == ""


def test_a_run_ends_with_scores_samples_the_report_and_commands(artifacts: dict[str, Artifact]) -> None:
    text = summarize("run", "my.yaml", artifacts)
    for part in ("validation, before", "sample, code", "report.html", "rayllm sample ", "rayllm run my.yaml "):
        assert part in text
    assert artifacts["train"].file("checkpoints/step-00000012-a1") in text
    assert text.index("validation") < text.index("sample, code") < text.index("report:") < text.index("next:")


def test_one_stage_ends_with_where_its_artifact_is(artifacts: dict[str, Artifact]) -> None:
    only = {"prepare": artifacts["prepare"]}
    assert summarize("prepare", "my.yaml", only) == f"\nprepare: {artifacts['prepare'].uri}\n"


def test_training_ends_with_what_to_do_with_the_checkpoint(artifacts: dict[str, Artifact]) -> None:
    text = summarize("train", "my.yaml", {verb: artifacts[verb] for verb in ("prepare", "train")})
    assert f"train: {artifacts['train'].uri}" in text
    assert "rayllm sample " in text
    assert "--chat" not in text
    assert "validation" not in text


def test_a_model_that_replies_is_asked_a_question(artifacts: dict[str, Artifact]) -> None:
    checkpoint = artifacts["train"].file("checkpoints/step-00000012-a1")
    write_template(load_template(ChatConfig()), checkpoint)
    text = summarize("train", "my.yaml", artifacts)
    assert f"rayllm sample {checkpoint} 'What is 12 + 7?' --chat\n" in text
    assert "optimizer.lr" not in text, "a rate of pretraining"
    sweeps = re.findall(r"configs/\S+\.yaml", text)
    assert sweeps == ["configs/sweep/lora.yaml"]
