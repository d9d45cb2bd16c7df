"""The engine protocol on DeepSpeed ZeRO, stages 0 to 3; the only file that imports DeepSpeed.

Compute in bf16 is ``torch_autocast`` over float32 weights at every stage (``bf16.enabled`` at stage 0 differs from the
other stages by 4.5e-2 of loss). Gradient accumulation is ours (``managed_gradient_accumulation: false``), so that a
curriculum may change the batch between steps. DeepSpeed's own checkpoint files are not used: the state is reached as
slices of the flat partitions behind each stage.
"""

import logging
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from rayllm.data.batches import Batch
from rayllm.optim.adamw import GuardedAdamW, build_adamw
from rayllm.optim.config import OptimizerConfig
from rayllm.train.engine import KINDS, Slice, StepOutcome, owned_share, replicated_slices, set_optimizer_steps

#: Elements of one reduction bucket; one bucket for models of this size, since each costs a synchronisation.
BUCKET_ELEMENTS = 200_000_000


class DeepSpeedEngine:
    """ZeRO over the default process group, which must be initialised."""

    def __init__(
        self,
        module: nn.Module,
        config: OptimizerConfig,
        precision: str,
        device: torch.device,
        *,
        zero_stage: int,
        micro_batch_size: int,
        document_mask: bool = True,
    ) -> None:
        deepspeed = import_deepspeed(device)
        self.device = device
        self.world_size, self.rank = dist.get_world_size(), dist.get_rank()
        self.zero_stage, self._document_mask = zero_stage, document_mask
        module = module.to(device)
        self._optimizer: GuardedAdamW = build_adamw(module.named_parameters(), config)
        self._optimizer.max_norm = config.grad_clip if zero_stage == 0 else None
        self._engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=self._optimizer,
            config=_deepspeed_config(config, precision, zero_stage, micro_batch_size),
            dist_init_required=False,
        )
        self._names = {id(parameter): name for name, parameter in self._engine.module.named_parameters()}

    @property
    def module(self) -> nn.Module:
        """The model; at stage 3 all ranks must call it together."""
        return self._engine.module

    def token_losses(self, batch: Batch) -> Float[Tensor, "rows seq"]:
        """See ``Engine``."""
        return self._engine(batch.input_ids, batch.labels, batch.doc_ids if self._document_mask else None)

    def backward(self, loss: Tensor) -> None:
        """See ``Engine``; DeepSpeed averages over ranks, so the loss is scaled up to make it a sum."""
        self._engine.backward(loss * self.world_size, scale_wrt_gas=False)

    def step(self, lr: float) -> StepOutcome:
        """See ``Engine``."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        self._engine.step()
        if self.zero_stage == 0:
            return StepOutcome(self._optimizer.last_norm, self._optimizer.applied)
        norm = self._engine.get_global_grad_norm()
        applied = not self._engine.optimizer.overflow
        return StepOutcome(float(norm) if applied else float("nan"), applied)

    def slices(self) -> list[Slice]:
        """See ``Engine``."""
        if self.zero_stage == 0:
            return replicated_slices(self._engine.module, self._optimizer)
        return list(self._slices_stage3() if self.zero_stage == 3 else self._slices_stage12())

    def owned_slices(self) -> list[Slice]:
        """See ``Engine``; partitions of stages 1 to 3 do not overlap."""
        found = self.slices()
        return owned_share(found, self.rank, self.world_size) if self.zero_stage == 0 else found

    def restored(self, optimizer_steps: int) -> None:
        """See ``Engine``; copies the master weights to the weights that forward passes use."""
        set_optimizer_steps(self._optimizer, optimizer_steps)
        zero = self._engine.optimizer
        if self.zero_stage in (1, 2):
            zero.update_lp_params()
        elif self.zero_stage == 3:
            for group in range(len(zero.fp32_partitioned_groups_flat)):
                zero._reassign_or_swap_out_partitioned_parameters(group)
            self._refresh_persistent()

    def full_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """See ``Engine``; at stage 3 each parameter is gathered in its turn."""
        import deepspeed

        for name, parameter in self._engine.module.named_parameters():
            if self.zero_stage == 3:
                with deepspeed.zero.GatheredParameters([parameter]):
                    yield name, parameter.detach().float().clone()
            else:
                yield name, parameter.detach()

    def _slices_stage12(self) -> Iterator[Slice]:
        zero = self._engine.optimizer
        for flat, group in zip(zero.single_partition_of_fp32_groups, zero.bit16_groups, strict=True):
            values = self._flat_state(flat)
            for parameter in group:
                mapping = parameter._hp_mapping
                if mapping is None:
                    continue
                inside, at = mapping.lp_fragment_address, mapping.hp_fragment_address
                for kind in KINDS:
                    part = values[kind].narrow(0, at.start, at.numel)
                    yield Slice(self._names[id(parameter)], kind, inside.start, part)

    def _slices_stage3(self) -> Iterator[Slice]:
        zero = self._engine.optimizer
        groups = zip(zero.fp32_partitioned_groups_flat, zero.fp16_groups, strict=True)
        for group_index, (flat, group) in enumerate(groups):
            values = self._flat_state(flat)
            for parameter in group:
                index, at, length = zero.grad_position[zero.get_param_id(parameter)]
                assert index == group_index, "a parameter's gradient lies in another group than its weights"
                offset = self.rank * length
                length = max(0, min(length, parameter.ds_numel - offset))
                if length:
                    for kind in KINDS:
                        yield Slice(self._names[id(parameter)], kind, offset, values[kind].narrow(0, at, length))

    def _flat_state(self, flat: Tensor) -> dict[str, Tensor]:
        if flat not in self._optimizer.state:
            self._optimizer.create_state(flat)
        state = self._optimizer.state[flat]
        return {"master": flat.detach(), "exp_avg": state["exp_avg"], "exp_avg_sq": state["exp_avg_sq"]}

    def _refresh_persistent(self) -> None:
        """Small parameters stay gathered at stage 3: gather them again from the partitions just written."""
        persistent = self._engine.optimizer.persistent_parameters
        if persistent:
            for parameter in persistent:
                parameter.partition()
            persistent[0].all_gather(persistent)


def import_deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed so that it needs no compiler and stays quiet."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
    import deepspeed
    import deepspeed.ops

    # Without this, `initialize` compiles a communication op (50 to 100 s, needs g++) that training never uses.
    deepspeed.ops.__dict__["__compatible_ops__"] = {}
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    return deepspeed


def _deepspeed_config(
    config: OptimizerConfig, precision: str, zero_stage: int, micro_batch_size: int
) -> dict[str, Any]:
    zero: dict[str, Any] = {
        "stage": zero_stage,
        "overlap_comm": False,
        "contiguous_gradients": True,
        "reduce_bucket_size": BUCKET_ELEMENTS,
        "allgather_bucket_size": BUCKET_ELEMENTS,
    }
    return {
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "managed_gradient_accumulation": False,
        "gradient_clipping": config.grad_clip if zero_stage else 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "torch_autocast": {
            "enabled": precision == "bf16",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
        "steps_per_print": None,
        "wall_clock_breakdown": False,
    }
