"""Trials as configs: a sweep's settings laid over the run file, checked before anything runs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from rayllm.core.config import ConfigModel
from rayllm.core.config_problems import describe, suggest_path
from rayllm.core.config_source import Source, set_path
from rayllm.core.errors import ConfigError
from rayllm.tune.space import Settings

Model = TypeVar("Model", bound=ConfigModel)


@dataclass(frozen=True)
class Trial:
    """One training of a sweep.

    Attributes:
        index: Its number.
        settings: The dotted settings that make it differ from the run file.
    """

    index: int
    settings: Settings

    @property
    def name(self) -> str:
        """Name of the trial and its directory."""
        return f"trial-{self.index:03d}"


def check_paths(paths: Iterable[str], known: Sequence[str], where: str) -> None:
    """Refuse settings that trials do not read.

    Args:
        paths: Dotted settings.
        known: All settings that a trial reads; ``*`` stands for a free key or an index.
        where: The section that names them.

    Raises:
        ConfigError: Naming every unknown setting, with the nearest known one.
    """
    problems = [
        f"`{path}` is not a setting of a trial{suggest_path(tuple(path.split('.')), list(known))}"
        for path in paths
        if not any(_fits(pattern, path) for pattern in known)
    ]
    if problems:
        raise ConfigError("; ".join(problems), where=where)


def _fits(pattern: str, path: str) -> bool:
    names, parts = pattern.split("."), path.split(".")
    return len(names) == len(parts) and all(name in ("*", part) for name, part in zip(names, parts, strict=True))


def apply_settings(config: Model, settings: Settings) -> Model:
    """A config with some settings laid over it, checked as a whole.

    Raises:
        ValidationError: As pydantic says it; ``trial_configs`` says it better.
    """
    return type(config).model_validate(_lay(config, settings))


def current(config: ConfigModel, paths: Iterable[str]) -> Settings:
    """What a config has for some dotted settings; those that are not there are left out."""
    tree, found = config.model_dump(mode="json"), {}
    for path in paths:
        value: Any = tree
        for part in path.split("."):
            value = _part(value, part)
        if value is not _ABSENT:
            found[path] = value
    return found


_ABSENT = object()


def _part(tree: Any, name: str) -> Any:
    if isinstance(tree, dict):
        return tree.get(name, _ABSENT)
    if isinstance(tree, list) and name.isdigit() and int(name) < len(tree):
        return tree[int(name)]
    return _ABSENT


def trial_configs(config: Model, trials: Sequence[Trial]) -> list[Model]:
    """The config of every trial.

    Raises:
        ConfigError: With every trial whose settings make no valid config.
    """
    configs, problems = [], []
    for trial in trials:
        try:
            configs.append(apply_settings(config, trial.settings))
        except ValidationError as error:
            lines = describe(error, Source(tree=_lay(config, trial.settings)), type(config))
            settings = ", ".join(f"{path}={value}" for path, value in trial.settings.items())
            problems += [f"{trial.name} ({settings}): {line.removeprefix('config: ')}" for line in lines]
    if problems:
        raise ConfigError("some trials of the sweep make no valid config\n" + "\n".join(f"  {p}" for p in problems))
    return configs


def _lay(config: ConfigModel, settings: Settings) -> dict[str, Any]:
    tree = config.model_dump(mode="json")
    for path, value in settings.items():
        tree = set_path(tree, path.split("."), value)
    return tree
