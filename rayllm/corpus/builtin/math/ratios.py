"""Parts of numbers: fractions, decimals, percentages, rates, averages."""

from fractions import Fraction
from math import gcd, lcm
from random import Random

from rayllm.corpus.builtin.math.problem import Family, Worked, amount, money, number


def _fraction(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{value.numerator}/{value.denominator}"


def _proper(rng: Random) -> tuple[int, int]:
    bottom = rng.randint(2, 12)
    return rng.randint(1, bottom - 1), bottom


def _fraction_sum(rng: Random) -> Worked:
    (a, b), (c, d) = _proper(rng), _proper(rng)
    minus = rng.random() < 0.4 and Fraction(a, b) > Fraction(c, d)
    sign, common = "-" if minus else "+", lcm(b, d)
    left, right = a * common // b, c * common // d
    top = left - right if minus else left + right
    result = Fraction(top, common)
    if b == d:
        steps = ["The denominators are equal."]
    else:
        steps = [
            f"The common denominator of {b} and {d} is {common}.",
            f"{a}/{b} = {left}/{common} and {c}/{d} = {right}/{common}.",
        ]
    steps.append(f"{left}/{common} {sign} {right}/{common} = {top}/{common}.")
    if gcd(top, common) > 1:
        steps.append(f"Divide both by {gcd(top, common)}: {top}/{common} = {_fraction(result)}.")
    values = {"e": f"{a}/{b} {sign} {c}/{d}"}
    return Worked(values, steps, _fraction(result), [(f"{a}/{b} {sign} {c}/{d}", _fraction(result))])


def _fraction_product(rng: Random) -> Worked:
    (a, b), (c, d) = _proper(rng), _proper(rng)
    result = Fraction(a * c, b * d)
    steps = [f"Multiply the tops: {a} * {c} = {a * c}.", f"Multiply the bottoms: {b} * {d} = {b * d}."]
    if gcd(a * c, b * d) > 1:
        steps.append(f"Divide both by {gcd(a * c, b * d)}: {a * c}/{b * d} = {_fraction(result)}.")
    else:
        steps.append(f"{a * c}/{b * d} is in lowest terms.")
    return Worked(
        {"e": f"{a}/{b} * {c}/{d}"}, steps, _fraction(result), [(f"({a}/{b}) * ({c}/{d})", _fraction(result))]
    )


def _simplify(rng: Random) -> Worked:
    (a, b), factor = _proper(rng), rng.randint(2, 12)
    top, bottom = a * factor, b * factor
    divisor = gcd(top, bottom)
    result = _fraction(Fraction(top, bottom))
    steps = [
        f"The greatest common divisor of {top} and {bottom} is {divisor}.",
        f"{top} / {divisor} = {top // divisor} and {bottom} / {divisor} = {bottom // divisor}.",
    ]
    return Worked({"e": f"{top}/{bottom}"}, steps, result, [(f"{top}/{bottom}", result)])


def _fraction_of(rng: Random) -> Worked:
    (a, b), part = _proper(rng), rng.randint(2, 40)
    whole = b * part
    steps = [f"One part is {whole} / {b} = {part}."]
    steps += [f"{a} parts are {part} * {a} = {part * a}."] if a > 1 else []
    return Worked({"f": f"{a}/{b}", "n": whole}, steps, str(part * a), [(f"{whole} * {a} / {b}", str(part * a))])


def _decimal_sum(rng: Random) -> Worked:
    a, b = rng.randint(11, 9999), rng.randint(11, 9999)
    left, right, total = (number(Fraction(value, 100)) for value in (a, b, a + b))
    steps = [f"In hundredths: {a} + {b} = {a + b}.", f"So {left} + {right} = {total}."]
    return Worked({"a": left, "b": right}, steps, total, [(f"{left} + {right}", total)])


def _percentage_of(rng: Random) -> Worked:
    percent, whole = rng.choice([5, 10, 15, 20, 25, 30, 40, 50, 60, 75, 80, 90]), rng.randint(2, 60) * 20
    result = percent * whole // 100
    steps = [f"1% of {whole} is {whole} / 100 = {number(Fraction(whole, 100))}."]
    steps.append(f"{percent}% is {number(Fraction(whole, 100))} * {percent} = {result}.")
    return Worked({"p": percent, "n": whole}, steps, str(result), [(f"{whole} * {percent} / 100", str(result))])


def _discount(rng: Random) -> Worked:
    percent, price = rng.choice([5, 10, 20, 25, 30, 40, 50]), rng.randint(2, 90) * 20
    off = percent * price // 100
    item = rng.choice(["jacket", "lamp", "bicycle", "backpack", "radio", "chair", "tent", "camera", "desk", "watch"])
    steps = [
        f"The discount is {price} * {percent} / 100 = {off} dollars.",
        f"The new price is {price} - {off} = {price - off} dollars.",
    ]
    values = {"item": item, "price": money(price * 100), "p": percent}
    return Worked(values, steps, str(price - off), [(f"{price} * (100 - {percent}) / 100", str(price - off))])


def _unit_price(rng: Random) -> Worked:
    count, more, cents = rng.randint(2, 12), rng.randint(2, 20), rng.randint(3, 80) * 5
    item = rng.choice(
        ["apples", "pens", "notebooks", "tickets", "cups", "eggs", "stamps", "bottles", "bagels", "candles"]
    )
    total, result = count * cents, more * cents
    steps = [
        f"One costs {amount(total)} / {count} = {amount(cents)} dollars.",
        f"{more} cost {amount(cents)} * {more} = {amount(result)} dollars.",
    ]
    values = {"n": count, "item": item, "total": money(total), "m": more}
    return Worked(values, steps, amount(result), [(f"{amount(total)} / {count} * {more}", amount(result))])


def _average(rng: Random) -> Worked:
    count, mean = rng.choice([3, 4, 5]), rng.randint(8, 90)
    shifts = [rng.randint(-7, 7) for _ in range(count - 1)]
    numbers = [mean + shift for shift in shifts] + [mean - sum(shifts)]
    terms = " + ".join(map(str, numbers)).replace("+ -", "- ")
    steps = [f"Add them: {terms} = {sum(numbers)}.", f"Divide by {count}: {sum(numbers)} / {count} = {mean}."]
    values = {"list": ", ".join(map(str, numbers[:-1])) + f" and {numbers[-1]}"}
    return Worked(values, steps, str(mean), [(f"({terms}) / {count}", str(mean))])


def _speed(rng: Random) -> Worked:
    speed, hours, more = rng.randint(2, 120), rng.randint(2, 9), rng.randint(2, 12)
    vehicle = rng.choice(["A train", "A car", "A cyclist", "A bus", "A boat", "A truck", "A runner", "A drone"])
    steps = [
        f"The speed is {speed * hours} / {hours} = {speed} km per hour.",
        f"In {more} hours it is {speed} * {more} = {speed * more} km.",
    ]
    values = {"v": vehicle, "d": speed * hours, "h": hours, "m": more}
    return Worked(values, steps, str(speed * more), [(f"{speed * hours} / {hours} * {more}", str(speed * more))])


FAMILIES = (
    Family(
        "fraction_sum",
        _fraction_sum,
        ("What is {e}?", "Calculate {e}.", "Work out {e} as a fraction in lowest terms."),
        ("Evaluate {e} and simplify.",),
        4,
    ),
    Family(
        "fraction_product",
        _fraction_product,
        ("What is {e}?", "Multiply the fractions {e}.", "Calculate {e} in lowest terms."),
        ("Evaluate the product {e}.",),
        3,
    ),
    Family(
        "simplify_fraction",
        _simplify,
        ("Simplify {e}.", "Write {e} in lowest terms.", "Reduce the fraction {e}."),
        ("Bring {e} to its simplest form.",),
    ),
    Family(
        "fraction_of",
        _fraction_of,
        ("What is {f} of {n}?", "Find {f} of {n}.", "A box holds {n} beads and {f} of them are red. How many are red?"),
        ("There are {n} pages in a book. Nora has read {f} of them. How many pages has she read?",),
        3,
    ),
    Family(
        "decimal_sum",
        _decimal_sum,
        ("What is {a} + {b}?", "Add {a} and {b}.", "Calculate the sum {a} + {b}."),
        ("Work out {a} plus {b}.",),
    ),
    Family(
        "percentage_of",
        _percentage_of,
        (
            "What is {p}% of {n}?",
            "Find {p}% of {n}.",
            "A school has {n} students and {p}% of them walk to school. How many walk?",
        ),
        ("Calculate {p} percent of {n}.", "Of {n} seats in a hall, {p}% are taken. How many seats are taken?"),
        4,
    ),
    Family(
        "discount",
        _discount,
        (
            "A {item} costs {price} and is sold at {p}% off. What is the new price in dollars?",
            "The price of a {item} was {price}. It is reduced by {p}%. How many dollars does it cost now?",
        ),
        ("In a sale everything is {p}% cheaper. How many dollars is a {item} that used to be {price}?",),
        3,
    ),
    Family(
        "unit_price",
        _unit_price,
        (
            "{n} {item} cost {total}. How many dollars do {m} {item} cost?",
            "If {n} {item} cost {total}, what is the price of {m} {item} in dollars?",
        ),
        ("A shop asks {total} for {n} {item}. At that rate, how many dollars would {m} {item} be?",),
        4,
    ),
    Family(
        "average",
        _average,
        ("What is the average of {list}?", "Find the mean of {list}.", "Calculate the average of {list}."),
        ("The scores were {list}. What was the mean score?",),
        3,
    ),
    Family(
        "speed",
        _speed,
        (
            "{v} covers {d} km in {h} hours. How many km does it cover in {m} hours at the same speed?",
            "{v} goes {d} km in {h} hours. At that speed, how far in km does it go in {m} hours?",
        ),
        ("It takes {h} hours to go {d} km. {v} keeps that speed for {m} hours. How many km is that?",),
        3,
    ),
)
