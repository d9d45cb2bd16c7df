"""Settings of low-rank adapters, and which matrices of a model they mean; needs no torch."""

import math
from fnmatch import fnmatchcase

from pydantic import Field

from rayllm.core.config import ConfigModel
from rayllm.model.config import ModelConfig
from rayllm.model.matrices import block_matrices

#: The pattern that matches every matrix.
ALL = "all"


class LoraConfig(ConfigModel):
    """Adapters on matrices of the blocks: ``W x + scale · B (A x)``, of which only A and B are trained.

    Source: Hu et al. 2021, LoRA, arXiv:2106.09685, section 4.1.
    """

    rank: int = Field(default=8, ge=1, description="Rows of A and columns of B.")
    alpha: float = Field(default=16.0, gt=0, description="Scale of the adapters' output: alpha / rank.")
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Share of the adapters' inputs that are zeroed while training."
    )
    targets: tuple[str, ...] = Field(
        default=(ALL,),
        min_length=1,
        description="Adapted matrices, by their names in Hugging Face's models: patterns of `q_proj`, `k_proj`, "
        "`v_proj`, `o_proj`, `gate_proj`, `up_proj`, `down_proj`, or of whole names such as `model.layers.0.*`; `all`.",
    )
    rslora: bool = Field(
        default=False, description="Scale by alpha / sqrt(rank), so that high ranks learn as fast (arXiv:2312.03732)."
    )
    dora: bool = Field(
        default=False, description="Train the length of each row of the adapted matrices too (arXiv:2402.09353)."
    )

    @property
    def scale(self) -> float:
        """Factor on the adapters' output.

        Source: Kalajdzievski 2023, A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA, arXiv:2312.03732.
        """
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


def adapted_matrices(lora: LoraConfig, model: ModelConfig) -> dict[str, list[str]]:
    """The linear layers that get adapters, by their full names, and which of their matrices, from the top."""
    found = {
        name: [matrix for matrix, whole in matrices.items() if any(_matches(matrix, whole, p) for p in lora.targets)]
        for name, matrices in _matrices(model).items()
    }
    return {name: chosen for name, chosen in found.items() if chosen}


def idle_targets(lora: LoraConfig, model: ModelConfig) -> list[str]:
    """The patterns that match no matrix of the model."""
    everything = [pair for matrices in _matrices(model).values() for pair in matrices.items()]
    return [p for p in lora.targets if not any(_matches(matrix, whole, p) for matrix, whole in everything)]


def matrix_names(model: ModelConfig) -> list[str]:
    """The names that targets can have, once each."""
    return [name for matrices in block_matrices(model).values() for name in matrices]


def count_adapters(lora: LoraConfig, model: ModelConfig) -> int:
    """Trained parameters: ``rank (rows + columns)`` for each matrix, and its rows with DoRA."""
    columns = {"self_attn.o_proj": model.query_dim, "mlp.down_proj": model.ffn_dim}
    total = 0
    for name, chosen in adapted_matrices(lora, model).items():
        layer = name.split(".", 3)[3]  # behind model.layers.0
        rows = [block_matrices(model)[layer][matrix] for matrix in chosen]
        total += lora.rank * (sum(rows) + len(rows) * columns.get(layer, model.dim)) + lora.dora * sum(rows)
    return total


def _matrices(model: ModelConfig) -> dict[str, dict[str, str]]:
    """For each linear layer of the blocks, by full name: its matrices, with their full names in Hugging Face's."""
    return {
        f"model.layers.{layer}.{name}": {
            matrix: f"model.layers.{layer}.{name.partition('.')[0]}.{matrix}" for matrix in matrices
        }
        for layer in range(model.num_layers)
        for name, matrices in block_matrices(model).items()
    }


def _matches(matrix: str, whole: str, pattern: str) -> bool:
    return pattern == ALL or fnmatchcase(matrix, pattern) or fnmatchcase(whole, pattern)
