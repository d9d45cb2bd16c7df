import pytest
from pydantic import ValidationError

from rayllm.train.config import EngineConfig, TrainConfig


def test_compiling_and_sharded_parameters_exclude_each_other() -> None:
    sharded = EngineConfig(zero_stage=3)
    with pytest.raises(ValidationError, match="ZeRO stage 3"):
        TrainConfig(max_steps=1, compile=True, engine=sharded)
    assert TrainConfig(max_steps=1, engine=sharded).compile == "auto"
    assert TrainConfig(max_steps=1, compile=True, engine=EngineConfig(kind="torch", zero_stage=3)).compile is True
