"""What a run has written of itself is the same history whether it was killed or not."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fault_table import RECOVERY
from packing_fixture import make_packed
from ranks import run_ranks
from recovery import first_step_s
from small_session import all_records, forked_run, make_config

from rayllm.core.artifact import Artifact
from rayllm.core.checkpoint import list_checkpoints
from rayllm.report.metrics_log import read_metrics

STEPS = 12
PLAIN = {"kind": "torch"}  # records do not depend on the engine


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_packed(tmp_path_factory.mktemp("packed"), count=120)


def lines_of(directory: Path) -> list[str]:
    return (directory / "metrics.jsonl").read_text().splitlines(keepends=True)


def without_time(records: tuple[dict[str, Any], ...]) -> list[dict[str, Any]]:
    """What must be equal: everything but the clock, the speed, the memory and the number of the start."""
    measured = ("time", "attempt", "step_s", "tokens_per_s", "mfu", "memory_bytes")
    return [{name: value for name, value in record.items() if name not in measured} for record in records]


@pytest.mark.fault(
    "P16", "a run killed twice, a line of its metrics torn", "each step once, none missing, none changed"
)
def test_the_records_of_a_killed_run_are_those_of_an_unbroken_one(
    packed: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property
) -> None:
    saved = {"every_steps": 4, "asynchronous": False}  # so that the kills meet checkpoints that are finished
    config = make_config(tmp_path, engine=PLAIN, checkpoint=saved)
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    run_ranks(forked_run, 1, config, packed.uri, str(straight))
    monkeypatch.setenv("RAYLLM_ALLOW_FAULTS", "1")
    monkeypatch.setenv("RAYLLM_FAULT", "step:7@1=kill,save.published:8@2=kill")
    before: list[str] = []
    for _ in range(2):
        with pytest.raises(AssertionError, match="died"):
            run_ranks(forked_run, 1, config, packed.uri, str(killed))
        assert lines_of(killed)[: len(before)] == before, "a line was changed"
        with (killed / "metrics.jsonl").open("a") as file:
            file.write('{"kind": "train", "st')
        before = lines_of(killed)[:-1]
    run_ranks(forked_run, 1, config, packed.uri, str(killed))
    log, expected = read_metrics(str(killed / "metrics.jsonl")), read_metrics(str(straight / "metrics.jsonl"))
    assert [record["step"] for record in log.train] == list(range(1, STEPS + 1))
    assert [record["attempt"] for record in log.train] == [1] * 4 + [2] * 4 + [3] * 4
    assert log.unreadable == 2
    for kind in ("train", "validation", "samples"):
        assert without_time(getattr(log, kind)) == without_time(getattr(expected, kind)) != []
    every = [json.loads(line) for line in lines_of(killed) if line.endswith("}\n")]
    died = max(record["time"] for record in every if record["attempt"] == 2)
    record_property(RECOVERY, first_step_s(every, since=died, attempt=3))


def _forget(config: Any, packed_uri: str, directory: str, kinds: tuple[str, ...]) -> None:
    """The same session, but what it resumes is not put back."""
    from rayllm.train.checkpoint import StateFiles

    fill = StateFiles.fill
    StateFiles.fill = lambda files, item: None if item.kind in kinds else fill(files, item)
    forked_run(config, packed_uri, directory)


@pytest.mark.fault("P11", "weights are not restored as they were saved", "a warning after five steps")
def test_a_run_that_does_not_go_on_where_it_was_is_told(
    packed: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"max_steps": 90, "global_batch_tokens": 512, "samples": {}, "validation": {"max_tokens": 256}}
    changes |= {"checkpoint": {"every_steps": 80, "asynchronous": False}}
    config, killed = make_config(tmp_path, engine=PLAIN, **changes), tmp_path / "killed"
    monkeypatch.setenv("RAYLLM_ALLOW_FAULTS", "1")
    monkeypatch.setenv("RAYLLM_FAULT", "step:82@1=kill")
    with pytest.raises(AssertionError, match="died"):
        run_ranks(forked_run, 1, config, packed.uri, str(killed))
    assert list_checkpoints(f"{killed}/checkpoints")[-1].step == 80
    for forgotten in ((), ("master",)):
        directory = str(shutil.copytree(killed, tmp_path / f"{len(forgotten)}-forgotten"))
        run_ranks(_forget, 1, config, packed.uri, directory, forgotten)
        assert warned_of(directory) == ([(85, "warning")] if forgotten else [])


@pytest.mark.fault("P11", "moments are not restored as they were saved", "the run ends before its first step")
@pytest.mark.parametrize("forgotten", ["exp_avg", "exp_avg_sq"])
def test_a_run_whose_moments_were_not_restored_does_not_begin(
    packed: Artifact, tmp_path: Path, forgotten: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path, engine=PLAIN, checkpoint={"every_steps": 4, "asynchronous": False})
    monkeypatch.setenv("RAYLLM_ALLOW_FAULTS", "1")
    monkeypatch.setenv("RAYLLM_FAULT", "step:6@1=kill")
    with pytest.raises(AssertionError, match="died"):
        run_ranks(forked_run, 1, config, packed.uri, str(tmp_path / "run"))
    with pytest.raises(AssertionError, match=f"{forgotten} is zero everywhere, after steps that changed the weights"):
        run_ranks(_forget, 1, config, packed.uri, str(tmp_path / "run"), (forgotten,))


def warned_of(directory: str) -> list[tuple[int, str]]:
    said = [record for record in all_records(directory, "event") if "losses after the resume" in record["message"]]
    return [(record["step"], record["level"]) for record in said]
