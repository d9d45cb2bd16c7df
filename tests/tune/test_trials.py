import pytest
from pydantic import Field, model_validator

from rayllm.core.config import ConfigModel
from rayllm.core.config_problems import field_paths
from rayllm.core.errors import ConfigError
from rayllm.tune.trials import Trial, apply_settings, check_paths, current, trial_configs


class Stage(ConfigModel):
    weights: dict[str, float] | str = Field("natural", description="Weights.")


class Optimizer(ConfigModel):
    lr: float = Field(0.1, gt=0, description="Rate.")
    steps: int = Field(10, description="Steps.")


class Run(ConfigModel):
    optimizer: Optimizer = Field(Optimizer(), description="Optimizer.")
    curriculum: list[Stage] = Field([Stage(), Stage()], description="Stages.")
    warmup: int = Field(5, description="Steps.")

    @model_validator(mode="after")
    def _fits(self) -> "Run":
        if self.warmup > self.optimizer.steps:
            raise ValueError("warmup is longer than the run")
        return self


KNOWN = field_paths(Run)


def test_settings_are_laid_over_the_run_file_by_path():
    made = apply_settings(Run(), {"optimizer.lr": 0.5, "curriculum.1.weights": {"a": 0.25, "b": 0.75}})
    assert made.optimizer == Optimizer(lr=0.5)
    assert made.curriculum == [Stage(), Stage(weights={"a": 0.25, "b": 0.75})]


def test_known_paths_pass_and_unknown_ones_are_answered_with_the_nearest():
    check_paths(["optimizer.lr", "curriculum.1.weights", "warmup"], KNOWN, "tune.space")
    with pytest.raises(ConfigError, match=r"Did you mean `optimizer\.lr`") as caught:
        check_paths(["optimizer.lrr", "warmpu"], KNOWN, "tune.space")
    assert "Did you mean `warmup`" in str(caught.value)
    assert caught.value.where == "tune.space"


def test_every_invalid_trial_is_named_with_its_value():
    trials = [Trial(0, {}), Trial(1, {"optimizer.lr": -2}), Trial(2, {"optimizer.steps": 1})]
    with pytest.raises(ConfigError) as caught:
        trial_configs(Run(), trials)
    text = str(caught.value)
    assert "trial-001 (optimizer.lr=-2): `optimizer.lr` is -2: input should be greater than 0" in text
    assert "trial-002 (optimizer.steps=1)" in text
    assert "warmup is longer than the run" in text
    assert "trial-000" not in text


def test_what_a_config_has_for_a_setting_is_found_where_it_is_there():
    config = Run(curriculum=[Stage(weights={"a": 1.0})])
    paths = ["optimizer.lr", "curriculum.0.weights", "curriculum.0.weights.a", "curriculum.7.weights", "optimizer.no"]
    assert current(config, paths) == {
        "optimizer.lr": 0.1,
        "curriculum.0.weights": {"a": 1.0},
        "curriculum.0.weights.a": 1.0,
    }
