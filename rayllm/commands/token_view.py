"""Tokens as a person reads them: boundaries in two colours on a terminal, as bars elsewhere.

In: ids and a codec. Out: styled lines for ``rich``. Text of the corpus may hold anything, so what a terminal would act
upon is shown, not sent.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from rayllm.inference.text_stream import TextStream
from rayllm.tokenizer.codec import Codec

TOKEN_STYLES = ("black on bright_cyan", "black on bright_yellow")
UNLEARNT_STYLE = "dim underline"
DOCUMENT_STYLES = ("on blue", "on green", "on magenta", "on red", "on cyan", "on yellow")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SHOWN = {"\n": "↵", "\t": "→", "\r": "␍"}
BOUNDARY, UNLEARNT, PADDING, MORE = "|", "~", "·", "…"


@dataclass(frozen=True)
class Look:
    """How things are shown.

    Attributes:
        colour: Boundaries as colours; else as bars.
        width: Columns of a line.
    """

    colour: bool
    width: int

    @classmethod
    def of(cls, console: Console, width: int | None = None) -> "Look":
        """What a console can show: no colour where it is no terminal, or ``NO_COLOR`` is set."""
        return cls(console.is_terminal and not console.no_color, width or console.width)


def token_texts(codec: Codec, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text, safe to print: a character of several tokens stands at its last one."""
    stream = TextStream(codec.decode)
    texts = [stream.push(token) for token in ids]
    if texts and not texts[-1]:
        texts[-1] = stream.flush()
    return [printable(text) for text in texts]


def printable(text: str) -> str:
    """Text without characters that a terminal would act upon."""
    return "".join(
        SHOWN.get(char) or (char if char.isprintable() else char.encode("unicode_escape").decode()) for char in text
    )


def styled_tokens(texts: Sequence[str], learnt: Bool[np.ndarray, " tokens"], look: Look) -> list[tuple[str, str]]:
    """Tokens as text and style; those that are not learnt are underlined, or stand behind a ``~``."""
    if look.colour:
        return [
            (text, TOKEN_STYLES[number % 2] + ("" if counts else f" {UNLEARNT_STYLE}"))
            for number, (text, counts) in enumerate(zip(texts, learnt.tolist(), strict=True))
        ]
    marks = ["" if counts else UNLEARNT for counts in learnt.tolist()]
    parts = [mark + text for mark, text in zip(marks, texts, strict=True)]
    return [(part if number == 0 else BOUNDARY + part, "") for number, part in enumerate(parts)]


def folded(tokens: Sequence[tuple[str, str]], width: int, max_lines: int | None = None) -> list[Text]:
    """Break styled text into lines of at most ``width`` columns; what is beyond ``max_lines`` becomes an ellipsis."""
    lines, room = [Text()], width
    for text, style in tokens:
        first = 0
        for number, char in enumerate(text):
            if cell_len(char) > room:
                lines[-1].append(text[first:number], style)
                if len(lines) == max_lines:
                    lines[-1].right_crop(1)
                    return [*lines[:-1], lines[-1].append(MORE)]
                lines.append(Text())
                first, room = number, width
            room -= cell_len(char)
        lines[-1].append(text[first:], style)
    return lines


def document_bar(lengths: Sequence[int], seq_len: int, look: Look) -> Text:
    """A row as one line of blocks: a letter and a colour for each passage, dots for padding."""
    edges = np.cumsum([0, *lengths])
    columns = min(look.width, seq_len)
    at = np.searchsorted(edges, np.arange(columns) * seq_len // columns, side="right") - 1
    bar = Text()
    for passage, cells in itertools.groupby(at.tolist()):
        inside = passage < len(lengths)
        style = DOCUMENT_STYLES[passage % len(DOCUMENT_STYLES)] if look.colour and inside else ""
        bar.append((letter(passage) if inside else PADDING) * len(list(cells)), style)
    return bar


def letter(passage: int) -> str:
    """The letter of a passage in its row."""
    return LETTERS[passage % len(LETTERS)]


def mask_picture(doc_ids: Int64[np.ndarray, " seq"], cells: int) -> list[str]:
    """The attention mask of a row, coarsely: a block where some token of a line sees one of a column.

    Args:
        doc_ids: Document of each position.
        cells: Lines and columns of the picture, at most.
    """
    seq = len(doc_ids)
    cells = min(cells, seq)
    edges = np.arange(cells + 1) * seq // cells
    low, high = doc_ids[edges[:-1]], doc_ids[edges[1:] - 1]
    # Documents only count up along a row, so two stretches share one if their ranges meet.
    sees = (low[:, None] <= high[None, :]) & np.tri(cells, dtype=bool)
    return ["".join("██" if seen else "  " for seen in line).rstrip() for line in sees.tolist()]
