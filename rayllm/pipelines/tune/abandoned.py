"""What was set aside for workers of a trial whose process was killed, given back.

Ray keeps a placement group that an actor has created until the whole job ends, also when that actor is dead. So a
killed process of a trial would leave its workers' CPUs and GPUs taken, and every later trial waiting for them.
"""

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
    table = state._connect_and_get_accessor().get_placement_group_table()
    found = [group for group in map(PlacementGroupTableData.FromString, table) if is_abandoned(group, job)]
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
    by_an_actor = any(byte != 0xFF for byte in group.creator_actor_id)
    return not gone and ours and by_an_actor and group.creator_actor_dead
