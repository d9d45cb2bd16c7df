"""The state of a run at one step, copied out of the engine, so that it can be written while training goes on.

In: an engine and the run's state. Out: a ``Snapshot``, this rank's part of a checkpoint in CPU memory. The memory is
kept and used again: on rank 0 four bytes for each parameter (the whole weights), and on every rank what its slices
take (twelve bytes for each parameter with AdamW, divided by the number of ranks).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rayllm.core.checkpoint import checkpoint_name
from rayllm.train.engine import Engine, Slice
from rayllm.train.state import RunState, rng_state


@dataclass(frozen=True)
class Snapshot:
    """One rank's part of a checkpoint.

    Attributes:
        rank: Whose part it is.
        world_size: Of how many.
        state: Progress of the run, JSON-ready.
        slices: What this rank writes of master weights and moments, flat float32 copies.
        weights: All trained parameters in float32 by name; on rank 0 only.
        rng: This rank's random generators.
    """

    rank: int
    world_size: int
    state: Mapping[str, Any]
    slices: Sequence[Slice]
    weights: Mapping[str, Tensor]
    rng: Mapping[str, Tensor]

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self.state["step"]

    @property
    def attempt(self) -> int:
        """Which start of the run."""
        return self.state["attempt"]

    @property
    def name(self) -> str:
        """Of the checkpoint that it becomes."""
        return checkpoint_name(self.step, self.attempt)


class Snapshots:
    """Takes snapshots of one engine, always into the same memory: one ends where the next is taken.

    Args:
        engine: Of this rank.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._memory: dict[tuple[str, str, int], Tensor] = {}

    def take(self, state: RunState) -> Snapshot:
        """Copy all that a checkpoint of this step needs; all ranks call it together."""
        engine = self._engine
        items = engine.owned_slices()  # before the parameters: what stage 3 gathers for a moment has other addresses
        wholes: dict[str, tuple[int, Tensor]] = {}
        with torch.no_grad():
            for name, tensor in engine.full_parameters():
                if engine.rank == 0:
                    wholes[name] = tensor.data_ptr(), self._copy((name, "weights", 0), tensor)
            slices = [self._copy_slice(item, *wholes.get(item.param, (0, None))) for item in items]
        if engine.device.type == "cuda":
            torch.cuda.synchronize(engine.device)
        weights = {name: copy for name, (_, copy) in wholes.items()}
        return Snapshot(engine.rank, engine.world_size, state.state_dict(), slices, weights, rng_state())

    def _copy_slice(self, item: Slice, address: int, whole: Tensor | None) -> Slice:
        """A slice's values: where it is a part of a parameter that was copied already, the same part of the copy."""
        begin, stop = item.offset, item.offset + item.tensor.numel()
        if whole is not None and item.tensor.data_ptr() == address + begin * item.tensor.element_size():
            copy = whole.view(-1)[begin:stop]
        else:
            copy = self._copy((item.param, item.kind, begin), item.tensor)
        return Slice(item.param, item.kind, begin, copy)

    def _copy(self, key: tuple[str, str, int], tensor: Tensor) -> Tensor:
        """The values in memory of this object, pinned where they come from a GPU: copies then do not wait."""
        memory = self._memory.get(key)
        if memory is None or memory.shape != tensor.shape:
            memory = torch.empty(tensor.shape, dtype=torch.float32, pin_memory=tensor.is_cuda)
            self._memory[key] = memory
        return memory.copy_(tensor, non_blocking=True)
