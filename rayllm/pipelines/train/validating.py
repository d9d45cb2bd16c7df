"""Validation in the loop: the current weights on every validation domain."""

import torch

from rayllm.data.batches import validation_batches
from rayllm.data.shards.packed import PackedData
from rayllm.evals.scoring import DomainScore, metrics, score_batches
from rayllm.pipelines.train import Config
from rayllm.pipelines.train.comparing import Comparing
from rayllm.train import collective
from rayllm.train.engine import Engine
from rayllm.train.preferences import preference_metrics


def validate(
    config: Config, packed: PackedData, engine: Engine, comparing: Comparing | None = None
) -> dict[str, float]:
    """Score every validation domain with the current weights; all ranks call it together.

    Args:
        config: The run.
        packed: Its data.
        engine: Holds the weights.
        comparing: What a run compares replies with: of held-out pairs, the preferred replies count as text, and both
            are compared.
    """
    settings = config.train
    token_bytes = torch.from_numpy(packed.codec().token_bytes.astype("int64")).to(engine.device)
    scores: dict[str, DomainScore] = {}
    compared: dict[str, torch.Tensor] = {}
    engine.module.eval()
    for name in packed.domains("validation"):
        if comparing and name in comparing.validation:
            scores[name], compared[name] = comparing.score(name, engine, settings, token_bytes)
            continue
        batches = validation_batches(
            packed.stream("validation", name),
            seq_len=settings.seq_len,
            rows_per_batch=settings.micro_batch_rows,
            separator_id=packed.separator_id,
            max_tokens=settings.validation.max_tokens,
            world_size=engine.world_size,
            rank=engine.rank,
        )
        score = score_batches(engine.token_losses, (batch.to(engine.device) for batch in batches), token_bytes)
        scores[name] = DomainScore.from_tensor(collective.sum_over_ranks(score.to_tensor()))
    engine.module.train()
    return metrics(scores) | (preference_metrics(compared) if compared else {})
