"""Settings of adapters: what is refused, with the reason and the way out."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from small_session import make_config

from rayllm.model.config import ModelConfig
from rayllm.model.flops import count_parameters, training_flops_per_token
from rayllm.model.lora.config import LoraConfig, count_adapters


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"init": None}, "set `train.init` to the base"),
        ({"precision": "fp8"}, "set `train.precision: bf16`"),
        (
            {"lora": {"targets": ["q_proj", "c_attn"]}},
            "c_attn matches no matrix of the model; there are q_proj",
        ),
        ({"lora": {"targets": ["model.layers.7.*"]}}, "in model.layers.0 to 1"),
        ({"lora": {"targets": []}}, "at least 1 item"),
        ({"lora": {"rank": 0}}, "greater than or equal to 1"),
    ],
)
def test_adapters_that_cannot_be_are_refused(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    settings = {"init": "from_checkpoint:base", "lora": {}} | changes
    with pytest.raises(ValidationError, match=told):
        make_config(tmp_path, **settings)


def test_another_rank_is_another_run_of_the_same_data(tmp_path: Path) -> None:
    one, two = (make_config(tmp_path, init="from_checkpoint:base", lora={"rank": rank}) for rank in (4, 8))
    assert one.identity() != two.identity()


def test_frozen_matrices_have_no_gradient_to_compute() -> None:
    model = ModelConfig(vocab_size=64, dim=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_dim=64, max_seq_len=64)
    lora = LoraConfig(rank=4)
    saved = training_flops_per_token(model, 64) - training_flops_per_token(model, 64, lora)
    assert saved == 2 * count_parameters(model).matmul - 6 * count_adapters(lora, model)
