"""What a generated problem is, and how a family of problems is written down.

A family draws numbers and works them out; its templates word the question. Templates are either for training or for
validation, never both, so that validation asks in words that training has not seen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random


@dataclass(frozen=True, slots=True)
class Worked:
    """Numbers drawn, and the way to the answer.

    Attributes:
        values: What the templates of the question put in.
        steps: The solution, line by line.
        answer: The final answer as it is printed.
        checks: Pairs of an arithmetic expression over the numbers of the question and its value as printed in the
            answer: another way to the same result, by which tests verify it.
    """

    values: Mapping[str, object]
    steps: Sequence[str]
    answer: str
    checks: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Family:
    """Problems of one kind.

    Attributes:
        name: Name of the kind.
        work: Draws the numbers of a problem and solves it.
        train: Templates of the question for training.
        validation: Templates for validation.
        weight: How often it is drawn, relative to the others.
    """

    name: str
    work: Callable[[Random], Worked]
    train: Sequence[str]
    validation: Sequence[str]
    weight: int = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """A question with its worked solution.

    Attributes:
        question: What is asked.
        steps: The solution, line by line.
        answer: The final answer.
        template: Name of the template that worded it.
        checks: See ``Worked``.
    """

    question: str
    steps: Sequence[str]
    answer: str
    template: str
    checks: Sequence[tuple[str, str]]

    @property
    def document(self) -> str:
        """The text of the corpus: question, steps, and the answer after ``####`` as GSM8K writes it."""
        return "\n".join([self.question, *self.steps, f"#### {self.answer}"])


def number(value: Fraction | int) -> str:
    """Print a number exactly: whole, as a decimal where that ends within four places, else as a fraction."""
    value = Fraction(value)
    if value.denominator == 1:
        return str(value.numerator)
    if (value * 10_000).denominator == 1:
        return f"{float(value):.4f}".rstrip("0")
    return f"{value.numerator}/{value.denominator}"


def money(cents: int) -> str:
    """Print an amount of money."""
    return f"${cents // 100}" if cents % 100 == 0 else f"${cents // 100}.{cents % 100:02d}"


def amount(cents: int) -> str:
    """Print an amount of money without its sign, as a final answer."""
    return money(cents)[1:]
