"""What was set aside for the workers of trials: whether any has it, and giving back that of a process that was killed.

Ray keeps a placement group that an actor has created until the whole job ends, also when that actor is dead. So a
killed process of a trial would leave its workers' CPUs and GPUs taken, and every later trial waiting for them.
"""

from collections.abc import Sequence

import ray
from ray._private.state import state
from ray._raylet import PlacementGroupID
from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # pyright: ignore[reportAttributeAccessIssue]
from ray.util.placement_group import PlacementGroup, remove_placement_group

from rayllm.core.log import get_logger

logger = get_logger(__name__)


def release_abandoned() -> int:
    """Give back the placement groups of this job whose creators are dead; nobody else's.

    Returns:
        How many there were.
    """
    job = bytes.fromhex(ray.get_runtime_context().get_job_id())
    found = [group for group in all_groups() if is_abandoned(group, job)]
    for group in found:
        remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))
    if found:
        logger.info("the workers of a trial whose process is gone are ended, and what they held is given back")
    return len(found)


def is_abandoned(group: PlacementGroupTableData, job: bytes) -> bool:
    """Whether a group holds, or waits for, what only a dead actor of this job could have given back.

    Args:
        group: As Ray's head knows it.
        job: Id of this job.
    """
    gone = group.state == PlacementGroupTableData.REMOVED
    ours = group.creator_job_id == job and not group.is_detached
    return not gone and ours and _by_an_actor(group) and group.creator_actor_dead


def nothing_fits(groups: Sequence[PlacementGroupTableData], job: bytes) -> bool:
    """Whether Ray has not been able to set aside what was asked for, and has done so for the workers of no trial.

    If it is not waiting for that, processes are only starting.

    Args:
        groups: As Ray's head knows them.
        job: Id of this job; what others wait for says nothing.
    """
    ours = [group for group in groups if group.creator_job_id == job]
    waiting = (PlacementGroupTableData.PENDING, PlacementGroupTableData.RESCHEDULING)
    trains = any(
        group.state == PlacementGroupTableData.CREATED and _by_an_actor(group) and not group.creator_actor_dead
        for group in ours
    )
    return not trains and any(group.state in waiting for group in ours)


def all_groups() -> list[PlacementGroupTableData]:
    """The placement groups of all jobs, with who created each, which Ray's own table of them does not say."""
    return [
        PlacementGroupTableData.FromString(group)
        for group in state._connect_and_get_accessor().get_placement_group_table()
    ]


def _by_an_actor(group: PlacementGroupTableData) -> bool:
    return any(byte != 0xFF for byte in group.creator_actor_id)
