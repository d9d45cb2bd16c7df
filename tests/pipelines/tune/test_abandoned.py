"""Which placement groups nobody will give back, and whether any trial has one."""

import pytest
from ray.core.generated.gcs_pb2 import PlacementGroupTableData

from rayllm.pipelines.tune.abandoned import is_abandoned, nothing_fits

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


def group(state, creator=ACTOR, job=JOB, dead=False):
    fields = {"creator_job_id": job, "creator_actor_id": creator, "creator_actor_dead": dead}
    return PlacementGroupTableData(state=getattr(PlacementGroupTableData, state), **fields)


@pytest.mark.parametrize(
    ("groups", "waits"),
    [
        ([group("PENDING")], True),
        ([group("RESCHEDULING"), group("REMOVED")], True),
        ([group("PENDING"), group("CREATED")], False),
        ([group("PENDING"), group("CREATED", NOBODY)], True),
        ([group("PENDING"), group("CREATED", dead=True)], True),
        ([group("PENDING"), group("CREATED", job=OTHER)], True),
        ([group("PENDING", job=OTHER)], False),
        ([group("CREATED", NOBODY)], False),
    ],
    ids=[
        "one waits",
        "its node is gone",
        "another one trains",
        "only Tune has something",
        "nobody's",
        "another job trains",
        "another job waits",
        "processes start",
    ],
)
def test_nothing_fits_where_something_waits_and_no_workers_have_what_they_need(groups, waits):
    assert nothing_fits(groups, JOB) is waits
