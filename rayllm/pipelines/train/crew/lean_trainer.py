"""Ray Train with only the processes that a run of ours uses, and a controller that does not import torch.

Every actor of Ray Train is a process that takes more than a second to start, before the workers or beside their first
steps, and wakes up a hundred times a second afterwards. Left out are

- the manager of Ray Data's datasets: a run of ours reads packed tokens;
- the cleaner of placement groups: it needs Ray's dashboard, and the driver gives them back itself (``release``);
- the coordinator of the cluster's growth: the driver sizes the workers by the nodes that there are;
- the workers' barrier, which is inside the controller (``lean_controller``).

Nor has an actor a runtime environment of its own. A process that is to have one is started for it, and imports Ray
twice; one without is there already, as Ray keeps some in stock. So the variables of ``RunConfig.worker_runtime_env``
are set in the controller's and the workers' processes when these have begun, before anything reads them.

Ray's ``TorchConfig`` makes the controller import torch, which takes it two seconds. Here the workers meet by an address
that the controller hands on, and join the process group themselves (``worker.train_worker``).
"""

import contextlib
import os
import socket
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.placement_group import get_placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayllm.pipelines.train.crew.lean_controller import MOST_WAITING, TALK, LeanTrainController, places_of

LEFT_OUT = (DatasetsCallback, PlacementGroupCleanerCallback)
#: As Ray Train's own controller has it: it waits for its workers where it stands.
CONTROLLER_ENVIRONMENT = {"RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0"}


class LeanTrainer(DataParallelTrainer):
    """A fixed number of workers without the actors named above; takes what ``DataParallelTrainer`` takes.

    Attributes:
        controller: The actor that the workers talk to; ``None`` until it is asked for.
    """

    controller: Any = None

    def _create_default_callbacks(self) -> list[Any]:
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, LEFT_OUT)]

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote  # whose overloads do not know of concurrency groups
        kind = actor(num_cpus=0, concurrency_groups={TALK: MOST_WAITING})(LeanTrainController)
        # On the driver's own node, so that it outlives every node but that.
        self.controller = kind.options(scheduling_strategy=here).remote(
            CONTROLLER_ENVIRONMENT | get_env_vars_to_propagate(),
            **parts | {"scaling_policy": _Fixed(self.scaling_config)},
        )
        ray.get(self.controller.run.remote())
        return ray.get(self.controller.get_result.remote())

    def release(self) -> None:
        """End the controller, and give back what was set aside for workers that are gone.

        Ray Train does so itself, unless its controller was killed: what cleans up after that needs Ray's dashboard.
        """
        if self.controller is None:
            return
        with contextlib.suppress(ValueError):  # there is none any more, or yet
            remove_placement_group(get_placement_group(places_of(self.controller._actor_id.hex())))
        ray.kill(self.controller)
        self.controller = None


class _Fixed(FixedScalingPolicy):
    """As many workers as asked for; tells nobody that they are wanted."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Nobody to tell."""

    def _maybe_send_resource_request(self) -> None:
        """Nobody to tell."""


@dataclass
class Rendezvous(BackendConfig):
    """The workers' process group: told where to meet, they join by themselves."""

    @property
    def backend_cls(self) -> type[Backend]:
        """See Ray's ``BackendConfig``."""
        return _MeetingPoint


class _MeetingPoint(Backend):
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Choose a port beside rank 0, and tell all ranks."""
        address, port = worker_group.execute_single(0, _free_address)
        worker_group.execute(_set_environment, address, port)


def _free_address() -> tuple[str, int]:
    """This node's address and a port that is free there."""
    address = ray.util.get_node_ip_address()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind(("", 0))
        return address, probe.getsockname()[1]


def _set_environment(address: str, port: int) -> None:
    """The variables by which torch and DeepSpeed know a rank."""
    context = ray.train.get_context()
    numbers = {
        "MASTER_PORT": port,
        "RANK": context.get_world_rank(),
        "WORLD_SIZE": context.get_world_size(),
        "LOCAL_RANK": context.get_local_rank(),
        "LOCAL_WORLD_SIZE": context.get_local_world_size(),
        "NODE_RANK": context.get_node_rank(),
    }
    os.environ.update({"MASTER_ADDR": address} | {name: str(number) for name, number in numbers.items()})
