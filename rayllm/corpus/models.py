"""What the filters learn from or look up in: made once, before the first document is read, then read by every task.

In: the settings. Out: below the scratch directory, the index of the evaluation sets; and a report about it.
"""

from pydantic import BaseModel, ConfigDict

from rayllm.core import storage
from rayllm.corpus.ngram_index import NgramIndex, load_index
from rayllm.corpus.notes import Outputs
from rayllm.corpus.settings import BuildSettings

CONTAMINATION = "contamination"


class IndexReport(BaseModel):
    """The index of the evaluation sets: the digest of its files, the items of each set, those too short to be found."""

    model_config = ConfigDict(frozen=True)

    digest: str
    items: dict[str, int]
    too_short: dict[str, int]


class ModelsReport(BaseModel):
    """What was made; None where it was not asked for."""

    model_config = ConfigDict(frozen=True)

    contamination: IndexReport | None = None

    def plus(self, other: "ModelsReport") -> "ModelsReport":
        """What either has."""
        return ModelsReport(contamination=self.contamination or other.contamination)


NO_MODELS = ModelsReport()


def models_wanted(settings: BuildSettings) -> list[str]:
    """Names of the models to make."""
    return [CONTAMINATION] if settings.decontaminate is not None else []


def make_model(name: str, settings: BuildSettings, directory: str, outputs: Outputs) -> ModelsReport:
    """Make one model.

    Args:
        name: One of ``models_wanted``.
        settings: What is asked for.
        directory: URI of the directory for all models.
        outputs: Is told what was written.

    Raises:
        DataError: If what it is made from cannot be read.
    """
    assert name == CONTAMINATION, name
    return ModelsReport(contamination=_index(settings, storage.join(directory, name), outputs))


def _index(settings: BuildSettings, uri: str, outputs: Outputs) -> IndexReport:
    assert settings.decontaminate is not None
    index = settings.decontaminate.build("prepare.decontaminate")
    digest = index.save(uri)
    outputs.directory(uri)
    items: dict[str, int] = {}
    for item in index.items:
        items[item.set] = items.get(item.set, 0) + 1
    return IndexReport(digest=digest, items=items, too_short=index.too_short)


def load_contamination(report: ModelsReport, directory: str) -> NgramIndex | None:
    """The index of the evaluation sets, if there is one; read once in a process."""
    if report.contamination is None:
        return None
    return load_index(storage.join(directory, CONTAMINATION), report.contamination.digest)
