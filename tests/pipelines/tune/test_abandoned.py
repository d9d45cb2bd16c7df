"""Which placement groups nobody will give back."""

import pytest
from ray.core.generated.gcs_pb2 import PlacementGroupTableData

from rayllm.pipelines.tune.abandoned import is_abandoned

JOB, OTHER = b"\x01\x00\x00\x00", b"\x02\x00\x00\x00"
ACTOR, NOBODY = b"\x05" * 16, b"\xff" * 16


@pytest.mark.parametrize(
    ("change", "abandoned"),
    [
        ({}, True),
        ({"state": PlacementGroupTableData.PENDING}, True),
        ({"state": PlacementGroupTableData.REMOVED}, False),
        ({"creator_actor_dead": False}, False),
        ({"creator_job_id": OTHER}, False),
        ({"is_detached": True}, False),
        ({"creator_actor_id": NOBODY}, False),
        ({"creator_actor_id": b""}, False),
    ],
    ids=["of a dead actor", "waits", "removed", "of a live one", "of another job", "detached", "of a driver", "no id"],
)
def test_only_what_a_dead_actor_of_this_job_set_aside_is_abandoned(change, abandoned):
    fields = {
        "state": PlacementGroupTableData.CREATED,
        "creator_job_id": JOB,
        "creator_actor_id": ACTOR,
        "creator_actor_dead": True,
    }
    assert is_abandoned(PlacementGroupTableData(**fields | change), JOB) is abandoned
