from typing import Any

import pytest
from pydantic import ValidationError

from rayllm.train.config import BestConfig, EngineConfig, TrainConfig


def test_compiling_is_refused_where_blocks_cannot_be_compiled() -> None:
    sharded = EngineConfig(zero_stage=3)
    with pytest.raises(ValidationError, match="ZeRO stage 3"):
        TrainConfig(max_steps=1, compile=True, engine=sharded)
    with pytest.raises(ValidationError, match="selective"):
        TrainConfig(max_steps=1, compile=True, activation_checkpointing="selective")
    assert TrainConfig(max_steps=1, engine=sharded).compile == "auto"
    assert TrainConfig(max_steps=1, compile=True, engine=EngineConfig(kind="torch", zero_stage=3)).compile is True


DPO: dict[str, Any] = {
    "max_steps": 1,
    "objective": {"kind": "dpo"},
    "init": "from_checkpoint:base",
    "packing": "best_fit",
}


@pytest.mark.parametrize("best", [{}, {"checkpoint": {"keep_last": 3}}, {"checkpoint": {"best": {"mode": "min"}}}])
def test_where_replies_are_compared_the_best_is_the_one_that_prefers_best(best: dict[str, Any]) -> None:
    config = TrainConfig.model_validate(DPO | best | {"guards": {"early_stopping": {"patience": 2}}})
    assert config.checkpoint.best is not None
    assert config.checkpoint.best.metric == "mean_preference_loss"
    assert config.guards.early_stopping is not None
    assert (config.guards.early_stopping.metric, config.guards.early_stopping.patience) == ("mean_preference_loss", 2)
    assert TrainConfig.model_validate(config.model_dump()) == config


def test_another_metric_that_is_named_counts_and_so_does_none() -> None:
    asked = {"best": {"metric": "mean_bits_per_byte"}}
    assert TrainConfig.model_validate(DPO | {"checkpoint": asked}).checkpoint.best == BestConfig()
    assert TrainConfig.model_validate(DPO | {"checkpoint": {"best": None}}).checkpoint.best is None
    assert TrainConfig(max_steps=1).checkpoint.best == BestConfig(metric="mean_bits_per_byte")
