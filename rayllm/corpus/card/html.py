"""The data card as one HTML file that needs nothing but itself: its style within, no script, all text escaped."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jinja2
import markupsafe

from rayllm.corpus.card.tally import SCORE_BINS

if TYPE_CHECKING:  # the card renders itself
    from rayllm.corpus.card.content import Card

#: Size of a histogram in its own units; the page scales it.
WIDTH, HEIGHT = 320, 96
#: Words for counts and sizes, by factor.
_COUNTS = ((1e9, "B"), (1e6, "M"))
_SIZES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


@dataclass(frozen=True)
class Bar:
    """A bar of a histogram: place and size in the drawing, and what it says."""

    x: float
    y: float
    width: float
    height: float
    title: str
    label: str


def render_html(card: "Card") -> str:
    """The card as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rayllm.corpus.card"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"count": count, "size": size, "percent": percent, "marked": marked}
    drawing = {"length_bars": length_bars, "score_bars": score_bars, "width": WIDTH, "height": HEIGHT}
    train_bytes = sum(domain.kept("train").bytes for domain in card.domains.values())
    page = environment.get_template("data_card.html.jinja")
    return page.render(card=card, figures=_figures(card), train_bytes=train_bytes, **drawing)


def marked(text: str, part: str) -> markupsafe.Markup:
    """Text as HTML, with the first place marked where the words of ``part`` stand, whatever is between them."""
    words = map(re.escape, re.findall(r"\w+", part))
    found = re.search(r"\W+".join(words), text, re.IGNORECASE)
    if found is None or not found[0]:
        return markupsafe.escape(text)
    before, after = text[: found.start()], text[found.end() :]
    return markupsafe.Markup("{}<mark>{}</mark>{}").format(before, found[0], after)


def _figures(card: "Card") -> list[tuple[str, str]]:
    """The numbers at the head of the page, each with what it is."""
    domains = card.domains.values()
    read = sum(domain.read.documents for domain in domains)
    kept = [counts.total for domain in domains for counts in domain.splits.values()]
    documents = sum(total.documents for total in kept)
    return [
        (count(documents), "documents kept"),
        (size(sum(total.bytes for total in kept)), "of text"),
        (percent(1 - documents / read if read else 0.0), f"of {count(read)} documents left out"),
        (count(sum(sum(domain.bad_rows.values()) for domain in domains)), "rows in quarantine"),
    ]


def length_bars(lengths: Sequence[tuple[float, int]]) -> list[Bar]:
    """A bar for each power of two of bytes."""
    titles = [f"{size(edge)} to {size(2 * edge)}: {number:,} documents" for edge, number in lengths]
    step = max(1, -(-len(lengths) // 5))
    labels = [size(edge) if index % step == 0 else "" for index, (edge, _) in enumerate(lengths)]
    return draw_bars([number for _, number in lengths], titles, labels)


def score_bars(numbers: Sequence[int]) -> list[Bar]:
    """A bar for each of the equal parts of [0, 1]."""
    edges = [place / SCORE_BINS for place in range(len(numbers))]
    titles = [f"from {edge:.2f}: {number:,} documents" for edge, number in zip(edges, numbers, strict=True)]
    labels = [f"{edge:.1f}" if place % 4 == 0 else "" for place, edge in enumerate(edges)]
    return draw_bars(numbers, titles, labels)


def draw_bars(numbers: Sequence[int], titles: Sequence[str], labels: Sequence[str]) -> list[Bar]:
    """Bars side by side, the highest as high as the drawing."""
    top = max([1, *numbers])
    width = WIDTH / max(1, len(numbers))
    heights = [max(1.0 if number else 0.0, HEIGHT * number / top) for number in numbers]
    return [
        Bar(index * width + 1, HEIGHT - height, width - 2, height, title, label)
        for index, (height, title, label) in enumerate(zip(heights, titles, labels, strict=True))
    ]


def count(value: float) -> str:
    """A count: exact below a million, then ``3.42 M``."""
    return _scaled(value, _COUNTS, "")


def size(value: float) -> str:
    """Bytes in decimal units: ``812 B``, ``1.42 MB``."""
    return _scaled(value, _SIZES, "B")


def percent(share: float) -> str:
    """A share as a percentage."""
    return f"{100 * share:.1f}\u00a0%"


def _scaled(value: float, factors: Sequence[tuple[float, str]], unit: str) -> str:
    for factor, word in factors:
        if value >= factor:
            return f"{value / factor:.3g}\u00a0{word}"
    return f"{value:,.0f}\u00a0{unit}" if unit else f"{value:,.0f}"
