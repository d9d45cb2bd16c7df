import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rayllm.core.artifact import Artifact
from rayllm.core.errors import ArtifactDamaged
from rayllm.core.stage import Task, run_task
from rayllm.pipelines.frame import Frame
from rayllm.report.collect import collect
from rayllm.report.summary import figures, lead, next_commands, num_parameters
from rayllm.tokenizer.chat.config import ChatConfig
from rayllm.tokenizer.chat.template import load_template, write_template


def test_a_run_is_collected_from_its_artifacts(fake_run: dict[str, Artifact]) -> None:
    records = collect("quickstart", fake_run)
    assert records.domains == ["english", "math", "code"]
    assert records.metrics.train[-1]["step"] == 600
    assert records.environment["cpus"] == 2
    assert records.checkpoint is not None
    assert records.checkpoint.endswith("step-00000600-a2")
    assert records.config["settings"]


def test_scores_of_the_untrained_model_come_from_the_log_where_there_is_no_evaluation(
    fake_run: dict[str, Artifact],
) -> None:
    records = collect("quickstart", {"train": fake_run["train"]})
    assert records.scores_before["math"]["bits_per_byte"] == pytest.approx(4.87)
    assert records.domains == ["english", "math", "code"]


def test_a_damaged_record_is_named(fake_run: dict[str, Artifact]) -> None:
    path = Path(fake_run["evaluate"].file("scores.json"))
    content = path.read_text()
    path.write_text(content.replace("0", "1", 1))
    try:
        with pytest.raises(ArtifactDamaged, match=r"scores\.json"):
            collect("quickstart", fake_run)
    finally:
        path.write_text(content)


def test_a_sweep_is_read_from_its_artifact(fake_run: dict[str, Artifact], tmp_path: Path) -> None:
    table = {"objective": "mean_bits_per_byte", "best": 0, "trials": []}

    def tune(work) -> dict:
        Path(work.path("table.json")).write_text(json.dumps(table))
        return {}

    artifact, _ = run_task(Task("tune", tune, Frame(name="sweep")), str(tmp_path))
    assert collect("quickstart", fake_run, sweep=artifact.uri).sweep == table


def test_the_head_says_what_was_trained_on_what(fake_run: dict[str, Artifact]) -> None:
    records = collect("quickstart", fake_run)
    text = lead(records).replace("\u00a0", " ")
    assert num_parameters(records) is not None
    assert "trained for 600 steps on 9.83 M tokens of english, math and code in 2 min 38 s." in text
    assert records.scores is not None
    assert figures(records)[0].value == f"{records.scores['mean_bits_per_byte']:.3f}"
    assert figures(records)[0].tone == "good"


def test_bits_per_byte_that_rose_are_not_called_good(fake_run: dict[str, Artifact]) -> None:
    records = collect("quickstart", fake_run)
    assert records.scores is not None
    swapped = records.scores | {"before": records.scores["domains"], "domains": records.scores["before"]}
    assert figures(dataclasses.replace(records, scores=swapped))[0].tone == "bad"


def test_next_commands_name_real_places(fake_run: dict[str, Artifact]) -> None:
    records = collect("quickstart", fake_run)
    lines = [command.line for command in next_commands(records)]
    assert lines[0].startswith(f"rayllm sample {records.checkpoint} ")
    assert "name=quickstart-longer train.max_steps=1200" in lines[1]
    assert next_commands(collect("quickstart", {})) == []


def test_a_model_that_replies_is_asked_a_question(make_run: Callable[..., dict[str, Artifact]]) -> None:
    run = make_run("math")
    checkpoint = run["train"].file("checkpoints/step-00000600-a2")
    write_template(load_template(ChatConfig()), checkpoint)
    command = next_commands(collect("chat", run))[0]
    assert (command.purpose, command.line) == (
        "Ask the model",
        f"rayllm sample {checkpoint} 'What is 12 + 7?' --chat",
    )
