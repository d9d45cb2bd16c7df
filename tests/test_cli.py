import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayllm import cli
from rayllm.cli import COMMANDS, main, parse
from rayllm.core import errors
from rayllm.core.errors import RayllmError
from rayllm.pipelines import STAGES, ray_runtime, run_config, runner, summary

Capture = pytest.CaptureFixture[str]
RUN = {"name": "tiny", "sources": {"math": {"kind": "synthetic_math"}}, "train": {"max_steps": 3}}


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A run file."""
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(RUN))
    return str(path)


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the command line would run, instead of running it."""
    calls: list[dict[str, Any]] = []

    def record(config: run_config.RunConfig, verbs: list[str], *, force: list[str]) -> dict[str, Any]:
        calls.append({"config": config, "verbs": verbs, "force": force})
        return {}

    monkeypatch.setattr(runner, "run_stages", record)
    monkeypatch.setattr(summary, "summarize", lambda verb, file, artifacts: f"{verb} of {file}\n")
    monkeypatch.setattr(ray_runtime, "shutdown", lambda: None)
    return calls


def ending(code: object, *arguments: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == code


def test_help_lists_every_verb_with_a_line(capsys: Capture) -> None:
    ending(0, "--help")
    words = " ".join(capsys.readouterr().out.split())
    for stage in STAGES.values():
        assert f" {stage.verb} {stage.help} " in words + " "
    for name, (_, text) in COMMANDS.items():
        assert f" {name} {text} " in words + " "
    assert " run all stages of a run file in order " in words


@pytest.mark.parametrize("verb", ["run", "config", *STAGES, *COMMANDS])
def test_every_verb_has_its_own_help(verb: str, capsys: Capture) -> None:
    ending(0, verb, "--help")
    assert capsys.readouterr().out.startswith(f"usage: rayllm {verb} ")


@pytest.mark.parametrize(
    "arguments", [[], ["rum"], ["run"], ["run", "f", "--bogus"], ["config"], ["config", "print", "f"], ["doctor", "x"]]
)
def test_wrong_usage_has_exit_code_2(arguments: list[str], capsys: Capture) -> None:
    ending(2, *arguments)
    assert "usage: rayllm" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "f", "a=1", "b=2", "--force"],
        ["train", "f", "--force", "a=1", "b=2"],
        ["train", "--force", "f", "a=1", "b=2"],
        ["train", "f", "a=1", "--force", "b=2"],
    ],
)
def test_settings_may_stand_before_and_after_options(arguments: list[str]) -> None:
    args = parse(arguments)
    assert (args.file, args.overrides, args.force) == ("f", ["a=1", "b=2"], True)


def test_run_and_a_verb_differ_in_their_stages(file: str, stages: list[dict[str, Any]], capsys: Capture) -> None:
    assert main(["run", file, "train.max_steps=7"]) == 0
    assert main(["pack", file, "--force"]) == 0
    assert main(["run", file, "--force"]) == 0
    run, pack, forced = stages
    assert run["verbs"] == forced["verbs"] == forced["force"] == runner.verbs_of_run()
    assert (run["config"].train.max_steps, run["force"]) == (7, [])
    assert (pack["verbs"], pack["force"]) == (["prepare", "fit_tokenizer", "pack"], ["pack"])
    assert capsys.readouterr().out == f"run of {file}\npack of {file}\nrun of {file}\n"


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.RunFailed, 1),
        (errors.DataError, 1),
        (errors.ArtifactDamaged, 1),
        (errors.ConfigError, 2),
        (errors.SetupError, 3),
        (errors.SavedForRerun, 75),
    ],
)
def test_every_error_of_ours_has_its_exit_code_and_no_traceback(
    file: str, stages: object, monkeypatch: pytest.MonkeyPatch, capsys: Capture, kind: type[RayllmError], code: int
) -> None:
    monkeypatch.setattr(runner, "run_stages", raising(kind("it broke", where="here", why="because", fix="mend it")))
    assert main(["run", file]) == code
    assert capsys.readouterr().err == "error: it broke\n  where: here\n  why:   because\n  fix:   mend it\n"


def raising(error: BaseException) -> Callable[..., None]:
    def run(*_: object, **__: object) -> None:
        raise error

    return run


def test_until_converged_asks_tune_for_the_law(file: str, stages: list[dict[str, Any]]) -> None:
    space = 'tune.space={"mixture.weights": {"kind": "simplex"}}'
    assert main(["tune", file, space, "--until-converged"]) == 0
    assert stages[-1]["config"].tune.law.until_converged
    assert main(["tune", file, space]) == 0
    assert not stages[-1]["config"].tune.law.until_converged


def test_ray_is_stopped_however_a_run_ends(file: str, stages: object, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[bool] = []
    monkeypatch.setattr(ray_runtime, "shutdown", lambda: stopped.append(True))
    monkeypatch.setattr(runner, "run_stages", raising(errors.RunFailed("x")))
    assert main(["run", file]) == 1
    assert stopped == [True]


def test_ctrl_c_says_what_is_kept(file: str, stages: object, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(runner, "run_stages", raising(KeyboardInterrupt()))
    assert main(["run", file]) == 130
    assert "finished stages and saved checkpoints are kept" in capsys.readouterr().err


def test_a_bug_of_ours_keeps_its_traceback(file: str, stages: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "run_stages", raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main(["run", file])


def test_config_check_says_ok_or_every_problem(file: str, capsys: Capture) -> None:
    assert main(["config", "check", file]) == 0
    assert capsys.readouterr().out == f"{file}: ok\n"
    assert main(["config", "check", file, "train.lrr=1", "sources.math.kind=mathh"]) == 2
    told = capsys.readouterr().err
    assert "2 problems" in told
    assert "train.lrr" in told
    assert "Did you mean" in told


def test_config_show_prints_the_whole_run_with_overrides(file: str, tmp_path: Path, capsys: Capture) -> None:
    assert main(["config", "show", file, "train.max_steps=8"]) == 0
    shown = tmp_path / "shown.yaml"
    shown.write_text(capsys.readouterr().out)
    assert run_config.load_run(str(shown), []) == run_config.load_run(file, ["train.max_steps=8"])


def test_config_schema_describes_every_top_level_key(capsys: Capture) -> None:
    assert main(["config", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert set(schema["properties"]) == set(run_config.RunConfig.model_fields)
    for entry in schema["properties"].values():  # pydantic leaves out a description that is the section's own
        assert entry.get("description") or schema["$defs"][entry["$ref"].rpartition("/")[2]]["description"]


def test_config_needs_a_file(capsys: Capture) -> None:
    for action in ("check", "show"):
        assert main(["config", action]) == 2
        assert "needs a file" in capsys.readouterr().err


def test_log_lines_follow_a_replaced_standard_error(file: str, capsys: Capture) -> None:
    assert main(["config", "check", file]) == 0
    capsys.readouterr()
    logging.getLogger("rayllm.test").info("seen")
    assert capsys.readouterr().err.endswith(" seen\n")


def test_the_module_runs_as_the_command(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(sys, "argv", ["rayllm", "config", "schema"])
    assert cli.main() == 0
    assert json.loads(capsys.readouterr().out)["title"] == "RunConfig"
