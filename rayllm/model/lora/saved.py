"""What a checkpoint of adapters says beside them: their settings, and the base that they belong to."""

from pydantic import BaseModel, ConfigDict, ValidationError

from rayllm.core import storage
from rayllm.core.errors import ArtifactDamaged, ConfigError
from rayllm.model.lora.config import LoraConfig
from rayllm.model.saved import first_problem

#: The weights of such a checkpoint, in place of a whole model's.
ADAPTERS = "adapters.safetensors"
NOTE = "lora.json"


class AdapterNote(BaseModel):
    """The base of adapters.

    Attributes:
        lora: Settings of the adapters.
        base: Where the base lies, as in ``train.init``: ``from_hf:URI`` or ``from_checkpoint:URI``.
        sha256: Of the base's weights, see ``interchange.base``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    lora: LoraConfig
    base: str
    sha256: str


def read_note(uri: str) -> AdapterNote | None:
    """The note in a checkpoint; None where the checkpoint holds a whole model.

    Raises:
        ArtifactDamaged: If it cannot be read.
    """
    where = storage.join(uri, NOTE)
    if not storage.exists(where):
        return None
    try:
        return AdapterNote.model_validate_json(storage.read_bytes(where))
    except ValidationError as error:
        raise ArtifactDamaged(
            "a checkpoint does not say what its adapters belong to",
            where=where,
            why=first_problem(error),
            fix="it may be from another version of rayllm; use the one that its manifest names",
        ) from error


def refuse_adapters(uri: str, what: str) -> None:
    """Refuse a checkpoint that holds adapters where a whole model is needed.

    Args:
        uri: The checkpoint.
        what: Needs one, such as ``train.init``.

    Raises:
        ConfigError: If it does.
    """
    if storage.exists(storage.join(uri, NOTE)):
        raise ConfigError(
            f"{what} needs a whole model, and this checkpoint holds adapters",
            where=uri,
            fix=f"make one of both first: `rayllm merge {uri} OUTPUT`",
        )
