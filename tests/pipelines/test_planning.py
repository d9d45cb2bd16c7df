"""A run's plan, from its config to the tokens that training counts."""

import json
from pathlib import Path

import pytest
from packing_fixture import make_packed

from rayllm.core.errors import ConfigError
from rayllm.data.mixing.mixture import Mixture
from rayllm.data.mixing.plan import Plan
from rayllm.data.shards.packed import PackedData
from rayllm.model.config import ModelConfig
from rayllm.model.flops import count_parameters
from rayllm.pipelines.train import Config
from rayllm.pipelines.train.planning import plan_packed, plan_run
from rayllm.pipelines.train.session import train_alone

MODEL = {"dim": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "ffn_dim": 32, "max_seq_len": 32}
SIZES = {"code": 10**7, "math": 10**7}


def make_config(**train) -> Config:
    given = {"seq_len": 32, "global_batch_tokens": 512, "precision": "fp32"} | train
    curriculum = [
        {"steps": 3},
        {"frac": 1, "weights": {"code": 0, "math": 1}, "interpolate": "linear", "global_batch_tokens": 1024},
    ]
    tree = {"name": "small", "mixture": {"weights": {"code": 1, "math": 0}}, "model": MODEL}
    return Config.model_validate({**tree, "curriculum": curriculum, "train": given})


def test_tokens_for_each_parameter_count_every_parameter_of_the_model_with_its_vocabulary() -> None:
    config = make_config(tokens_per_param=20)
    for vocab_size in (256, 8192):
        model = config.model.with_vocab(vocab_size)
        wanted = 20 * count_parameters(model).total
        assert count_parameters(model).total > count_parameters(model).non_embedding + vocab_size * 16 - 1
        assert abs(plan_run(config, SIZES, model).total_tokens - wanted) <= 512


def test_without_a_vocabulary_only_a_budget_by_parameters_is_refused() -> None:
    assert plan_run(make_config(max_steps=9), SIZES, ModelConfig()).total_steps == 9
    with pytest.raises(ConfigError, match="vocabulary is not known"):
        plan_run(make_config(tokens_per_param=20), SIZES, ModelConfig())


def test_stages_that_do_not_fill_a_known_budget_are_refused_when_the_config_is_read() -> None:
    with pytest.raises(ValueError, match="stage 1 of the run gets no step"):
        make_config(max_steps=3)
    make_config(tokens_per_param=1e-9)  # its budget is known only with the tokenizer


def test_training_reads_what_was_planned_and_logs_the_stage_of_the_curriculum(tmp_path: Path) -> None:
    packed = make_packed(tmp_path / "packed")
    logging = {"every_steps": 1, "tensorboard": False}
    config = make_config(max_steps=20, logging=logging, validation={"max_tokens": 64}, samples={"max_new_tokens": 1})
    train_alone(config, packed.uri, str(tmp_path / "run"))
    plan = plan_packed(config, PackedData.open(packed.uri))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    assert len(plan.stages) > 3
    assert [line["stage"] for line in steps] == [0] * 3 + [1] * 17
    mixture = Mixture(plan)
    for line in steps:
        read = mixture.domain_tokens(line["step"])
        assert {name: line[f"tokens/{name}"] for name in read} == read
    assert Plan.from_json((tmp_path / "run" / "plan.json").read_text()) == plan
