"""Wrong solutions: a right one with another number where it first works something out, and in its answer."""

import re
from random import Random

_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def with_mistake(solution: str, rng: Random) -> str:
    """A solution that goes wrong at one of its results and ends with another answer.

    Args:
        solution: Lines of work, and the answer after ``####``.
        rng: Draws where it goes wrong, and by how much.
    """
    numbers = list(_NUMBER.finditer(solution))
    answer = numbers[-1][0]
    wrong = _other(answer, rng)
    # What stands for the answer in the work is wrong too, so that the mistake is made where it is worked out.
    same = [number for number in numbers if number[0] == answer]
    first = rng.choice(same[:-1] or same).start()
    head, tail = solution[:first], solution[first:]
    return head + re.sub(rf"(?<![\d.]){re.escape(answer)}(?![\d])(?!\.\d)", wrong, tail)


def _other(number: str, rng: Random) -> str:
    """Another number with as many decimals, near the right one."""
    decimals = len(number.partition(".")[2])
    unit = 10**decimals
    value = round(float(number) * unit)
    steps = [step for step in range(-9, 10) if step and value + step >= 0]
    return f"{(value + rng.choice(steps)) / unit:.{decimals}f}"
