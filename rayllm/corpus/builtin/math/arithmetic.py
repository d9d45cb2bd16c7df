"""Written arithmetic, step by step as at school: columns, carries, borrowing, long division, order of operations."""

from random import Random

from rayllm.corpus.builtin.math.problem import Family, Worked

_PLACES = ("ones", "tens", "hundreds", "thousands", "ten thousands")


def _digits(rng: Random, most: int) -> int:
    """A whole number whose count of digits is uniform, so that small numbers are as frequent as large ones."""
    length = rng.randint(1, most)
    return rng.randint(10 ** (length - 1), 10**length - 1)


def _addition(rng: Random) -> Worked:
    a, b = _digits(rng, 4), _digits(rng, 4)
    steps, carry = [], 0
    for place in range(max(len(str(a)), len(str(b)))):
        left, right = a // 10**place % 10, b // 10**place % 10
        total = left + right + carry
        terms = f"{left} + {right}" + (f" + {carry}" if carry else "")
        note = f", write {total % 10} and carry 1" if total > 9 else f", write {total}"
        steps.append(f"{_PLACES[place].capitalize()}: {terms} = {total}{note}.")
        carry = total // 10
    if carry:
        steps.append(f"Write the last carry, {carry}.")
    steps.append(f"So {a} + {b} = {a + b}.")
    return Worked({"a": a, "b": b}, steps, str(a + b), [(f"{a} + {b}", str(a + b))])


def _subtraction(rng: Random) -> Worked:
    a, b = sorted((_digits(rng, 4), _digits(rng, 4)), reverse=True)
    steps, borrow = [], 0
    for place in range(len(str(a))):
        left, right = a // 10**place % 10 - borrow, b // 10**place % 10
        prefix = f"{_PLACES[place].capitalize()}: "
        if left < right:
            steps.append(
                f"{prefix}{left} is less than {right}, so borrow: {left + 10} - {right} = {left + 10 - right}."
            )
        else:
            steps.append(f"{prefix}{left} - {right} = {left - right}.")
        borrow = int(left < right)
    steps.append(f"So {a} - {b} = {a - b}.")
    return Worked({"a": a, "b": b}, steps, str(a - b), [(f"{a} - {b}", str(a - b))])


def _multiplication(rng: Random) -> Worked:
    a, b = _digits(rng, 3), _digits(rng, 2)
    parts = [(digit, 10**place) for place, digit in enumerate(map(int, reversed(str(b)))) if digit]
    products = [a * digit * factor for digit, factor in parts]
    if len(products) == 1:
        steps = [f"{a} * {b} = {a * b}."]
    else:
        split = " + ".join(str(digit * factor) for digit, factor in reversed(parts))
        steps = [f"Split {b} = {split}."]
        steps += [f"{a} * {digit * factor} = {a * digit * factor}." for digit, factor in parts]
        steps.append(f"Add: {' + '.join(map(str, products))} = {a * b}.")
    return Worked({"a": a, "b": b}, steps, str(a * b), [(f"{a} * {b}", str(a * b))])


def _division(rng: Random) -> Worked:
    divisor = rng.randint(2, 12)
    dividend = _digits(rng, 4) + divisor
    steps, rest = [], 0
    for digit in map(int, str(dividend)):
        current = rest * 10 + digit
        quotient, rest = divmod(current, divisor)
        if quotient:
            steps.append(
                f"{divisor} goes into {current} {quotient} time{'s' if quotient > 1 else ''}: "
                f"{divisor} * {quotient} = {divisor * quotient}, {current} - {divisor * quotient} = {rest}."
            )
        else:
            steps.append(f"{divisor} does not go into {current}.")
    quotient = dividend // divisor
    steps.append(
        f"So {dividend} = {divisor} * {quotient} + {rest}." if rest else f"So {dividend} / {divisor} = {quotient}."
    )
    answer = f"{quotient} remainder {rest}" if rest else str(quotient)
    checks = [(f"{dividend} // {divisor}", str(quotient))]
    checks += [(f"{dividend} % {divisor}", str(rest))] if rest else []
    return Worked({"a": dividend, "b": divisor}, steps, answer, checks)


def _order_of_operations(rng: Random) -> Worked:
    a, b, c, d = (rng.randint(2, 15) for _ in range(4))
    shape = rng.randrange(4)
    if shape == 0:
        text, first, product = f"{a} + {b} * {c}", "Multiply before adding", b * c
        steps = [f"{first}: {b} * {c} = {product}.", f"{a} + {product} = {a + product}."]
    elif shape == 1:
        text, total = f"({a} + {b}) * {c}", a + b
        steps = [f"Brackets first: {a} + {b} = {total}.", f"{total} * {c} = {total * c}."]
    elif shape == 2:
        text, left, right = f"{a} * {b} - {c} * {d}", a * b, c * d
        steps = [f"{a} * {b} = {left}.", f"{c} * {d} = {right}.", f"{left} - {right} = {left - right}."]
    else:
        text, inner = f"{a} * ({b} + {c}) - {d}", b + c
        steps = [f"Brackets first: {b} + {c} = {inner}.", f"{a} * {inner} = {a * inner}."]
        steps.append(f"{a * inner} - {d} = {a * inner - d}.")
    answer = steps[-1].rstrip(".").rpartition("= ")[2]
    return Worked({"e": text}, steps, answer, [(text, answer)])


def _rounding(rng: Random) -> Worked:
    value, place = _digits(rng, 4) + 10, rng.choice([10, 100])
    low = value // place * place
    up = value - low >= place / 2
    rounded = low + place if up else low
    word = "ten" if place == 10 else "hundred"
    steps = [
        f"{value} lies between {low} and {low + place}.",
        f"{value} - {low} = {value - low}, which is {'at least' if up else 'less than'} {place // 2}, "
        f"so round {'up' if up else 'down'}.",
    ]
    checks = [(f"({value} + {place // 2}) // {place} * {place}", str(rounded))]
    return Worked({"a": value, "p": word}, steps, str(rounded), checks)


FAMILIES = (
    Family(
        "addition",
        _addition,
        ("What is {a} + {b}?", "Calculate {a} + {b}.", "Add {a} and {b}.", "Find the sum of {a} and {b}."),
        ("Work out {a} plus {b}.", "{a} + {b} = ?"),
        6,
    ),
    Family(
        "subtraction",
        _subtraction,
        ("What is {a} - {b}?", "Calculate {a} - {b}.", "Subtract {b} from {a}.", "Take {b} away from {a}."),
        ("Work out {a} minus {b}.", "Find the difference between {a} and {b}."),
        5,
    ),
    Family(
        "multiplication",
        _multiplication,
        ("What is {a} * {b}?", "Calculate {a} * {b}.", "Multiply {a} by {b}.", "Find the product of {a} and {b}."),
        ("Work out {a} times {b}.", "{a} * {b} = ?"),
        6,
    ),
    Family(
        "division",
        _division,
        ("What is {a} / {b}?", "Divide {a} by {b}.", "How many times does {b} go into {a}?"),
        ("Work out {a} divided by {b}.",),
        5,
    ),
    Family(
        "order_of_operations",
        _order_of_operations,
        ("Evaluate {e}.", "What is {e}?", "Calculate {e}.", "Find the value of {e}."),
        ("Work out the expression {e}.", "What does {e} come to?"),
        5,
    ),
    Family(
        "rounding",
        _rounding,
        ("Round {a} to the nearest {p}.", "What is {a} rounded to the nearest {p}?"),
        ("Give {a} to the nearest {p}.",),
    ),
)
