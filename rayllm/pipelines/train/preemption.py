"""Notices that a node of the run is to be taken away, as Ray Train hands them to its workers."""

import datetime

from ray.train import PreemptionInfo
from ray.train.v2._internal.execution.context import get_train_context


class PreemptionNotice:
    """Says once of each notice what it says.

    Ray tells every worker. Its public ``ray.train.get_preemption_info()`` adds a broadcast, which would be a collective
    on every step and could cross with the one in ``ray.train.report`` that the saving thread is in; what was told is
    read here without it, by rank 0 alone, and the loop shares the answer in the collective of its step.
    """

    def __init__(self) -> None:
        self._told: PreemptionInfo | None = None

    def __call__(self) -> str:
        """What a new notice says; an empty string where there is none."""
        notice = get_train_context().preemption_context.preemption_info
        if notice is None or notice == self._told:
            return ""
        self._told = notice
        return describe(notice)


def describe(notice: PreemptionInfo) -> str:
    """A notice in words: which nodes, which ranks, until when."""
    nodes = ", ".join(node[:8] for node in notice.preempted_node_ids)
    ranks = ", ".join(str(rank) for rank in notice.preempted_ranks)
    text = f"node {nodes} with rank {ranks} is to be taken away"
    if notice.deadline_ms:
        until = datetime.datetime.fromtimestamp(notice.deadline_ms / 1000, datetime.UTC)
        text += f" at {until:%H:%M:%S} UTC"
    return text
