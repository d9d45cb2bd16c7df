"""A disk that is full while a checkpoint is written: the run says so and ends, and loses nothing that it had."""

import resource
from pathlib import Path

import pytest
from ranks import run_ranks, small_config, train_small

from rayllm.core.checkpoint import newest_valid
from rayllm.core.errors import RunFailed
from rayllm.train import collective

#: Largest file that may still be written, in bytes: no rank's part of the state fits, but what ranks use to find each
#: other does.
ROOM = 1 << 16


def _run_out_of_room(directory: str, full_rank: int) -> str:
    """Train to the first checkpoint, then on, with no room for another on one rank; returns the message at the end."""
    train_small(directory, "deepspeed", 1, small_config(), "fp32", 3)
    if collective.rank() == full_rank:
        resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, resource.RLIM_INFINITY))
    try:
        train_small(directory, "deepspeed", 1, small_config())
    except RunFailed as error:
        return str(error)
    finally:  # the rank must still report to the test
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return "no failure"


@pytest.mark.fault(
    "P12", "a file of a checkpoint finds no room", "every rank ends and says why; the older one is whole"
)
@pytest.mark.parametrize("full_rank", [0, 1])
def test_a_rank_without_room_ends_all_and_the_older_checkpoint_stays(full_rank: int, tmp_path: Path) -> None:
    messages = run_ranks(_run_out_of_room, 2, str(tmp_path), full_rank)
    for message in messages:
        assert "saving a checkpoint failed" in message
        assert f"rank {full_rank}" in message
        assert "File too large" in message
        assert "run the same command again" in message
    ref, rejected = newest_valid(str(tmp_path / "checkpoints"))
    assert ref is not None
    assert (ref.step, rejected) == (3, [])
    assert run_ranks(train_small, 2, str(tmp_path), "deepspeed", 1, small_config())[0]["finished"]
