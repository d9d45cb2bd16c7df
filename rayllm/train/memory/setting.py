"""What decides how much memory a rank needs: taken from a run's config, and easy to change one thing of."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rayllm.model.config import ModelConfig
from rayllm.model.flops import count_parameters
from rayllm.model.lora.config import LoraConfig, count_adapters
from rayllm.train.config import TrainConfig
from rayllm.train.memory.trace import Shape
from rayllm.train.precision import AUTOCAST_DTYPES

#: Bytes of a float32, in which trained weights, gradients and optimiser state are, and of half of it.
FLOAT, HALF = 4, 2


@dataclass(frozen=True)
class Setting:
    """What decides how much memory a rank needs.

    Attributes:
        model: Sizes, with the vocabulary known.
        optimizer: Kind of the optimiser.
        engine: Kind of the engine.
        stage: Its ZeRO stage; 0 for the plain engine.
        offload_optimizer: Whether master weights and moments are in host memory.
        offload_parameters: Whether weights are.
        world_size: Ranks.
        device: Where tensors are.
        shape: Of a micro-batch.
        micro_batches: In a step.
        snapshot: Whether a copy of the state stays in host memory, to be saved beside training.
        lora: The adapters that are trained alone; None where all weights are.
    """

    model: ModelConfig
    optimizer: Literal["adamw", "muon"]
    engine: Literal["torch", "deepspeed"]
    stage: int
    offload_optimizer: bool
    offload_parameters: bool
    world_size: int
    device: Literal["cpu", "cuda"]
    shape: Shape
    micro_batches: int
    snapshot: bool
    lora: LoraConfig | None = None

    @property
    def trained(self) -> int:
        """Parameters that have gradients and moments."""
        return count_trained(self.model, self.lora)

    @property
    def weight_bytes(self) -> int:
        """All weights: with adapters, the frozen matrices of the blocks are in the precision of the products."""
        counts = count_parameters(self.model)
        if self.lora is None:
            return counts.total * FLOAT
        frozen = HALF if self.shape.precision in AUTOCAST_DTYPES else FLOAT
        return counts.blocks_matmul * frozen + (counts.total - counts.blocks_matmul + self.trained) * FLOAT

    def at_stage(self, stage: int) -> "Setting":
        """The same at a ZeRO stage, which may have less to offload."""
        return replace(
            self,
            engine="deepspeed",
            stage=stage,
            offload_optimizer=self.offload_optimizer and stage >= 1,
            offload_parameters=self.offload_parameters and stage == 3,
        )


def count_trained(model: ModelConfig, lora: LoraConfig | None) -> int:
    """Parameters that are trained: all, or the adapters alone."""
    return count_parameters(model).total if lora is None else count_adapters(lora, model)


def count_orthogonal(model: ModelConfig, lora: LoraConfig | None, optimizer: str) -> int:
    """Of them those that Muon updates: they keep one moment, not two."""
    if optimizer != "muon":
        return 0
    counts = count_parameters(model)
    if lora is not None:
        return count_adapters(lora.model_copy(update={"dora": False}), model)
    return counts.blocks_matmul + counts.projections


def setting_of(
    config: TrainConfig, model: ModelConfig, precision: str, device: Literal["cpu", "cuda"], world_size: int
) -> Setting:
    """The setting of a run with micro-batches of one row, before ``with_rows``.

    Args:
        config: Settings of training.
        model: Sizes, with the vocabulary known.
        precision: What it computes in.
        device: Where.
        world_size: Ranks.
    """
    zero = config.engine.kind == "deepspeed"
    return Setting(
        model=model,
        optimizer=config.optimizer.kind,
        engine=config.engine.kind,
        stage=config.engine.zero_stage if zero else 0,
        offload_optimizer=config.engine.offload_optimizer,
        offload_parameters=config.engine.offload_parameters,
        world_size=world_size,
        device=device,
        shape=Shape(1, config.seq_len, precision, config.activation_checkpointing, config.document_mask),
        micro_batches=1,
        snapshot=config.checkpoint.asynchronous,
        lora=config.lora,
    )


def rank_rows(batch_rows: int, world_size: int) -> int:
    """Rows of a global batch that each rank takes."""
    return -(-batch_rows // world_size)


def with_rows(setting: Setting, micro_batch_size: int, seq_len: int, batch_rows: int) -> Setting:
    """The setting for a stage of a run.

    Args:
        setting: Of the run.
        micro_batch_size: Rows of a micro-batch, at most.
        seq_len: Tokens of a row.
        batch_rows: Rows of the global batch.
    """
    mine = rank_rows(batch_rows, setting.world_size)
    rows = min(micro_batch_size, mine)
    return replace(setting, shape=replace(setting.shape, rows=rows, seq_len=seq_len), micro_batches=-(-mine // rows))


def settings_of(setting: Setting, shapes: Iterable[tuple[int, int]], rows: Mapping[int, int]) -> list[Setting]:
    """The setting of each stage of a run.

    Args:
        setting: Of the run.
        shapes: Tokens of a row and rows of the global batch of each stage.
        rows: Rows of a micro-batch, at most, by the tokens of a row.
    """
    return [with_rows(setting, rows[seq_len], seq_len, batch_rows) for seq_len, batch_rows in shapes]


def largest(settings: Sequence[Setting]) -> Setting:
    """Of the stages of a run, the one whose micro-batches hold most tokens; of those the longest rows."""
    return max(settings, key=lambda setting: (setting.shape.rows * setting.shape.seq_len, setting.shape.seq_len))
