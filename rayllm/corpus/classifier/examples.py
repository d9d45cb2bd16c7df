"""Labelled examples, read as sources are read: the same files, fields and templates, with a label beside the text."""

from collections.abc import Iterator
from dataclasses import dataclass

from rayllm.core.errors import DataError
from rayllm.corpus.classifier.config import ClassifierConfig, label_name
from rayllm.corpus.clean import CleanByContent, clean_text
from rayllm.corpus.documents import Document
from rayllm.corpus.readers.strict import read_strictly


@dataclass(frozen=True, slots=True)
class Example:
    """A text, and whether a person would keep it."""

    text: str
    good: bool


def read_examples(config: ClassifierConfig, clean: CleanByContent, setting: str) -> Iterator[Example]:
    """Read all labelled examples, cleaned as documents of their source's ``content`` are.

    Args:
        config: Says where they are and what their labels are called.
        clean: How documents are cleaned.
        setting: Where ``config`` stands in the run file, for errors.

    Raises:
        DataError: If a file cannot be read, or a row has no text or no label that the config knows.
    """
    for number, source in enumerate(config.examples):
        place = f"{setting}.examples" + (f"[{number}]" if len(config.examples) > 1 else "")
        labelled = source.model_copy(update={"metadata": [config.label]})
        for document in read_strictly(labelled, "examples", place, row="a labelled example"):
            good = _is_good(document, config, place)
            yield Example(clean_text(document.text, clean.of(source.content)), good)


def _is_good(document: Document, config: ClassifierConfig, setting: str) -> bool:
    name = label_name(document.metadata.get(config.label, "missing"))
    if name in config.good:
        return True
    if name in config.bad:
        return False
    raise DataError(
        f"a labelled example has the label {name!r}, which the config does not know",
        where=f"{setting}: {document.source}",
        why=f"good is {', '.join(config.good)}, bad is {', '.join(config.bad)}; the field is {config.label!r}",
        fix="correct `label`, or add the label to `good` or `bad` of prepare.classifier",
    )
