"""The depth dial: what it derives, and that a run file's own settings always win."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rayllm.cli import main
from rayllm.core.config import load_config, to_yaml
from rayllm.core.errors import ConfigError
from rayllm.model.config import ModelConfig
from rayllm.optim.config import AdamWConfig, GroupConfig, MuonConfig
from rayllm.pipelines.depth import batch_tokens, derive, expand
from rayllm.pipelines.run_config import RunConfig, load_run, stage_config

MODELS = Path(__file__).resolve().parents[2] / "configs" / "model"
SOURCES = {"code": {"kind": "python_stdlib"}}


def run_of(depth: int, **settings: Any) -> RunConfig:
    return RunConfig.model_validate({"name": "t", "sources": SOURCES, "depth": depth, **settings})


def test_depth_12_is_the_model_and_the_rates_that_were_computed_by_hand() -> None:
    run = run_of(12)
    sizes = (run.model.num_layers, run.model.dim, run.model.num_heads, run.model.num_kv_heads, run.model.ffn_dim)
    assert sizes == (12, 768, 6, 6, 3072)
    assert (run.train.global_batch_tokens, run.train.tokens_per_param) == (2**19, 20)
    optimizer = run.train.optimizer
    assert isinstance(optimizer, MuonConfig)
    assert optimizer.lr * optimizer.groups.embedding.lr_scale == pytest.approx(0.45)
    assert optimizer.lr * optimizer.groups.head.lr_scale == pytest.approx(0.012)


@settings(deadline=None, max_examples=20)
@given(depth=st.integers(1, 64))
def test_every_depth_makes_a_valid_run_that_grows_with_it(depth: int) -> None:
    run, next_run = run_of(depth), run_of(depth + 1)
    assert run.model.num_layers == depth
    assert run.model.dim % run.model.num_heads == 0
    assert next_run.model.dim >= run.model.dim
    assert batch_tokens(depth + 1) >= batch_tokens(depth)
    assert run.train.global_batch_tokens % run.train.seq_len == 0


@pytest.mark.parametrize("path", sorted(MODELS.glob("nanochat-d*.yaml")), ids=lambda path: path.stem)
def test_the_presets_are_what_the_dial_derives(path: Path) -> None:
    depth = int(path.stem.removeprefix("nanochat-d"))
    assert load_config(str(path), [], ModelConfig) == run_of(depth).model


def test_own_settings_win_and_what_is_derived_later_follows_them() -> None:
    run = run_of(
        12,
        model={"dim": 512, "feed_forward": "swiglu", "head_dim": 64},
        train={"max_steps": 10, "optimizer": {"lr": 0.04}, "seq_len": 4096},
    )
    assert (run.model.dim, run.model.num_heads, run.model.ffn_dim, run.model.max_seq_len) == (512, 8, 1408, 4096)
    assert run.train.tokens_per_param is None
    assert isinstance(run.train.optimizer, MuonConfig)
    assert run.train.optimizer.lr == 0.04
    assert run.train.optimizer.lr * run.train.optimizer.groups.embedding.lr_scale == pytest.approx(0.45)


def test_another_kind_of_optimizer_gets_none_of_the_dials_rates() -> None:
    run = run_of(12, train={"optimizer": {"kind": "adamw", "lr": 1e-3}})
    assert run.train.optimizer == AdamWConfig(lr=1e-3)


def test_what_the_files_own_choices_leave_without_use_is_not_derived() -> None:
    tied = run_of(12, model={"tie_embeddings": True}).train.optimizer
    assert tied.groups.head == GroupConfig()
    assert tied.groups.embedding != GroupConfig()
    fixed = run_of(12, train={"optimizer": {"width_scaling": "none"}}).train.optimizer
    assert fixed.base_width == MuonConfig().base_width


def test_without_a_depth_nothing_changes() -> None:
    tree = {"name": "t", "model": {"dim": 64}}
    assert expand(tree) == tree


def test_a_resolved_config_with_a_depth_loads_to_itself(tmp_path: Path) -> None:
    run = run_of(8, train={"tokens": 1_000_000})
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(run))
    assert load_run(str(file), []) == run


def test_training_reads_what_was_derived_and_not_the_dial() -> None:
    config = stage_config("train", run_of(8))
    assert "depth" not in type(config).model_fields
    assert config.model.dim == 512  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("depth", [0, -3, "deep", 1.5])
def test_a_depth_that_is_none_is_refused_by_its_name(depth: object, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"name": "t", "sources": SOURCES, "depth": depth, "train": {"max_steps": 1}}))
    with pytest.raises(ConfigError, match="`depth`"):
        load_run(str(file), [])


def test_a_wrong_setting_beside_a_depth_is_found_at_its_line(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("name: t\nsources: {code: {kind: python_stdlib}}\ndepth: 4\nmodel:\n  dim: wide\n")
    with pytest.raises(ConfigError, match=r"run\.yaml:5: `model\.dim`"):
        load_run(str(file), [])


def test_every_derived_setting_has_a_reason_and_says_who_set_it() -> None:
    found = {item.path: item for item in derive(6, {"depth": 6, "model": {"dim": 256}})}
    assert all(item.reason for item in found.values())
    assert [path for path, item in found.items() if item.own] == ["model.dim"]


def test_the_command_shows_values_reasons_and_totals(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["depth", "12", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    values = {item["setting"]: item["value"] for item in found["settings"]}
    assert values["model.dim"] == 768
    assert found["run"]["parameters"] == 2 * 32768 * 768 + 12 * 12 * 768**2
    assert found["run"]["tokens"] == found["run"]["steps"] * 2**19
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"name": "t", "sources": SOURCES, "depth": 12, "model": {"dim": 512}}))
    assert main(["depth", str(file), "depth=4"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "model.dim 512 set by the run file" in shown
    assert "model.num_layers 4 the depth" in shown


def test_a_file_without_a_depth_is_refused_with_what_to_add(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"name": "t", "sources": SOURCES, "train": {"max_steps": 1}}))
    assert main(["depth", str(file)]) == 2
