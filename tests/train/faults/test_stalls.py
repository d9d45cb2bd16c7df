"""Who is waited for is named, also where the others wait in a collective of ours."""

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from packing_fixture import make_packed
from ranks import run_ranks
from small_session import forked_run, make_config

from rayllm.core import artifact
from rayllm.core.artifact import Artifact
from rayllm.train import collective
from rayllm.train.guards import watchdog
from rayllm.train.guards.watchdog import describe_stalls

#: Seconds without a beat after which the rank that waits writes its note, and those of the one that hangs: it ends
#: last, so that the other's connection holds until then.
WAITING_S, HANGING_S = 2, 6


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_packed(tmp_path_factory.mktemp("packed"), count=60)


def _stall(root: str, packed_uri: str, directory: str) -> None:
    timeout_s = HANGING_S if os.environ["RANK"] == "1" else WAITING_S
    config = make_config(Path(root), engine={"kind": "torch"}, guards={"stall_timeout_s": timeout_s})
    forked_run(config, packed_uri, directory)


@pytest.mark.fault("P13", "a rank does not come to a step's agreement", "it is named; the one that waits says so")
def test_a_rank_that_waits_for_the_sums_of_a_step_names_the_one_that_does_not_come(
    packed: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYLLM_ALLOW_FAULTS", "1")
    monkeypatch.setenv("RAYLLM_FAULT", "rank1.agreement:3=hang")
    directory = tmp_path / "run"
    with pytest.raises(AssertionError, match="rank 0 died with exit code 70"):
        run_ranks(_stall, 2, str(tmp_path), packed.uri, str(directory))
    hanging, waiting = describe_stalls(str(directory), 1)
    assert re.match(r"rank 1 made no progress for \d+ s at step 3: counting the batch; its stacks: ", hanging)
    assert re.match(r"rank 0 made .* at step 3: forward and backward, waiting for other ranks; its stacks: ", waiting)
    stacks = json.loads(Path(waiting.rpartition("its stacks: ")[2]).read_text())["stacks"]
    assert "in wait_for_sums" in stacks


def _resume(root: str, packed_uri: str, directory: str, read_s: float) -> int:
    """Go on with a run whose checkpoint takes so long to read; the signs of life of this rank before its first step."""
    beats: list[str] = []
    beat, read = watchdog.Watchdog.beat, artifact.sha256_file
    watchdog.START_S, collective.BEAT_S = HANGING_S, 0.1

    def beat_and_note(dog: watchdog.Watchdog, step: int, phase: str) -> None:
        beats.append(phase)
        beat(dog, step, phase)

    def read_slowly(uri: str, got_on: Callable[[], object] = lambda: None) -> str:
        for _ in range(3):
            time.sleep(read_s)
            got_on()
        return read(uri)

    watchdog.Watchdog.beat, artifact.sha256_file = beat_and_note, read_slowly
    guards = {"stall_timeout_s": 1} if read_s == 0 else {}
    saved = {"every_steps": 4, "asynchronous": False}  # so that there is one when the run is killed
    config = make_config(Path(root), engine={"kind": "torch"}, max_steps=6, guards=guards, checkpoint=saved)
    forked_run(config, packed_uri, directory)
    return beats.index("counting the batch") if "counting the batch" in beats else 0


@pytest.mark.fault("P13", "reading the last checkpoint is slow, or hangs", "it is waited for, or the rank is named")
def test_a_checkpoint_that_is_slow_to_read_is_waited_for_and_one_that_hangs_is_told(
    packed: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "run"
    monkeypatch.setenv("RAYLLM_ALLOW_FAULTS", "1")
    monkeypatch.setenv("RAYLLM_FAULT", "step:5@1=kill")
    with pytest.raises(AssertionError, match="died"):
        run_ranks(_resume, 2, str(tmp_path), packed.uri, str(directory), 0.01)
    monkeypatch.setenv("RAYLLM_FAULT", "choose.verify=hang")
    with pytest.raises(AssertionError, match="rank 0 died with exit code 70"):
        run_ranks(_resume, 2, str(tmp_path), packed.uri, str(directory), 0)
    assert re.match(r"rank 0 made no progress for \d+ s at step 0: starting; ", describe_stalls(str(directory), 2)[0])
    monkeypatch.delenv("RAYLLM_FAULT")
    assert min(run_ranks(_resume, 2, str(tmp_path), packed.uri, str(directory), 0.3)) >= 3
