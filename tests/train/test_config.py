import pytest
from pydantic import ValidationError

from rayllm.train.config import EngineConfig, TrainConfig


def test_compiling_is_refused_where_blocks_cannot_be_compiled() -> None:
    sharded = EngineConfig(zero_stage=3)
    with pytest.raises(ValidationError, match="ZeRO stage 3"):
        TrainConfig(max_steps=1, compile=True, engine=sharded)
    with pytest.raises(ValidationError, match="selective"):
        TrainConfig(max_steps=1, compile=True, activation_checkpointing="selective")
    assert TrainConfig(max_steps=1, engine=sharded).compile == "auto"
    assert TrainConfig(max_steps=1, compile=True, engine=EngineConfig(kind="torch", zero_stage=3)).compile is True
