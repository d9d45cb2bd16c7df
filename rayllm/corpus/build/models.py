"""What the filters learn from or look up in: made once, before the first document is read, then read by every task.

In: the settings. Out: a directory for each, the index of the evaluation sets and the quality classifier; and a report
about them.
"""

from pydantic import BaseModel, ConfigDict

from rayllm.corpus.build.notes import Outputs
from rayllm.corpus.classifier import Classifier, ClassifierReport, load_classifier, train
from rayllm.corpus.classifier.examples import read_examples
from rayllm.corpus.overlap.ngram_index import NgramIndex, load_index
from rayllm.corpus.settings import BuildSettings

CONTAMINATION, CLASSIFIER = "contamination", "classifier"


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
    classifier: ClassifierReport | None = None

    def plus(self, other: "ModelsReport") -> "ModelsReport":
        """What either has."""
        return ModelsReport(
            contamination=self.contamination or other.contamination, classifier=self.classifier or other.classifier
        )


NO_MODELS = ModelsReport()


def models_wanted(settings: BuildSettings) -> list[str]:
    """Names of the models to make."""
    wanted = {CONTAMINATION: settings.decontaminate, CLASSIFIER: settings.classifier}
    return [name for name, config in wanted.items() if config is not None]


def make_model(name: str, settings: BuildSettings, uri: str, outputs: Outputs) -> ModelsReport:
    """Make one model.

    Args:
        name: One of ``models_wanted``.
        settings: What is asked for.
        uri: Directory for its files.
        outputs: Is told what was written.

    Raises:
        DataError: If what it is made from cannot be read.
    """
    if name == CLASSIFIER:
        return ModelsReport(classifier=_classifier(settings, uri, outputs))
    assert name == CONTAMINATION, name
    return ModelsReport(contamination=_index(settings, uri, outputs))


def _index(settings: BuildSettings, uri: str, outputs: Outputs) -> IndexReport:
    assert settings.decontaminate is not None
    index = settings.decontaminate.build("prepare.decontaminate")
    digest = index.save(uri)
    outputs.directory(uri)
    items: dict[str, int] = {}
    for item in index.items:
        items[item.set] = items.get(item.set, 0) + 1
    return IndexReport(digest=digest, items=items, too_short=index.too_short)


def _classifier(settings: BuildSettings, uri: str, outputs: Outputs) -> ClassifierReport:
    config, setting = settings.classifier, "prepare.classifier"
    assert config is not None
    classifier, report = train(list(read_examples(config, settings.clean, setting)), config, setting)
    digest = classifier.save(uri)
    outputs.directory(uri)
    return report.model_copy(update={"digest": digest})


def load_contamination(report: ModelsReport, uri: str) -> NgramIndex | None:
    """The index of the evaluation sets, if there is one; read once in a process."""
    return None if report.contamination is None else load_index(uri, report.contamination.digest)


def load_scorer(report: ModelsReport, uri: str) -> Classifier | None:
    """The quality classifier, if there is one; read once in a process."""
    return None if report.classifier is None else load_classifier(uri, report.classifier.digest)
