"""Documents that every machine has: prose of installed packages, and generated problems."""

import hashlib
from collections.abc import Iterator
from random import Random

from rayllm.core import storage
from rayllm.core.rng import derive_seed
from rayllm.corpus.builtin.math import generate_problem
from rayllm.corpus.builtin.math.mistakes import with_mistake
from rayllm.corpus.builtin.prose import prose_of_metadata, prose_of_python
from rayllm.corpus.conversations.turns import Turn, conversation, preference
from rayllm.corpus.documents import Document, Row, Unit
from rayllm.corpus.sources.builtin import (
    InstalledProseSource,
    SyntheticConversationsSource,
    SyntheticMathSource,
    SyntheticPreferencesSource,
)


def read_prose(unit: Unit, source: InstalledProseSource, max_row_bytes: int, seed: int) -> Iterator[Row]:
    """Read the prose of packages, a document for each module, up to ``unit.stop`` bytes.

    Modules are taken in the order of their names' hashes, so that a limit leaves out some of everything; a paragraph
    that occurred before in the unit is left out.
    """
    seen: set[str] = set()
    left = unit.stop
    for file in sorted(unit.files, key=lambda file: hashlib.blake2b(file.label.encode(), digest_size=8).digest()):
        data = storage.read_bytes(file.uri)
        extract = prose_of_metadata if file.label.endswith("/METADATA") else prose_of_python
        paragraphs = [text for text in dict.fromkeys(extract(data)) if text not in seen]
        seen.update(paragraphs)
        text = "\n\n".join(paragraphs)
        if left is not None:
            left -= len(text.encode())
            if left < 0:
                return
        if text:
            yield Document(text, file.label, metadata={"path": file.label})


def generate_math(unit: Unit, source: SyntheticMathSource, max_row_bytes: int, seed: int) -> Iterator[Row]:
    """Generate the documents of a range of numbers."""
    for number in range(unit.start, unit.stop or source.documents):
        problem = generate_problem(seed, source.split, number)
        yield Document(problem.document, f"synthetic_math/{source.split}", metadata={"template": problem.template})


def generate_conversations(
    unit: Unit, source: SyntheticConversationsSource, max_row_bytes: int, seed: int
) -> Iterator[Row]:
    """Generate the conversations of a range of numbers; every other one goes on with a second question."""
    for number in range(unit.start, unit.stop or source.documents):
        problems = [generate_problem(seed, source.split, 2 * number + part) for part in range(1 + number % 2)]
        turns = [
            turn
            for problem in problems
            for turn in (
                Turn("user", problem.question),
                Turn("assistant", "\n".join([*problem.steps, f"#### {problem.answer}"])),
            )
        ]
        metadata = {"template": problems[0].template}
        yield conversation(turns, f"synthetic_conversations/{source.split}", metadata=metadata)


def generate_preferences(
    unit: Unit, source: SyntheticPreferencesSource, max_row_bytes: int, seed: int
) -> Iterator[Row]:
    """Generate the pairs of a range of numbers: the right solution is preferred to one with a mistake."""
    for number in range(unit.start, unit.stop or source.documents):
        problem = generate_problem(seed, source.split, number)
        right = "\n".join([*problem.steps, f"#### {problem.answer}"])
        rng = Random(derive_seed(seed, "synthetic_preferences", source.split, number))
        label, metadata = f"synthetic_preferences/{source.split}", {"template": problem.template}
        yield preference([Turn("user", problem.question)], right, with_mistake(right, rng), label, metadata=metadata)
