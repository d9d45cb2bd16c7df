"""The runner on stages that only write a line: order, roots, parents, what is skipped and what is made again."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rayllm.core import storage
from rayllm.core.errors import ConfigError, SetupError
from rayllm.core.stage import Work
from rayllm.pipelines import STAGES, Stage, run_config, runner
from rayllm.pipelines.frame import Frame
from rayllm.pipelines.nodes import Node
from rayllm.pipelines.run_config import RunConfig, load_run
from rayllm.pipelines.runner import artifact_root, run_stages, verbs_for, verbs_of_run

MakeConfig = Callable[..., RunConfig]


@pytest.fixture
def make_config(tmp_path: Path) -> MakeConfig:
    """The smallest run, its storage in a temporary directory."""

    def make(**changes: Any) -> RunConfig:
        settings = {"name": "tiny", "storage": str(tmp_path / "runs"), "train": {"max_steps": 1}}
        return RunConfig.model_validate(settings | {"sources": {"math": {"kind": "synthetic_math"}}} | changes)

    return make


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Puts fake stages in place of all; lists the verbs that really ran."""
    calls: list[str] = []

    def module(stage: Stage) -> Any:
        def run(work: Work) -> dict[str, Any]:
            calls.append(stage.verb)
            assert list(work.inputs) == [parent for parent in stage.parents if parent != "reference"]
            storage.write_text(work.path(f"{stage.verb}.html"), f"made by {stage.verb}")
            return {"seed": work.config.seed}

        if stage.verb == "reference":
            return SimpleNamespace(Config=Frame, VERSION=1, run=run, wanted=lambda _: False, WANTED_FOR="pairs")
        return SimpleNamespace(Config=Frame, VERSION=1, run=run)

    for place in (runner, run_config):
        monkeypatch.setattr(place, "stage_module", module)
    return calls


def test_a_verb_stands_on_its_parents_in_the_order_of_the_table() -> None:
    assert verbs_for("prepare") == ["prepare"]
    assert verbs_for("pack") == ["prepare", "fit_tokenizer", "pack"]
    assert verbs_for("train") == ["prepare", "fit_tokenizer", "pack", "reference", "train"]
    assert verbs_for("tune") == ["prepare", "fit_tokenizer", "pack", "reference", "tune"]
    assert verbs_for("report") == verbs_of_run() == [verb for verb in STAGES if verb != "tune"]


def test_parents_come_before_children_in_the_table() -> None:
    order = list(STAGES)
    for stage in STAGES.values():
        assert all(order.index(parent) < order.index(stage.verb) for parent in stage.parents)


def test_data_are_shared_by_runs_and_the_rest_is_the_run_s_own(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config()
    roots = {verb: Path(artifact_root(config, verb)).relative_to(tmp_path) for verb in STAGES}
    data, own = Path("runs/data"), Path("runs/tiny")
    assert roots == {
        "prepare": data,
        "fit_tokenizer": data,
        "pack": data,
        "reference": data,
        "train": own,
        "evaluate": own,
        "report": own,
        "tune": own,
    }
    assert artifact_root(make_config(storage="s3://bucket/runs/"), "pack") == "s3://bucket/runs/data"


def test_a_run_makes_every_stage_once_and_finds_it_the_next_time(make_config: MakeConfig, ran: list[str]) -> None:
    first = run_stages(make_config(), verbs_of_run())
    had = [verb for verb in verbs_of_run() if verb != "reference"]
    assert ran == had == list(first)
    again = run_stages(make_config(), verbs_of_run())
    assert ran == had
    assert {verb: artifact.uri for verb, artifact in again.items()} == {v: a.uri for v, a in first.items()}


def test_a_run_of_another_name_shares_the_data(make_config: MakeConfig, ran: list[str]) -> None:
    run_stages(make_config(), verbs_of_run())
    ran.clear()
    run_stages(make_config(name="other"), verbs_of_run())
    assert ran == ["train", "evaluate", "report"]


def test_a_stage_that_a_run_does_not_have_is_refused_when_it_is_asked_for(
    make_config: MakeConfig, ran: list[str]
) -> None:
    with pytest.raises(ConfigError, match=r"no stage `reference`(.|\n)*it is for `pairs`"):
        run_stages(make_config(), verbs_for("reference"))
    assert ran == []


def test_another_seed_makes_all_again_beside_the_old(make_config: MakeConfig, ran: list[str]) -> None:
    first = run_stages(make_config(), ["prepare"])
    second = run_stages(make_config(seed=9), ["prepare"])
    assert ran == ["prepare", "prepare"]
    assert first["prepare"].uri != second["prepare"].uri
    assert storage.exists(first["prepare"].file("manifest.json"))


def test_a_forced_stage_is_made_again_and_its_children_are_found(make_config: MakeConfig, ran: list[str]) -> None:
    run_stages(make_config(), verbs_for("train"))
    ran.clear()
    run_stages(make_config(), verbs_for("train"), force=["pack"])
    assert ran == ["pack"]


def test_the_resolved_config_lies_beside_the_run_and_loads_back(
    make_config: MakeConfig, ran: list[str], tmp_path: Path
) -> None:
    config = make_config()
    run_stages(config, ["prepare"])
    assert load_run(str(tmp_path / "runs/tiny/run.yaml"), []) == config


def test_the_report_lies_beside_the_run_too(make_config: MakeConfig, ran: list[str], tmp_path: Path) -> None:
    run_stages(make_config(), verbs_for("report"))
    assert (tmp_path / "runs/tiny/report.html").read_text() == "made by report"


def test_a_stage_may_refuse_its_config_before_any_stage_runs(
    make_config: MakeConfig, ran: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = run_config.stage_module

    def refuse(config: Frame) -> None:
        raise ConfigError(f"{config.name} is refused")

    def module(stage: Stage) -> Any:
        found = fake(stage)
        return SimpleNamespace(**vars(found), check=refuse) if stage.verb == "report" else found

    monkeypatch.setattr(run_config, "stage_module", module)
    with pytest.raises(ConfigError, match="tiny is refused"):
        run_stages(make_config(), verbs_of_run())
    assert ran == []
    assert not (tmp_path / "runs").exists()


def test_a_stage_that_cannot_be_made_again_says_so_before_any_is_touched(
    make_config: MakeConfig, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = run_config.stage_module

    def refuse(config: Frame) -> None:
        raise ConfigError(f"{config.name} cannot begin again")

    def module(stage: Stage) -> Any:
        found = fake(stage)
        return SimpleNamespace(**vars(found), check_forced=refuse) if stage.verb == "train" else found

    monkeypatch.setattr(run_config, "stage_module", module)
    run_stages(make_config(), verbs_for("train"), force=["pack"])
    ran.clear()
    with pytest.raises(ConfigError, match="tiny cannot begin again"):
        run_stages(make_config(), verbs_for("train"), force=["pack", "train"])
    assert ran == []


def test_a_machine_too_small_for_a_later_stage_is_told_before_the_first_one_runs(
    make_config: MakeConfig, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = runner.stage_module

    def refusing(stage: Stage) -> Any:
        module = fake(stage)
        if stage.verb == "train":
            module.check_nodes = check
        return module

    def check(config: Frame, nodes: list[Node]) -> None:
        assert [node.cpus for node in nodes] == [1.0]
        raise SetupError("too small")

    config = make_config(ray={"num_cpus": 1})
    run_stages(config, ["prepare", "fit_tokenizer"])
    run_stages(make_config(ray={"num_cpus": 1}, name="large"), verbs_of_run())
    ran.clear()
    monkeypatch.setattr(runner, "stage_module", refusing)
    with pytest.raises(SetupError, match="too small"):
        run_stages(config, verbs_of_run())
    assert ran == []
    run_stages(make_config(ray={"num_cpus": 1}, name="large"), verbs_of_run())  # all is there, nothing needs room
    run_stages(config, ["prepare", "fit_tokenizer", "pack"])


def test_a_file_in_the_place_of_the_run_s_directory_is_told(
    make_config: MakeConfig, ran: list[str], tmp_path: Path
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/tiny").write_text("not a directory")
    with pytest.raises(SetupError, match="cannot be written"):
        run_stages(make_config(), ["prepare"])
    assert (tmp_path / "runs/tiny").read_text() == "not a directory"
