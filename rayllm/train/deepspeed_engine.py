"""The engine protocol on DeepSpeed ZeRO, stages 0 to 3; the only file that imports DeepSpeed.

Compute in bf16, fp16 and fp8 is ``torch_autocast`` over float32 weights at every stage (``bf16.enabled`` at stage 0
differs from the other stages by 4.5e-2 of loss). Gradient accumulation is ours (``managed_gradient_accumulation:
false``), so that a curriculum may change the batch between steps. DeepSpeed's own checkpoint files are not used: the
state is reached as slices of the flat partitions behind each stage.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from rayllm.data.batches import Batch
from rayllm.model.transformer import Transformer
from rayllm.optim.config import AdamWConfig, MuonConfig
from rayllm.optim.layout import Piece
from rayllm.optim.optimizer import build_optimizer
from rayllm.optim.schedules import Rates
from rayllm.train.engine import (
    Holding,
    Slice,
    StepOutcome,
    arrange,
    owned_share,
    slices_of,
    trained_parameters,
    whole_parameters,
)
from rayllm.train.loss_scale import LossScaler
from rayllm.train.precision import AUTOCAST_DTYPES

#: Most elements of a reduction bucket. Up to here there is one for all parameters, since each costs a synchronisation.
BUCKET_ELEMENTS = 200_000_000


class DeepSpeedEngine:
    """ZeRO over the default process group, which must be initialised."""

    def __init__(
        self,
        module: Transformer,
        config: AdamWConfig | MuonConfig,
        precision: str,
        device: torch.device,
        *,
        zero_stage: int,
        micro_batch_size: int,
        document_mask: bool = True,
        offload_optimizer: bool = False,
        offload_parameters: bool = False,
    ) -> None:
        deepspeed = import_deepspeed(device)
        self.device = device
        self.world_size, self.rank = dist.get_world_size(), dist.get_rank()
        self.zero_stage, self._document_mask = zero_stage, document_mask
        module = module.to(device)
        self._optimizer = build_optimizer(module, config)
        self._optimizer.max_norm = config.grad_clip if zero_stage == 0 else None
        zero = _zero_config(
            zero_stage,
            device,
            bucket_elements([parameter.numel() for _, parameter in trained_parameters(module)], self.world_size),
            offload_optimizer=offload_optimizer,
            offload_parameters=offload_parameters,
        )
        self._engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=self._optimizer,
            config=_deepspeed_config(config.grad_clip if zero_stage else 0.0, precision, zero, micro_batch_size),
            dist_init_required=False,
        )
        self.scaler = LossScaler(dynamic=precision == "fp16")
        _drop_needless_work(self._engine, zero)
        if self.scaler.dynamic:
            self._engine.torch_autocast_z0_gradscaler = None
            self._engine.optimizer.torch_autocast_gradscaler = None
        self._names = {id(parameter): name for name, parameter in self._engine.module.named_parameters()}
        self._holdings = self._find_holdings()
        arrange(self._optimizer, self._holdings)

    @property
    def module(self) -> nn.Module:
        """The model; at stage 3 all ranks must call it together."""
        return self._engine.module

    def token_losses(self, batch: Batch) -> Float[Tensor, "rows seq"]:
        """See ``Engine``."""
        return self._engine(batch.input_ids, batch.labels, batch.doc_ids if self._document_mask else None)

    def backward(self, loss: Tensor) -> None:
        """See ``Engine``; at stage 3 DeepSpeed averages over ranks, so the loss is scaled up to make it a sum."""
        if self.zero_stage == 3 and self.world_size > 1:
            loss = loss * self.world_size
        if self.scaler.dynamic and self.zero_stage == 0:
            loss = loss * self.scaler.scale
        elif self.scaler.dynamic:  # ZeRO multiplies the loss, and divides where it clips
            self._engine.optimizer.override_loss_scale(self.scaler.scale)
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self, rates: Rates, *, discard: bool = False) -> StepOutcome:
        """See ``Engine``."""
        self._optimizer.set_rates(rates)
        self._optimizer.discard = discard
        if self.zero_stage == 0:
            self.scaler.unscale(self._engine.module)
            self._engine.step()
            norm, finite = self._optimizer.last_norm, self._optimizer.finite
        else:
            self._engine.step()
            finite = not self._engine.optimizer.overflow
            norm = float(self._engine.get_global_grad_norm()) if finite else float("nan")
        return StepOutcome(norm, finite and not discard, self.scaler.update(finite=finite))

    def slices(self) -> list[Slice]:
        """See ``Engine``."""
        return slices_of(self._holdings, self._optimizer)

    def owned_slices(self) -> list[Slice]:
        """See ``Engine``; partitions of stages 1 to 3 do not overlap."""
        found = self.slices()
        return owned_share(found, self.rank, self.world_size) if self.zero_stage == 0 else found

    def restored(self, optimizer_steps: int) -> None:
        """See ``Engine``; copies the master weights to the weights that forward passes use."""
        self._optimizer.set_applied_steps(optimizer_steps)
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

        for name, parameter in trained_parameters(self._engine.module):
            if self.zero_stage == 3:
                with deepspeed.zero.GatheredParameters([parameter]):
                    yield name, parameter.detach().float().clone()
            else:
                yield name, parameter.detach()

    def _find_holdings(self) -> list[Holding]:
        if self.zero_stage == 0:
            return whole_parameters(self._engine.module, self._optimizer)
        return list(self._holdings_stage3() if self.zero_stage == 3 else self._holdings_stage12())

    def _holdings_stage12(self) -> Iterator[Holding]:
        """A flat partition for each group: this rank's range of the group's parameters, one after another."""
        zero = self._engine.optimizer
        for index, flat in enumerate(zero.single_partition_of_fp32_groups):
            pieces = []
            for parameter in zero.bit16_groups[index]:
                mapping = parameter._hp_mapping
                if mapping is not None:
                    inside, at = mapping.lp_fragment_address, mapping.hp_fragment_address
                    pieces.append(Piece(self._names[id(parameter)], inside.start, at.numel, 0, at.start))
            yield Holding(index, [flat], pieces)

    def _holdings_stage3(self) -> Iterator[Holding]:
        """A flat partition for each sub-group of a group: this rank's range of every parameter."""
        zero = self._engine.optimizer
        for index, flat in enumerate(zero.fp32_partitioned_groups_flat):
            pieces = []
            for parameter in zero.fp16_groups[index]:
                sub_group, at, length = zero.grad_position[zero.get_param_id(parameter)]
                assert sub_group == index, "a parameter's gradient lies in another group than its weights"
                offset = self.rank * length
                length = max(0, min(length, parameter.ds_numel - offset))
                if length:
                    pieces.append(Piece(self._names[id(parameter)], offset, length, 0, at))
            yield Holding(zero.sub_group_to_group_id[index], [flat], pieces)

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
        # Else every backward pass at stage 3 runs `numactl` twice, to count what only hierarchical partitions ask for.
        os.environ.setdefault("LOCAL_SIZE", os.environ.get("LOCAL_WORLD_SIZE", "1"))
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
    import deepspeed
    import deepspeed.ops

    # Without this, `initialize` compiles a communication op (50 to 100 s, needs g++) that training never uses.
    deepspeed.ops.__dict__["__compatible_ops__"] = {}
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    _import_muon_uncompiled()
    return deepspeed


def _import_muon_uncompiled() -> None:
    """Import DeepSpeed's own Muon, as every engine does, but leave its kernels as they are.

    Marking them for compilation loads torch's compiler: three seconds of every start for what is never called.
    """
    from deepspeed.runtime import compiler

    marked, compiler.compile = compiler.compile, lambda: lambda function: function
    try:
        import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401
    finally:
        compiler.compile = marked


def _drop_needless_work(engine: Any, zero: dict[str, Any]) -> None:
    """Switch off what DeepSpeed does on every step and nothing needs.

    At stages 1 and 2 a gradient that is not finite has a norm that is not finite, and the step is skipped for that:
    looking through the gradients first would be a pass over all of them and a collective more. A rank alone would copy
    its gradients into a bucket, to be reduced with nobody's, and back.
    """
    alone = dist.get_world_size() == 1
    if zero["stage"] == 0:
        engine.enable_backward_allreduce = not alone
    elif zero["stage"] in (1, 2) and "offload_optimizer" not in zero:
        engine.optimizer.check_grad_overflow = False
        if alone:
            engine.optimizer.buffered_reduce_fallback = lambda *_, **__: None


def bucket_elements(sizes: Iterable[int], world_size: int) -> int:
    """Elements of a bucket that holds all parameters of these sizes, each padded to a multiple of the ranks, or of one
    as large as buckets get: DeepSpeed sets all of it aside, so a small model need not have a large one. An even number,
    since DeepSpeed takes no other."""
    padded = sum(-(-size // world_size) * world_size for size in sizes)
    return min(BUCKET_ELEMENTS, padded + padded % 2)


def _zero_config(
    stage: int,
    device: torch.device,
    bucket: int,
    *,
    offload_optimizer: bool = False,
    offload_parameters: bool = False,
) -> dict[str, Any]:
    zero: dict[str, Any] = {
        "stage": stage,
        "overlap_comm": False,
        "contiguous_gradients": True,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
    }
    host = {"device": "cpu", "pin_memory": device.type == "cuda"}  # copies from pinned memory overlap with computing
    if offload_optimizer:
        zero["offload_optimizer"] = host
    elif stage in (1, 2):  # else each bucket is copied once more on its way, and reduced by the same collective
        zero["reduce_scatter"] = False
        zero["contiguous_gradients"] = dist.get_world_size() > 1
    if offload_parameters:
        zero["offload_param"] = host
    return zero


def _deepspeed_config(grad_clip: float, precision: str, zero: dict[str, Any], micro_batch_size: int) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "managed_gradient_accumulation": False,
        "gradient_clipping": grad_clip,
        "zero_optimization": zero,
        "gradient_allreduce_op": "mean" if zero["stage"] == 3 else "sum",
        "zero_allow_untested_optimizer": True,
        # Else offloading wants DeepSpeed's Adam, which is compiled on first use; torch's fused AdamW is as it is.
        "zero_force_ds_cpu_optimizer": False,
        "torch_autocast": {
            "enabled": precision in AUTOCAST_DTYPES,
            "dtype": "float16" if precision == "fp16" else "bfloat16",
            "lower_precision_safe_modules": [],
        },
        "steps_per_print": None,
        "wall_clock_breakdown": False,
    }
