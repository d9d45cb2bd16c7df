"""``rayllm mix plan``: what is printed is what training would read."""

import json
import math
from pathlib import Path

import pytest
import yaml
from packing_fixture import make_packed

from rayllm.cli import main
from rayllm.commands.mix import read_sizes
from rayllm.core.errors import ConfigError
from rayllm.data.mixing.mixture import Mixture
from rayllm.data.shards.packed import PackedData
from rayllm.model.flops import count_parameters
from rayllm.pipelines import existing
from rayllm.pipelines.run_config import load_run
from rayllm.pipelines.train.planning import plan_packed

Capture = pytest.CaptureFixture[str]

RUN = {
    "name": "tiny",
    "sources": {"code": {"kind": "python_stdlib"}, "math": {"kind": "synthetic_math"}},
    "fit_tokenizer": {"vocab_size": 512},
    "model": {"dim": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "ffn_dim": 64, "max_seq_len": 64},
    "mixture": {"weights": {"code": 3, "math": 1}},
    "curriculum": [
        {"frac": 0.5, "seq_len": 32},
        {"frac": 0.5, "weights": {"code": 0, "math": 1}, "interpolate": "linear"},
    ],
    "train": {"seq_len": 64, "global_batch_tokens": 1024, "max_steps": 200},
}


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**RUN, "storage": str(tmp_path / "runs")}))
    return str(path)


def planned(capsys: Capture, *arguments: str) -> dict:
    assert main(["mix", "plan", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_forecast_is_what_training_reads(file: str, tmp_path: Path, capsys: Capture, monkeypatch) -> None:
    packed = make_packed(tmp_path / "packed")
    monkeypatch.setattr(existing, "find_artifacts", lambda config, verb, file: {verb: packed})
    found = planned(capsys, file)
    plan = plan_packed(load_run(file, []), PackedData.open(packed.uri))
    assert found["source"] == packed.uri
    assert (found["steps"], found["tokens"]) == (plan.total_steps, plan.total_tokens) == (200, 200 * 1024)
    read = Mixture(plan).domain_tokens(plan.total_steps)
    pieces = len(plan.stages)
    for name, domain in found["domains"].items():
        assert abs(domain["tokens"] - read[name]) <= 64 * pieces
        assert domain["epochs"] == pytest.approx(plan.epochs()[name])
        assert domain["unique_tokens"] == plan.domain_tokens[name]
        assert sum(stage["domains"][name]["tokens"] for stage in found["stages"]) == domain["tokens"]
        assert sum(stage["domains"][name]["epochs"] for stage in found["stages"]) == pytest.approx(domain["epochs"])
    first, second = found["stages"]
    assert (first["seq_len"], first["batch_rows"], first["table_rows"]) == (32, 32, 1)
    assert first["domains"]["code"]["weight"] == 0.75
    assert second["table_rows"] > 1
    assert 0.6 < second["domains"]["code"]["first_weight"] < 0.75
    assert second["domains"]["code"]["last_weight"] < 0.1
    assert sum(domain["weight"] for domain in found["domains"].values()) == pytest.approx(1, abs=1e-4)


def test_tables_name_every_stage_and_domain_with_what_is_planned(file: str, capsys: Capture) -> None:
    assert main(["mix", "plan", file, "--sizes", "code=100K,math=1K"]) == 0
    text = capsys.readouterr().out
    words = " ".join(text.split())
    assert "Sizes from the command line. 200 steps, 204,800 tokens: " in words
    assert " 0 code 75.0% 76,800 0.77 math 25.0% 25,600 " in words
    assert "move in" in words
    assert "all 101,000 100.0% 204,800" in words
    assert "warning: domain math is read" in words


def test_a_budget_by_parameters_counts_all_of_them(file: str, capsys: Capture) -> None:
    budget = ("train.max_steps=null", "train.tokens_per_param=20", "train.global_batch_tokens=64")
    found = planned(capsys, file, "--sizes", "code=1B,math=1B", *budget)
    model = load_run(file, []).model.with_vocab(512)
    parameters = count_parameters(model).total
    assert parameters == 512 * 32 + 2 * (32 * (2 * 32 + 2 * 16) + 3 * 32 * 64 + 2 * 32 + 2 * 8) + 32
    assert found["budget"] == {
        "tokens_per_param": 20,
        "parameters": parameters,
        "non_embedding_parameters": parameters - 512 * 32,
        "vocab_size": 512,
    }
    assert found["tokens"] == round(20 * parameters / 64) * 64


def test_what_an_adaptive_mixture_means_is_said(file: str, capsys: Capture) -> None:
    adaptive = ("curriculum=[]", "mixture.adaptive.reference={code: 1.0}", "train.validation.every_steps=25")
    found = planned(capsys, file, "--sizes", "code=10M,math=10M", *adaptive)
    (note,) = found["notes"]
    assert "Every 25 steps they move" in note
    assert planned(capsys, file, "--sizes", "code=10M,math=10M")["notes"] == []


def test_redistribution_shows_in_the_weights(file: str, capsys: Capture) -> None:
    sizes = ("--sizes", "code=10M,math=20K", "curriculum=[]")
    plain = planned(capsys, file, *sizes)
    assert plain["domains"]["math"]["epochs"] == pytest.approx(2.56, rel=0.01)
    held = planned(capsys, file, *sizes, "mixture.max_epochs={math: 1.5}", "mixture.cap=redistribute")
    assert 1.4 < held["domains"]["math"]["epochs"] <= 1.5
    assert held["domains"]["code"]["max_epochs"] is None
    assert held["domains"]["math"]["max_epochs"] == 1.5


def test_without_packed_data_the_commands_that_help_are_named(file: str, capsys: Capture) -> None:
    assert main(["mix", "plan", file]) == 3
    told = capsys.readouterr().err
    assert f"rayllm pack {file}" in told
    assert f"rayllm mix plan {file} --sizes code=1B,math=1B" in told


def test_sizes_are_read_in_the_order_of_the_domains() -> None:
    assert read_sizes("b=2.5M, a=10B,c=7", ["a", "b", "c"]) == {"a": 10**10, "b": 2_500_000, "c": 7}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a=1,b", "cannot read 'b'"),
        ("a=1,a=2", "cannot read 'a=2'"),
        ("a=lots", "cannot read 'a=lots'"),
        ("a=1.5", "cannot read 'a=1.5'"),
        ("aa=1,b=1", "did you mean a"),
        ("a=1", "no size is given for b"),
    ],
)
def test_sizes_that_cannot_be_read_are_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_sizes(text, ["a", "b"])


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("curriculum=[{frac: 1, steps: 3}]", "`curriculum.0` : a stage needs exactly one of `frac`, `steps`"),
        ("curriculum=[{frac: 0.9}]", "`curriculum` : the shares `frac` of the curriculum sum to 0.9"),
        ("curriculum=[{steps: 60}]", "the stages of the curriculum hold 60 steps, and the budget is 200"),
        ("curriculum=[{frac: 1, interpolate: linear}]", "`curriculum` : the first stage has `interpolate`"),
        ("mixture.max_epochs={cod: 2}", "mixture.max_epochs: there is no domain 'cod'"),
        ("mixture.cap=drop", "it must be one of warn, redistribute"),
        ("train.tokens_per_param=20", "set exactly one of `train.max_steps`, `train.tokens` and"),
    ],
)
def test_mistakes_are_found_when_the_file_is_read(file: str, setting: str, told: str, capsys: Capture) -> None:
    assert main(["config", "check", file, setting]) == 2
    assert told in capsys.readouterr().err


def test_endless_caps_are_no_number_in_json(file: str, capsys: Capture) -> None:
    found = planned(capsys, file, "--sizes", "code=1B,math=1B", "mixture.max_epochs=null")
    assert all(domain["max_epochs"] is None for domain in found["domains"].values())
    assert all(math.isfinite(domain["epochs"]) for domain in found["domains"].values())
