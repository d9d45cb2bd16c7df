"""YAML to a typed, frozen config; all problems of a file reported at once.

In: a YAML file (with ``base:``) and dotted overrides. Out: a ``ConfigModel``. Reading the YAML is in
``config_source``, wording the problems in ``config_problems``.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator
from pydantic.config import JsonDict

from rayllm.core.config_problems import describe
from rayllm.core.config_source import Source, read_source
from rayllm.core.errors import ConfigError

#: Mark of a field that changes how a stage runs but not what it makes: kept out of the content hash.
RUNTIME: JsonDict = {"runtime": True}

_COUNT = re.compile(r"^\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*(K|M|B|T|Ki|Mi|Gi|Ti)?\s*$")
_FACTORS = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


class ConfigModel(BaseModel):
    """Base of every config: frozen, unknown keys refused, a description on every field."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _kind_of_default(cls, data: Any) -> Any:
        """Read ``optimizer: {lr: 1}`` as settings of the default kind; pydantic alone would want ``kind:`` repeated."""
        if not isinstance(data, dict):
            return data
        kinds = {name: getattr(field.default, "kind", None) for name, field in cls.model_fields.items()}
        lacking = [name for name, kind in kinds.items() if kind and _lacks_kind(data.get(name))]
        return {**data, **{name: {"kind": kinds[name], **data[name]} for name in lacking}} if lacking else data

    def identity(self) -> dict[str, Any]:
        """The JSON form of the fields that shape a stage's result; those marked ``RUNTIME`` are left out."""
        return {
            name: _identity(getattr(self, name))
            for name, field in type(self).model_fields.items()
            if not (isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("runtime"))
        }


def _lacks_kind(value: Any) -> bool:
    return isinstance(value, dict) and "kind" not in value


def _identity(value: Any) -> Any:
    if isinstance(value, ConfigModel):
        return value.identity()
    if isinstance(value, dict):
        return {str(key): _identity(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_identity(item) for item in value]
    return value


def parse_count(value: object) -> object:
    """Read ``10B``, ``2.5M`` or ``8Ki`` as a whole number; other values pass through to pydantic."""
    if isinstance(value, str) and (match := _COUNT.match(value)):
        number = float(match[1].replace("_", "")) * _FACTORS.get(match[2] or "", 1)
        return int(number) if number == int(number) else value
    return int(value) if isinstance(value, float) and value == int(value) else value


#: A whole number that may be written ``10B`` or ``8Ki``.
Count = Annotated[int, BeforeValidator(parse_count)]

Model = TypeVar("Model", bound=ConfigModel)


def load_config(path: str, overrides: Sequence[str], schema: type[Model]) -> Model:
    """Read and check a config file.

    Args:
        path: The YAML file.
        overrides: Dotted settings such as ``train.optimizer.lr=3e-4``, applied last.
        schema: What the file must hold.

    Raises:
        ConfigError: With every problem found, each with its file and line.
    """
    return validate_source(read_source(path, overrides), schema, path)


def validate_source(source: Source, schema: type[Model], name: str) -> Model:
    """Check what was read against a schema; see ``load_config``."""
    problems = list(source.problems)
    try:
        config = schema.model_validate(source.tree)
    except ValidationError as error:
        problems += describe(error, source, schema)
        config = None
    if problems or config is None:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError(f"{name}: {count}\n" + "\n".join(f"  {problem}" for problem in problems))
    return config


def to_yaml(config: ConfigModel) -> str:
    """The resolved config as YAML that loads back to the same config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)
