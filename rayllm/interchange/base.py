"""The model that another begins with, or that adapters belong to: one of transformers, or a checkpoint of ours.

In: ``from_hf:URI`` or ``from_checkpoint:URI``, as in ``train.init``. Out: the model's config, its parameters one at a
time, and a hash that tells whether they are still the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from rayllm.core import storage
from rayllm.core.artifact import content_hash, record_files
from rayllm.core.checkpoint import find_checkpoint, verify_checkpoint
from rayllm.core.errors import ArtifactDamaged
from rayllm.interchange.hf_import import iter_parameters, read_model_config
from rayllm.interchange.weights import TensorFiles
from rayllm.model.config import ModelConfig
from rayllm.model.lora.saved import refuse_adapters
from rayllm.model.saved import read_config

FROM_HF, FROM_CHECKPOINT = "from_hf:", "from_checkpoint:"


@dataclass(frozen=True)
class Base:
    """A whole model, wherever it lies.

    Attributes:
        uri: Its directory; of a run the checkpoint itself. Local ones are absolute.
        foreign: Whether it is a model of transformers.
    """

    uri: str
    foreign: bool

    @classmethod
    def parse(cls, text: str) -> "Base":
        """Read a setting such as ``train.init``.

        Raises:
            ConfigError: If there is no checkpoint, or one of adapters.
        """
        if text.startswith(FROM_HF):
            return cls(storage.absolute(text.removeprefix(FROM_HF)), foreign=True)
        uri = find_checkpoint(text.removeprefix(FROM_CHECKPOINT), "best")
        refuse_adapters(uri, "the model to begin with")
        return cls(storage.absolute(uri), foreign=False)

    def __str__(self) -> str:
        """The setting that names exactly this model."""
        return f"{FROM_HF if self.foreign else FROM_CHECKPOINT}{self.uri}"

    def config(self) -> ModelConfig:
        """Its sizes and choices."""
        return read_model_config(self.uri) if self.foreign else read_config(self.uri)

    def parameters(self, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
        """Our parameters, float32, one at a time; of a checkpoint after a look at every byte.

        Args:
            config: What ``config`` gave; for a model of transformers perhaps with more rows of vocabulary (zeros).

        Raises:
            ArtifactDamaged: If the files are damaged, or hold another model.
        """
        if self.foreign:
            yield from iter_parameters(self.uri, config)
            return
        verify_checkpoint(self.uri, deep=True, weights_only=True)
        files = TensorFiles(self.uri)
        yield from files.read(files.file_of)

    def sha256(self) -> str:
        """Hash of its files of weights, by name and content."""
        names = set(TensorFiles(self.uri).file_of.values())
        return content_hash({record.path: record.sha256 for record in record_files(self.uri, names)})

    def check(self, sha256: str) -> None:
        """See that its weights are those that something was made for.

        Raises:
            ArtifactDamaged: If they are others, or gone.
        """
        fix = "put the base back where it was, or name a copy of it (`rayllm merge CHECKPOINT OUTPUT --base ...`)"
        try:
            found = self.sha256()
        except ArtifactDamaged as error:
            raise ArtifactDamaged(
                "the base that adapters belong to is gone", where=self.uri, why=error.why, fix=fix
            ) from error
        if found != sha256:
            raise ArtifactDamaged(
                "adapters belong to another base than this one",
                where=self.uri,
                why=f"its weights have the hash {found[:12]}, the adapters were trained on {sha256[:12]}",
                fix=fix,
            )
