"""The config loader keeps its promises: bases, overrides, numbers, and every problem at once with its place."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from rayllm.core.config import RUNTIME, ConfigModel, Count, load_config, parse_count, to_yaml
from rayllm.core.errors import ConfigError


class AdamW(ConfigModel):
    kind: Literal["adamw"] = Field("adamw", description="AdamW.")
    lr: float = Field(1e-3, gt=0, description="Learning rate.")
    betas: tuple[float, float] = Field((0.9, 0.95), description="Decay rates.")


class Muon(ConfigModel):
    kind: Literal["muon"] = Field("muon", description="Muon.")
    momentum: float = Field(0.95, description="Momentum.")


class Train(ConfigModel):
    optimizer: Annotated[AdamW | Muon, Field(discriminator="kind")] = Field(AdamW(), description="Optimiser.")
    max_steps: int = Field(10, ge=1, description="Steps.")
    warmup_steps: int = Field(0, ge=0, description="Steps.")
    precision: Literal["fp32", "bf16", "auto"] = Field("auto", description="Precision.")
    compile: bool = Field(False, description="Whether to compile.", json_schema_extra=RUNTIME)

    @model_validator(mode="after")
    def _warm_up_ends(self) -> "Train":
        if self.warmup_steps > self.max_steps:
            raise ValueError("set train.warmup_steps to at most train.max_steps")
        return self


class Run(ConfigModel):
    name: str = Field(..., description="Name.")
    tokens: Count = Field(1000, ge=1, description="Budget.")
    note: str = Field("", description="Text.")
    sources: dict[str, AdamW] = Field({}, description="Anything by name.")
    train: Train = Field(Train(), description="Training.")


def _write(directory: Path, **files: str) -> str:
    for name, text in files.items():
        (directory / f"{name}.yaml").write_text(text)
    return str(directory / f"{next(iter(files))}.yaml")


def _problems(path: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides, Run)
    assert caught.value.exit_code == 2
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def test_a_base_is_inherited_by_the_file_and_by_a_section(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        run="base: parent.yaml\nname: child\ntrain:\n  base: part.yaml\n  max_steps: 7\n",
        parent="name: parent\nnote: kept\ntrain:\n  warmup_steps: 2\n",
        part="max_steps: 5\nprecision: bf16\n",
    )
    config = load_config(path, [], Run)
    assert (config.name, config.note) == ("child", "kept")
    assert config.train == Train(max_steps=7, warmup_steps=2, precision="bf16")


def test_a_base_is_found_beside_the_file_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "middle.yaml").write_text("base: ../root.yaml\nname: middle\n")
    path = _write(tmp_path, run="base: deep/middle.yaml\n", root="note: from the root\n")
    assert load_config(path, [], Run).note == "from the root"


def test_bases_in_a_circle_are_named_in_order(tmp_path: Path) -> None:
    path = _write(tmp_path, a="base: b.yaml\nname: x\n", b="base: a.yaml\n")
    assert any("a.yaml -> b.yaml -> a.yaml" in line for line in _problems(path))


def test_a_missing_base_names_the_file_that_wants_it(tmp_path: Path) -> None:
    path = _write(tmp_path, run="base: gone.yaml\nname: x\n")
    (line,) = _problems(path)
    assert "gone.yaml" in line
    assert "named as base by" in line
    assert "run.yaml" in line


def test_null_removes_an_inherited_mapping(tmp_path: Path) -> None:
    path = _write(
        tmp_path, run="base: b.yaml\nsources:\n  web: null\n", b="name: x\nsources:\n  web: {lr: 1}\n  code: {lr: 2}\n"
    )
    assert list(load_config(path, [], Run).sources) == ["code"]


def test_settings_without_a_kind_are_those_of_the_default_kind(tmp_path: Path) -> None:
    path = _write(tmp_path, run="name: x\ntrain:\n  optimizer: {lr: 0.5}\n")
    assert load_config(path, [], Run).train.optimizer == AdamW(lr=0.5)
    (line,) = _problems(path, "train.optimizer.kind=muon")
    assert line == f"{path}:3: `train.optimizer.lr` is not a setting of this `kind`"


def test_another_kind_drops_the_settings_of_the_base_s_kind(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        run="base: b.yaml\ntrain:\n  optimizer: {kind: muon}\n",
        b="name: x\ntrain:\n  optimizer: {kind: adamw, lr: 0.5}\n",
    )
    assert load_config(path, [], Run).train.optimizer == Muon()
    assert load_config(path, ["train.optimizer={kind: adamw, lr: 2}"], Run).train.optimizer == AdamW(lr=2)


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("train.optimizer.lr=3e-4", lambda c: c.train.optimizer.lr == 3e-4),
        ("tokens=10B", lambda c: c.tokens == 10**10),
        ("tokens=8Ki", lambda c: c.tokens == 8192),
        ("tokens=2.5M", lambda c: c.tokens == 2_500_000),
        ("tokens=1e6", lambda c: c.tokens == 1_000_000),
        ("note=yes", lambda c: c.note == "yes"),
        ("note=2024-01-01", lambda c: c.note == "2024-01-01"),
        ("note=a=b", lambda c: c.note == "a=b"),
        ("train.optimizer.betas=[0.8, 0.9]", lambda c: c.train.optimizer.betas == (0.8, 0.9)),
        ("train.optimizer.betas.1=0.99", lambda c: c.train.optimizer.betas == (0.9, 0.99)),
        ("sources.web.lr=1", lambda c: c.sources["web"].lr == 1),
        ("train.compile=true", lambda c: c.train.compile is True),
    ],
)
def test_overrides_set_any_path_and_win(tmp_path: Path, override: str, read) -> None:
    path = _write(tmp_path, run="name: x\ntokens: 5\ntrain:\n  optimizer: {lr: 1, betas: [0.9, 0.95]}\n")
    assert read(load_config(path, [override], Run))


def test_the_same_number_may_be_written_in_the_file(tmp_path: Path) -> None:
    config = load_config(_write(tmp_path, run="name: x\ntokens: 10B\ntrain: {optimizer: {lr: 3e-4}}\n"), [], Run)
    assert (config.tokens, config.train.optimizer) == (10**10, AdamW(lr=3e-4))


def test_all_problems_come_at_once_each_with_file_line_and_fix(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        run=("note: ok\ntokens: 0\nnote: twice\ntrain:\n  base: part.yaml\n  max_step: 5\n  precision: bf61\nlr: 1\n"),
        part="optimizer:\n  kind: adam\n",
    )
    lines = _problems(path, "nonsense", "train.warmup_steps=-1")
    text = "\n".join(lines)
    assert f"{path}:3: `note` is set twice (first on line 1)" in text
    assert "`name` is required and missing" in text
    assert f"{path}:2: `tokens`" in text
    assert f"{path}:6: `train.max_step` is not a setting. Did you mean `train.max_steps`?" in text
    assert f"{path}:7: `train.precision` is 'bf61'; it must be one of fp32, bf16, auto. Did you mean bf16?" in text
    assert f"{tmp_path / 'part.yaml'}:2: `train.optimizer` has kind 'adam'" in text.replace(":1: ", ":2: ")
    assert "Did you mean adamw?" in text
    assert f"{path}:8: `lr` is not a setting. Did you mean" in text
    assert "optimizer.lr" in text
    assert "command line: `nonsense` is not of the form path.to.setting=value" in text
    assert "command line (train.warmup_steps=-1): `train.warmup_steps`" in text
    assert len(lines) == 9


def test_suggestions_keep_the_names_that_the_user_chose(tmp_path: Path) -> None:
    path = _write(tmp_path, run="name: x\nsources:\n  web:\n    bettas: [1, 1]\n    momentom: 1\n    fields: 3\n")
    near, elsewhere, unknown = _problems(path)
    assert near.endswith("`sources.web.bettas` is not a setting. Did you mean `sources.web.betas`?")
    assert elsewhere.endswith("`sources.web.momentom` is not a setting. Did you mean `train.optimizer.momentum`?")
    assert unknown.endswith("`sources.web.fields` is not a setting. Settings here: betas, kind, lr")


def test_cross_field_checks_carry_their_fix(tmp_path: Path) -> None:
    path = _write(tmp_path, run="name: x\ntrain:\n  warmup_steps: 50\n")
    (line,) = _problems(path)
    assert line.endswith("set train.warmup_steps to at most train.max_steps")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("- a\n- b\n", "a config is a mapping"),
        ("name: [1\n", "not valid YAML"),
        ("name: {a: b\n c\n", "not valid YAML"),
        ("name: 5\n", "`name` is 5"),
        ("name: x\ntrain: 3\n", "`train` is 3"),
        ("name: x\ntokens: .nan\n", "`tokens`"),
        ("name: x\ntrain: {optimizer: {lr: .inf}}\n", "lr`"),
        ("name: x\nnote: !!python/object:os.system {}\n", "`note` is {}"),
        ("name: x\nnote: !!python/name:os.system\n", "python/name:os.system cannot read"),
        ("name: x\ntokens: !!int abc\n", "`tokens` is 'abc'"),
        ("name: x\nnote: &a [*a]\n", "an alias contains itself"),
        ("name: x\x00\n", "not valid YAML"),
    ],
)
def test_malformed_files_are_a_config_error_with_a_place(tmp_path: Path, text: str, what: str) -> None:
    path = _write(tmp_path, run=text)
    assert any(what in line and line.startswith(path) for line in _problems(path))


def test_an_unreadable_file_is_a_config_error(tmp_path: Path) -> None:
    assert any("cannot be read" in line for line in _problems(str(tmp_path / "gone.yaml")))
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff\xfe\n")
    assert any("is not UTF-8" in line for line in _problems(str(tmp_path / "latin.yaml")))
    assert any("cannot be read" in line for line in _problems(str(tmp_path)))


def test_configs_are_frozen() -> None:
    config = Run(name="x")
    with pytest.raises(ValueError, match="frozen"):
        config.name = "y"  # pyright: ignore[reportAttributeAccessIssue]


def test_the_resolved_config_loads_back_to_the_same(tmp_path: Path) -> None:
    config = Run(name="ö: {", tokens=7, sources={"a b": AdamW(lr=3e-4)}, train=Train(optimizer=Muon(momentum=0.5)))
    assert load_config(_write(tmp_path, run=to_yaml(config)), [], Run) == config


def test_runtime_settings_stay_out_of_the_identity() -> None:
    one, two = Run(name="x"), Run(name="x", train=Train(compile=True))
    assert one != two
    assert one.identity() == two.identity()
    assert one.identity() != Run(name="x", train=Train(max_steps=11)).identity()


@given(st.integers(1, 10**6), st.sampled_from([("K", 10**3), ("M", 10**6), ("B", 10**9), ("Ki", 2**10), ("Gi", 2**30)]))
def test_counts_are_the_number_times_their_unit(number: int, unit: tuple[str, int]) -> None:
    assert parse_count(f"{number}{unit[0]}") == number * unit[1]


@pytest.mark.parametrize("text", ["10X", "B", "1.5", "-3K", ""])
def test_what_is_no_count_is_refused(tmp_path: Path, text: str) -> None:
    assert any("`tokens`" in line for line in _problems(_write(tmp_path, run=f"name: x\ntokens: '{text}'\n")))
