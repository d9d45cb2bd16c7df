"""Labelled examples, read as sources are read: the same files, fields and templates, with a label beside the text."""

from collections.abc import Iterator
from dataclasses import dataclass

from rayllm.core.errors import DataError
from rayllm.corpus.classifier.config import ClassifierConfig, LabelledSource, label_name
from rayllm.corpus.clean import CleanByContent, clean_text
from rayllm.corpus.documents import BadRow, Document, Unit
from rayllm.corpus.readers import read_unit

_MAX_ROW_BYTES = 64 << 20


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
        for document in _read(source, config.label, place):
            good = _is_good(document, config, place)
            yield Example(clean_text(document.text, clean.of(source.content)), good)


def _read(source: LabelledSource, label: str, setting: str) -> Iterator[Document]:
    labelled = source.model_copy(update={"metadata": [label]})
    for piece in labelled.pieces(setting, 1 << 62):
        unit = Unit(domain="examples", split="train", source=0, **dict(piece))
        for row in read_unit(unit, labelled, max_row_bytes=_MAX_ROW_BYTES, seed=0):
            if isinstance(row, BadRow):
                raise DataError(
                    "a labelled example cannot be used",
                    where=f"{setting}: {row.source}" + (f":{row.row}" if row.row else ""),
                    why=f"{row.kind}: {row.detail}",
                    fix="correct the file, or the source's `text` or `template`",
                )
            if isinstance(row, Document):
                yield row


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
