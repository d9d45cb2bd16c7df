"""What a checkpoint says of its model, beside the weights."""

from pydantic import ValidationError

from rayllm.core import storage
from rayllm.core.errors import ArtifactDamaged
from rayllm.model.config import ModelConfig

CONFIG = "model.json"
STATE = "state.json"


def first_problem(error: ValidationError) -> str:
    """The first field of a file that this version cannot read, and what is wrong with it."""
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return f"{field} is not known here"
    return f"{field}: {first['msg']}" if field else first["msg"]


def read_config(uri: str) -> ModelConfig:
    """The model's sizes, as a checkpoint tells them."""
    where = storage.join(uri, CONFIG)
    try:
        return ModelConfig.model_validate_json(storage.read_bytes(where))
    except FileNotFoundError as error:
        raise ArtifactDamaged("a checkpoint lacks its model's sizes", where=where, why="the file is missing") from error
    except ValidationError as error:
        raise ArtifactDamaged(
            "the sizes of a checkpoint's model cannot be read",
            where=where,
            why=first_problem(error),
            fix="it may be from another version of rayllm; use the one that its manifest names",
        ) from error
