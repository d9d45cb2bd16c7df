"""Simple algebra: linear equations, two unknowns, sequences, divisors, areas."""

from math import gcd
from random import Random

from rayllm.corpus.builtin.math.problem import Family, Worked


def _signed(value: int) -> str:
    return f"+ {value}" if value >= 0 else f"- {-value}"


def _one_step(rng: Random) -> Worked:
    x, shift = rng.randint(1, 60), rng.choice([-1, 1]) * rng.randint(2, 40)
    total = x + shift
    verb = f"Subtract {shift} from" if shift > 0 else f"Add {-shift} to"
    steps = [f"{verb} both sides: x = {total} {_signed(-shift)}.", f"x = {x}."]
    return Worked({"e": f"x {_signed(shift)} = {total}"}, steps, str(x), [(f"{total} - ({shift})", str(x))])


def _linear(rng: Random) -> Worked:
    a, x, b = rng.randint(2, 12), rng.randint(-9, 20), rng.choice([-1, 1]) * rng.randint(1, 30)
    total = a * x + b
    verb = f"Subtract {b} from" if b > 0 else f"Add {-b} to"
    steps = [
        f"{verb} both sides: {a}x = {total} {_signed(-b)} = {a * x}.",
        f"Divide both sides by {a}: x = {a * x} / {a} = {x}.",
        f"Check: {a} * {x if x >= 0 else f'({x})'} {_signed(b)} = {total}.",
    ]
    return Worked({"e": f"{a}x {_signed(b)} = {total}"}, steps, str(x), [(f"({total} - ({b})) / {a}", str(x))])


def _term(factor: int) -> str:
    return "x" if factor == 1 else f"{factor}x"


def _both_sides(rng: Random) -> Worked:
    c, x = rng.randint(1, 8), rng.randint(1, 15)
    a, b = c + rng.randint(1, 7), rng.choice([-1, 1]) * rng.randint(1, 25)
    d = (a - c) * x + b
    steps = [
        f"Subtract {_term(c)} from both sides: {_term(a - c)} {_signed(b)} = {d}.",
        f"{'Subtract' if b > 0 else 'Add'} {abs(b)}: {_term(a - c)} = {d - b}.",
    ]
    steps += [f"Divide by {a - c}: x = {d - b} / {a - c} = {x}."] if a - c > 1 else []
    values = {"e": f"{_term(a)} {_signed(b)} = {_term(c)} {_signed(d)}"}
    return Worked(values, steps, str(x), [(f"({d} - ({b})) / ({a} - {c})", str(x))])


def _sum_and_difference(rng: Random) -> Worked:
    small = rng.randint(2, 60)
    large = small + rng.randint(1, 40)
    total, difference = large + small, large - small
    steps = [
        f"Adding the sum and the difference gives twice the larger number: {total} + {difference} = {2 * large}.",
        f"The larger number is {2 * large} / 2 = {large}.",
        f"The smaller number is {total} - {large} = {small}.",
    ]
    checks = [(f"({total} + {difference}) / 2", str(large)), (f"({total} - {difference}) / 2", str(small))]
    return Worked({"s": total, "d": difference}, steps, f"{large} and {small}", checks)


def _arithmetic_sequence(rng: Random) -> Worked:
    first, step = rng.randint(1, 40), rng.choice([-1, 1, 1]) * rng.randint(2, 12)
    terms = [first + step * index for index in range(4)]
    position = rng.randint(5, 15)
    result = first + step * (position - 1)
    count = position - 4
    change = f"{terms[3]} {'+' if step > 0 else '-'} {abs(step)} * {count}"
    steps = [
        f"Each term is {abs(step)} {'more' if step > 0 else 'less'} than the one before: "
        f"{terms[1]} - {terms[0]} = {step}.",
        f"From the 4th to term {position} there are {count} more steps: {change} = {result}.",
    ]
    values = {"list": ", ".join(map(str, terms)), "n": position}
    return Worked(values, steps, str(result), [(f"{first} + ({step}) * ({position} - 1)", str(result))])


def _geometric_sequence(rng: Random) -> Worked:
    first, ratio = rng.randint(1, 9), rng.choice([2, 2, 3, 4, 5])
    terms = [first * ratio**index for index in range(4)]
    result = first * ratio**4
    steps = [f"Each term is {ratio} times the one before: {terms[1]} / {terms[0]} = {ratio}."]
    steps.append(f"The next term is {terms[3]} * {ratio} = {result}.")
    values = {"list": ", ".join(map(str, terms))}
    return Worked(values, steps, str(result), [(f"{first} * {ratio} * {ratio} * {ratio} * {ratio}", str(result))])


def _greatest_common_divisor(rng: Random) -> Worked:
    shared = rng.randint(2, 15)
    a, b = shared * rng.randint(2, 14), shared * rng.randint(2, 14)
    large, small, steps = max(a, b), min(a, b), []
    while small:
        quotient, rest = divmod(large, small)
        steps.append(f"{large} = {small} * {quotient} + {rest}.")
        large, small = small, rest
    steps.append(f"The remainder is 0, so the greatest common divisor is {large}.")
    multiple = a * b // gcd(a, b)
    return Worked({"a": a, "b": b}, steps, str(large), [(f"{a} * {b} / {multiple}", str(large))])


def _rectangle(rng: Random) -> Worked:
    width, length = rng.randint(2, 30), rng.randint(2, 40)
    area, around = width * length, 2 * (width + length)
    steps = [
        f"The area is {length} * {width} = {area} square meters.",
        f"The perimeter is 2 * ({length} + {width}) = {around} meters.",
    ]
    checks = [(f"{length} * {width}", str(area)), (f"{length} + {length} + {width} + {width}", str(around))]
    return Worked({"l": length, "w": width}, steps, f"area {area}, perimeter {around}", checks)


FAMILIES = (
    Family(
        "one_step_equation",
        _one_step,
        ("Solve {e}.", "Solve for x: {e}.", "What is x if {e}?"),
        ("Find the number x such that {e}.",),
        3,
    ),
    Family(
        "linear_equation",
        _linear,
        ("Solve {e}.", "Solve for x: {e}.", "What is x if {e}?", "Find x, given that {e}."),
        ("Find the number x such that {e}.", "For which x is {e}?"),
        5,
    ),
    Family(
        "equation_both_sides",
        _both_sides,
        ("Solve {e}.", "Solve for x: {e}.", "What is x if {e}?"),
        ("For which x is {e}?",),
        4,
    ),
    Family(
        "sum_and_difference",
        _sum_and_difference,
        (
            "Two numbers add up to {s} and their difference is {d}. What are they?",
            "The sum of two numbers is {s}, and one is {d} more than the other. Find both numbers.",
        ),
        ("I think of two numbers. Together they make {s}; the larger exceeds the smaller by {d}. Which are they?",),
        3,
    ),
    Family(
        "arithmetic_sequence",
        _arithmetic_sequence,
        ("A sequence begins {list}. What is term number {n}?", "Find term {n} of the sequence {list}, ..."),
        ("The pattern {list} goes on in the same way. Which number stands at place {n}?",),
        4,
    ),
    Family(
        "geometric_sequence",
        _geometric_sequence,
        ("What is the next number: {list}, ...?", "Continue the sequence {list}, ... by one term."),
        ("Which number comes after {list}?",),
    ),
    Family(
        "greatest_common_divisor",
        _greatest_common_divisor,
        ("What is the greatest common divisor of {a} and {b}?", "Find the greatest common divisor of {a} and {b}."),
        ("What is the largest number that divides both {a} and {b}?",),
        3,
    ),
    Family(
        "rectangle",
        _rectangle,
        (
            "A rectangle is {l} m long and {w} m wide. Find its area and perimeter.",
            "What are the area and the perimeter of a field of {l} m by {w} m?",
        ),
        ("A garden has sides of {l} m and {w} m. How large is it, and how long is the fence around it?",),
        3,
    ),
)
