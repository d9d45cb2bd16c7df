"""Word problems: people, things, and two to four steps of arithmetic."""

from random import Random

from rayllm.corpus.builtin.math.problem import Family, Worked, amount, money

# fmt: off
NAMES = (
    "Ada", "Amir", "Anna", "Ben", "Bruno", "Carla", "Chen", "Clara", "Dana", "David", "Dina", "Elena", "Emma", "Eric",
    "Farah", "Felix", "Grace", "Hana", "Hugo", "Ines", "Ivan", "Jack", "Jana", "Jonas", "Julia", "Kai", "Karim", "Kate",
    "Lara", "Leo", "Lena", "Liam", "Lucia", "Luis", "Maya", "Mia", "Milo", "Mina", "Nadia", "Nina", "Noah", "Nora",
    "Olga", "Omar", "Oscar", "Paula", "Peter", "Priya", "Rosa", "Ruth", "Sam", "Sara", "Simon", "Sofia", "Tara", "Theo",
    "Tom", "Vera", "Victor", "Yara", "Yusuf", "Zoe",
)
THINGS = (
    "apples", "marbles", "books", "stickers", "coins", "pencils", "shells", "cards", "stamps", "balloons", "cookies",
    "oranges", "buttons", "flowers", "pears", "crayons", "postcards", "beads", "plums", "ribbons", "toys", "magnets",
    "nuts", "candles", "peaches", "badges", "stones", "lemons", "keys", "photos",
)
# fmt: on
PLACES = ("library", "museum", "bakery", "school", "market", "theater", "farm", "harbor", "factory", "station")


def _cast(rng: Random) -> dict[str, object]:
    """Two different people and two different kinds of things."""
    (name, other), (things, others) = rng.sample(NAMES, 2), rng.sample(THINGS, 2)
    return {"name": name, "other": other, "things": things, "others": others, "place": rng.choice(PLACES)}


def _give_and_get(rng: Random) -> Worked:
    cast, start, got = _cast(rng), rng.randint(5, 90), rng.randint(3, 60)
    gave = rng.randint(2, start + got - 1)
    steps = [
        f"First there are {start} + {got} = {start + got} {cast['things']}.",
        f"Without the {gave}, there are {start + got} - {gave} = {start + got - gave}.",
    ]
    result = start + got - gave
    values = {**cast, "a": start, "b": got, "c": gave}
    return Worked(values, steps, str(result), [(f"{start} + {got} - {gave}", str(result))])


def _boxes(rng: Random) -> Worked:
    cast, boxes, each, loose = _cast(rng), rng.randint(2, 15), rng.randint(3, 24), rng.randint(1, 20)
    result = boxes * each + loose
    steps = [
        f"The boxes hold {boxes} * {each} = {boxes * each} {cast['things']}.",
        f"With the loose ones there are {boxes * each} + {loose} = {result}.",
    ]
    values = {**cast, "a": boxes, "b": each, "c": loose}
    return Worked(values, steps, str(result), [(f"{boxes} * {each} + {loose}", str(result))])


def _share(rng: Random) -> Worked:
    cast, friends, each = _cast(rng), rng.randint(2, 12), rng.randint(2, 20)
    kept = rng.randint(1, 15)
    total = friends * each + kept
    steps = [
        f"{cast['name']} shares out {total} - {kept} = {friends * each} {cast['things']}.",
        f"Each friend gets {friends * each} / {friends} = {each}.",
    ]
    values = {**cast, "a": total, "b": kept, "c": friends}
    return Worked(values, steps, str(each), [(f"({total} - {kept}) / {friends}", str(each))])


def _times_as_many(rng: Random) -> Worked:
    cast, base, factor = _cast(rng), rng.randint(2, 40), rng.randint(2, 6)
    total = base * factor + base
    steps = [
        f"{cast['other']} has {base} * {factor} = {base * factor} {cast['things']}.",
        f"Together they have {base} + {base * factor} = {total}.",
    ]
    return Worked({**cast, "a": base, "k": factor}, steps, str(total), [(f"{base} * ({factor} + 1)", str(total))])


def _shopping(rng: Random) -> Worked:
    cast, count, more = _cast(rng), rng.randint(2, 9), rng.randint(2, 9)
    price, other = rng.randint(2, 40) * 25, rng.randint(2, 40) * 25
    first, second = count * price, more * other
    steps = [
        f"The {cast['things']} cost {count} * {amount(price)} = {amount(first)} dollars.",
        f"The {cast['others']} cost {more} * {amount(other)} = {amount(second)} dollars.",
        f"Together that is {amount(first)} + {amount(second)} = {amount(first + second)} dollars.",
    ]
    values = {**cast, "a": count, "b": more, "p": money(price), "q": money(other)}
    checks = [(f"{count} * {amount(price)} + {more} * {amount(other)}", amount(first + second))]
    return Worked(values, steps, amount(first + second), checks)


def _change(rng: Random) -> Worked:
    cast, count, price = _cast(rng), rng.randint(2, 9), rng.randint(1, 30) * 10
    cost = count * price
    paid = (cost // 1000 + 1) * 1000
    steps = [
        f"The {cast['things']} cost {count} * {amount(price)} = {amount(cost)} dollars.",
        f"The change is {amount(paid)} - {amount(cost)} = {amount(paid - cost)} dollars.",
    ]
    values = {**cast, "a": count, "p": money(price), "paid": money(paid)}
    checks = [(f"{amount(paid)} - {count} * {amount(price)}", amount(paid - cost))]
    return Worked(values, steps, amount(paid - cost), checks)


def _saving(rng: Random) -> Worked:
    cast, weekly, weeks, start = _cast(rng), rng.randint(3, 25), rng.randint(2, 16), rng.randint(5, 60)
    goal = start + weekly * weeks
    steps = [
        f"{cast['name']} still needs {goal} - {start} = {goal - start} dollars.",
        f"That takes {goal - start} / {weekly} = {weeks} weeks.",
    ]
    values = {**cast, "goal": money(goal * 100), "start": money(start * 100), "w": money(weekly * 100)}
    return Worked(values, steps, str(weeks), [(f"({goal} - {start}) / {weekly}", str(weeks))])


def _ages(rng: Random) -> Worked:
    cast, young, older, later = _cast(rng), rng.randint(3, 20), rng.randint(2, 30), rng.randint(2, 15)
    total = 2 * young + older + 2 * later
    steps = [
        f"{cast['other']} is {young} + {older} = {young + older} years old.",
        f"In {later} years, {cast['name']} is {young} + {later} = {young + later} "
        f"and {cast['other']} is {young + older} + {later} = {young + older + later}.",
        f"Together that is {young + later} + {young + older + later} = {total}.",
    ]
    values = {**cast, "a": young, "d": older, "t": later}
    checks = [(f"{young} + {young} + {older} + 2 * {later}", str(total))]
    return Worked(values, steps, str(total), checks)


def _reading(rng: Random) -> Worked:
    cast, daily, days, rest = _cast(rng), rng.randint(5, 40), rng.randint(2, 14), rng.randint(5, 120)
    pages = daily * days + rest
    steps = [
        f"In {days} days {cast['name']} reads {daily} * {days} = {daily * days} pages.",
        f"There are {pages} - {daily * days} = {rest} pages left.",
    ]
    values = {**cast, "n": pages, "a": daily, "d": days}
    return Worked(values, steps, str(rest), [(f"{pages} - {daily} * {days}", str(rest))])


def _wages(rng: Random) -> Worked:
    cast, hourly, hours, days = _cast(rng), rng.randint(8, 30), rng.randint(2, 9), rng.randint(2, 6)
    spent = rng.randint(1, hourly * hours * days - 1)
    daily, total = hourly * hours, hourly * hours * days
    steps = [
        f"A day brings {hourly} * {hours} = {daily} dollars.",
        f"{days} days bring {daily} * {days} = {total} dollars.",
        f"After spending {spent} dollars, {total} - {spent} = {total - spent} dollars are left.",
    ]
    values = {**cast, "p": money(hourly * 100), "h": hours, "d": days, "s": money(spent * 100)}
    checks = [(f"{hourly} * {hours} * {days} - {spent}", str(total - spent))]
    return Worked(values, steps, str(total - spent), checks)


def _recipe(rng: Random) -> Worked:
    cast, cups, cakes, more = _cast(rng), rng.randint(2, 6), rng.randint(2, 5), rng.randint(2, 12)
    total = cups * cakes
    steps = [
        f"One cake needs {total} / {cakes} = {cups} cups.",
        f"{more} cakes need {cups} * {more} = {cups * more} cups.",
    ]
    values = {**cast, "a": total, "b": cakes, "c": more}
    return Worked(values, steps, str(cups * more), [(f"{total} / {cakes} * {more}", str(cups * more))])


def _seats(rng: Random) -> Worked:
    cast, rows, seats = _cast(rng), rng.randint(4, 30), rng.randint(5, 30)
    taken = rng.randint(1, rows * seats - 1)
    steps = [
        f"There are {rows} * {seats} = {rows * seats} seats.",
        f"{rows * seats} - {taken} = {rows * seats - taken}.",
    ]
    values = {**cast, "r": rows, "s": seats, "t": taken}
    answer = str(rows * seats - taken)
    return Worked(values, steps, answer, [(f"{rows} * {seats} - {taken}", answer)])


def _two_rates(rng: Random) -> Worked:
    cast, fast, slow, hours = _cast(rng), rng.randint(6, 20), rng.randint(2, 5), rng.randint(2, 9)
    steps = [
        f"{cast['name']} makes {fast} * {hours} = {fast * hours} {cast['things']}.",
        f"{cast['other']} makes {slow} * {hours} = {slow * hours}.",
        f"The difference is {fast * hours} - {slow * hours} = {(fast - slow) * hours}.",
    ]
    answer = str((fast - slow) * hours)
    values = {**cast, "a": fast, "b": slow, "h": hours}
    return Worked(values, steps, answer, [(f"({fast} - {slow}) * {hours}", answer)])


def _half_then(rng: Random) -> Worked:
    cast, rest, sold = _cast(rng), rng.randint(2, 40), rng.randint(1, 30)
    start = 2 * (rest + sold)
    steps = [
        f"Half of {start} is {start} / 2 = {rest + sold}, so {rest + sold} {cast['things']} are left.",
        f"Then {rest + sold} - {sold} = {rest} are left.",
    ]
    values = {**cast, "a": start, "b": sold}
    return Worked(values, steps, str(rest), [(f"{start} - {start} / 2 - {sold}", str(rest))])


def _clock(rng: Random) -> Worked:
    cast, hours, minutes, parts = _cast(rng), rng.randint(1, 5), rng.randint(1, 11) * 5, rng.randint(2, 5)
    total = (hours * 60 + minutes) * parts
    steps = [
        f"{hours} h {minutes} min is {hours} * 60 + {minutes} = {hours * 60 + minutes} minutes.",
        f"{parts} times that is {hours * 60 + minutes} * {parts} = {total} minutes.",
    ]
    values = {**cast, "h": hours, "m": minutes, "k": parts}
    return Worked(values, steps, str(total), [(f"(60 * {hours} + {minutes}) * {parts}", str(total))])


FAMILIES = (
    Family(
        "give_and_get",
        _give_and_get,
        (
            "{name} has {a} {things} and gets {b} more from {other}. Then {name} gives {c} away. How many are left?",
            "{name} had {a} {things}, found {b} more and lost {c}. How many {things} does {name} have now?",
            "There are {a} {things} on a table. {name} adds {b} and {other} takes {c} away. How many are there now?",
        ),
        ("After {name} bought {b} {things} to go with the {a} at home, {c} were sold. How many remained?",),
        3,
    ),
    Family(
        "boxes",
        _boxes,
        (
            "{name} has {a} boxes with {b} {things} each, and {c} loose {things}. How many {things} is that?",
            "A {place} gets {a} boxes of {b} {things} and {c} single ones. How many {things} does it get in all?",
        ),
        ("Packed by the {b}, the {things} of {name} fill {a} boxes, and {c} are left over. How many are there?",),
        3,
    ),
    Family(
        "share",
        _share,
        (
            "{name} has {a} {things}, keeps {b} and shares the rest equally among {c} friends. How many does each get?",
            "Of {a} {things}, {name} puts {b} aside and divides the others equally among {c} children. "
            "How many {things} does each child get?",
        ),
        ("{c} friends split what {name} leaves of {a} {things} after taking {b}. What is the share of each?",),
        3,
    ),
    Family(
        "times_as_many",
        _times_as_many,
        (
            "{name} has {a} {things}. {other} has {k} times as many. How many do they have together?",
            "{other} collects {k} times as many {things} as {name}, who collects {a}. How many do both collect?",
        ),
        ("For each of the {a} {things} of {name}, {other} owns {k}. How many {things} do the two own?",),
        3,
    ),
    Family(
        "shopping",
        _shopping,
        (
            "{name} buys {a} {things} at {p} each and {b} {others} at {q} each. How many dollars is that in total?",
            "One of the {things} costs {p}, one of the {others} {q}. What do {a} {things} and {b} {others} cost, "
            "in dollars?",
        ),
        ("At {p} apiece for {things} and {q} apiece for {others}, what does {name} pay in dollars for {a} and {b}?",),
        3,
    ),
    Family(
        "change",
        _change,
        (
            "{name} buys {a} {things} at {p} each and pays with {paid}. How many dollars of change are due?",
            "{a} {things} cost {p} each. {name} gives the seller {paid}. How many dollars does {name} get back?",
        ),
        ("From {paid}, {name} spends {p} on each of {a} {things}. How many dollars remain?",),
        3,
    ),
    Family(
        "saving",
        _saving,
        (
            "{name} wants to buy a bicycle for {goal} and has {start}. {name} saves {w} a week. "
            "How many weeks does it take?",
            "A guitar costs {goal}. {name} owns {start} and puts {w} aside weekly. After how many weeks is it enough?",
        ),
        ("Starting from {start}, and adding {w} each week, when does {name} reach {goal}? Give the number of weeks.",),
        3,
    ),
    Family(
        "ages",
        _ages,
        (
            "{name} is {a} years old and {other} is {d} years older. How old will they be together in {t} years?",
            "{other} is {d} years older than {name}, who is {a}. What is the sum of their ages in {t} years?",
        ),
        ("{name} turns {a} today; {other} was born {d} years before. Add up both ages {t} years from now.",),
        3,
    ),
    Family(
        "reading",
        _reading,
        (
            "A book has {n} pages. {name} reads {a} pages a day for {d} days. How many pages are left?",
            "{name} reads {a} pages of a book of {n} pages every day. How many pages are left after {d} days?",
        ),
        ("Having read {a} pages on each of {d} days, how many of the {n} pages has {name} yet to read?",),
        3,
    ),
    Family(
        "wages",
        _wages,
        (
            "{name} earns {p} an hour and works {h} hours a day for {d} days, then spends {s}. "
            "How many dollars are left?",
            "At the {place}, {name} gets {p} per hour. After {d} days of {h} hours, {name} spends {s}. "
            "How many dollars remain?",
        ),
        ("{d} shifts of {h} hours at {p} an hour: how many dollars does {name} hold after paying {s}?",),
        3,
    ),
    Family(
        "recipe",
        _recipe,
        (
            "{name} needs {a} cups of flour for {b} cakes. How many cups are needed for {c} cakes?",
            "{b} cakes take {a} cups of sugar. How many cups does {name} need for {c} cakes?",
        ),
        ("With {a} cups of flour {name} bakes {b} cakes. {c} cakes are ordered. How many cups must there be?",),
    ),
    Family(
        "seats",
        _seats,
        (
            "The {place} has {r} rows of {s} seats. {t} seats are taken. How many are free?",
            "In a hall there are {r} rows with {s} chairs each, and {t} people sit down. How many chairs stay empty?",
        ),
        ("{t} guests came to the {place}, where {s} chairs stand in each of {r} rows. How many chairs were not used?",),
    ),
    Family(
        "two_rates",
        _two_rates,
        (
            "{name} makes {a} {things} an hour and {other} makes {b}. How many more does {name} make in {h} hours?",
            "In an hour {name} paints {a} {things} and {other} paints {b}. How far is {name} ahead after {h} hours?",
        ),
        ("{other} finishes {b} {things} per hour, {name} finishes {a}. How large is the gap after {h} hours?",),
    ),
    Family(
        "half_then",
        _half_then,
        (
            "{name} has {a} {things} and gives half of them to {other}. Then {name} loses {b}. How many are left?",
            "A shop has {a} {things}. It sells half of them on Monday and {b} on Tuesday. How many are left?",
        ),
        ("Half of {a} {things} broke on the way, and {name} threw {b} more away. How many are whole?",),
        3,
    ),
    Family(
        "clock",
        _clock,
        (
            "A film lasts {h} h {m} min. {name} watches {k} films of that length. How many minutes is that?",
            "One trip to the {place} takes {h} h {m} min. How many minutes do {k} trips take?",
        ),
        ("{name} practices {h} h {m} min on each of {k} days. How many minutes of practice is that?",),
    ),
)
