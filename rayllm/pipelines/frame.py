"""The settings that every stage shares: name, storage, seed, and where Ray runs."""

from pydantic import Field, field_validator

from rayllm.core.config import RUNTIME, ConfigModel


class RayConfig(ConfigModel):
    """Where Ray runs and what it may use."""

    address: str = Field(
        default="local",
        description="`local` starts Ray on this machine; `auto` joins the cluster of the job; or an address.",
    )
    num_cpus: int | None = Field(
        default=None, ge=1, description="CPUs of a local Ray; all of the machine's by default."
    )
    object_store_bytes: int | None = Field(
        default=None, ge=80_000_000, description="Object store of a local Ray, in bytes; Ray chooses by default."
    )


class Frame(ConfigModel):
    """What every stage may read; only the seed shapes results."""

    name: str = Field(
        default=..., description="Name of the run; its artifacts go below storage/name.", json_schema_extra=RUNTIME
    )
    storage: str = Field(
        default="runs", description="Directory or URI that holds all artifacts.", json_schema_extra=RUNTIME
    )
    seed: int = Field(default=1234, ge=0, description="The seed that every other seed is derived from.")
    ray: RayConfig = Field(default=RayConfig(), description="Where Ray runs.", json_schema_extra=RUNTIME)

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not value.replace("-", "").replace("_", "").replace(".", "").isalnum() or value == "data":
            raise ValueError("use letters, digits, `-`, `_` and `.`; `data` is taken by the shared artifacts")
        return value
