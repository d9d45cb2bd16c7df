"""Who is waited for is named, also where the others wait in a collective of ours."""

import json
import os
import re
from pathlib import Path

import pytest
from packing_fixture import make_packed
from ranks import run_ranks
from small_session import forked_run, make_config

from rayllm.core.artifact import Artifact
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
