from itertools import pairwise

import numpy as np
import pytest
from rich.cells import cell_len

from rayllm.commands.token_view import Look, document_bar, folded, mask_picture, printable, styled_tokens

PLAIN, COLOUR = Look(False, 20), Look(True, 20)


def test_boundaries_are_bars_or_alternating_colours():
    learnt = np.array([True, False, True])
    assert [text for text, _ in styled_tokens(["a", "b", "c"], learnt, PLAIN)] == ["a", "|~b", "|c"]
    texts, styles = zip(*styled_tokens(["a", "b", "c"], learnt, COLOUR), strict=True)
    assert texts == ("a", "b", "c")
    assert styles[0] == styles[2] != styles[1]
    assert "underline" in styles[1]


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\nb\tc", "a↵b→c"), ("\x1b[2J", "\\x1b[2J"), ("\u200b\u202e", "\\u200b\\u202e"), ("é 日 😀", "é 日 😀")],
)
def test_what_a_terminal_would_act_upon_is_shown(text, shown):
    assert printable(text) == shown


def test_lines_are_folded_by_columns_and_cut_with_an_ellipsis():
    tokens = [("ab", "red"), ("日本語", "blue"), ("xyz", "red")]
    lines = folded(tokens, 5)
    assert [line.plain for line in lines] == ["ab日", "本語x", "yz"]
    assert all(cell_len(line.plain) <= 5 for line in lines)
    assert [line.plain for line in folded(tokens, 5, max_lines=1)] == ["ab…"]
    assert [line.plain for line in folded(tokens[:1], 5, max_lines=1)] == ["ab"]


def test_the_bar_gives_each_document_its_share_of_the_row():
    assert document_bar([4, 2, 1], 8, PLAIN).plain == "AAAABBC·"
    assert document_bar([400, 200], 800, PLAIN).plain == "A" * 10 + "B" * 5 + "·" * 5


def test_the_mask_is_a_block_on_the_diagonal_for_each_document():
    doc_ids = np.array([1, 1, 1, 2, 3, 3])
    assert mask_picture(doc_ids, 6) == ["██", "████", "██████", "      ██", "        ██", "        ████"]
    assert mask_picture(doc_ids, 3) == ["██", "████", "    ██"]


def test_a_coarse_mask_shows_every_pair_that_sees_each_other():
    rng = np.random.default_rng(0)
    for cells in (1, 3, 7, 40):
        doc_ids = np.cumsum(rng.random(40) < 0.2)
        full = (doc_ids[:, None] == doc_ids) & np.tri(40, dtype=bool)
        edges = np.arange(cells + 1) * 40 // cells
        picture = mask_picture(doc_ids, cells)
        for line in range(cells):
            shown = [picture[line].ljust(2 * cells)[2 * column] == "█" for column in range(cells)]
            seen = [full[edges[line] : edges[line + 1], a:b].any() for a, b in pairwise(edges)]
            assert shown == seen
