"""Where a run comes from that goes on from a checkpoint of another one."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rayllm.core.config import ConfigModel


class ForkConfig(ConfigModel):
    """Go on from a checkpoint of another run, as a run of its own; a text alone is the ``source``."""

    source: str = Field(
        ..., min_length=1, description="URI of the other run, of its train artifact, or of one of its checkpoints."
    )
    step: Annotated[int, Field(ge=0)] | Literal["last", "stable"] = Field(
        default="last",
        description="Which of its checkpoints: that of a step, the `last`, or, of a run with `schedule.kind: wsd`, the "
        "last one before its learning rate decays (`stable`); 0 begins where the other run began.",
    )

    @model_validator(mode="before")
    @classmethod
    def _text_is_the_source(cls, data: Any) -> Any:
        return {"source": data} if isinstance(data, str) else data
