"""What every task of a preparation knows: what is asked for, where files go, and what earlier passes have made."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from rayllm.core import storage
from rayllm.core.artifact import content_hash
from rayllm.corpus.build.models import CLASSIFIER, NO_MODELS, ModelsReport
from rayllm.corpus.documents import Split
from rayllm.corpus.settings import BuildSettings
from rayllm.corpus.sources import Source


@dataclass(frozen=True)
class Recipe:
    """What every task of a preparation knows.

    Attributes:
        sources: The sources of each split and domain.
        settings: How to clean, filter and cut.
        seed: The run's seed.
        output: URI of the artifact's directory.
        scratch_root: URI of the directory for what only the tasks read.
        partitions: Parts that content hashes are divided into.
        models: What was learned or indexed before, and where it is.
        after: Digest of all that earlier passes have made.
    """

    sources: Mapping[Split, Mapping[str, list[Source]]]
    settings: BuildSettings
    seed: int
    output: str
    scratch_root: str
    partitions: int = 1
    models: ModelsReport = NO_MODELS
    after: str = ""

    def scratch(self, *parts: str) -> str:
        """URI of a scratch file."""
        return storage.join(self.scratch_root, *parts)

    def model(self, name: str) -> str:
        """URI of the directory of a model; the classifier's is part of the artifact."""
        return storage.join(self.output, name) if name == CLASSIFIER else self.scratch("models", name)

    def dropped(self, domain: str, name: str) -> str:
        """URI of a file of dropped documents."""
        return storage.join(self.output, "dropped", domain, name)

    def following(self, digest: str) -> "Recipe":
        """The recipe of the passes after those whose work has this digest."""
        return replace(self, after=digest)

    @cached_property
    def digest(self) -> str:
        """Digest of all that shapes what tasks make; where they put it is left out."""
        sources: dict[str, Any] = {
            split: {domain: [source.identity() for source in group] for domain, group in domains.items()}
            for split, domains in self.sources.items()
        }
        settings = {"settings": self.settings.identity(), "seed": self.seed, "partitions": self.partitions}
        return content_hash({"sources": sources, **settings, "after": self.after})
