from pathlib import Path

import pytest

from rayllm.corpus.builtin.packages import python_files
from rayllm.corpus.builtin.prose import find_docstrings, prose_of_metadata, prose_of_python, prose_paragraphs

MODULE = rb'''# A comment before the docstring.
"""Tools for reading rivers and for telling how deep they are today.

The depth is measured at noon, and
the result is kept for a year at least.

    depth = read(river)  # this is code, not prose at all.
"""

class River:  # a comment
    """A river that has a name, a source and a mouth in the sea.

    Args:
        name: The name that the people of the valley use for it.
        depth (float): What is measured, in meters, at the deepest place.

    >>> River("Rhine")
    <River Rhine>
    """

    def flow(self):
        r"""Return how fast the water of the \river moves on an ordinary day."""
        x = """Not a docstring although it is a sentence with enough words in it."""
        return x
'''


def test_docstrings_are_found_and_other_strings_are_not() -> None:
    found = list(find_docstrings(MODULE))
    assert [text[:15] for text in found] == ["Tools for readi", "A river that ha", "Return how fast"]
    assert list(find_docstrings(b'x = 1\n"""unclosed')) == []
    assert list(find_docstrings(b"def f():\n    '''a \"\"\" b'''")) == ['a """ b']


def test_paragraphs_are_prose_in_one_line_and_the_rest_is_left_out() -> None:
    assert list(prose_of_python(MODULE)) == [
        "Tools for reading rivers and for telling how deep they are today.",
        "The depth is measured at noon, and the result is kept for a year at least.",
        "A river that has a name, a source and a mouth in the sea.",
        "The name that the people of the valley use for it.",
        "What is measured, in meters, at the deepest place.",
        "Return how fast the water of the \\river moves on an ordinary day.",
    ]


@pytest.mark.parametrize(
    ("marked", "plain"),
    [
        (
            "See :class:`~river.River` for the one that has the most **important** part.",
            "See river.River for the one that has the most important part.",
        ),
        (
            "The [home page](https://x.y) says what there is to know about every river.",
            "The home page says what there is to know about every river.",
        ),
        (
            "Read `the guide <https://x.y>`_ before you go to the river in the spring.",
            "Read the guide before you go to the river in the spring.",
        ),
    ],
)
def test_markup_is_taken_off(marked: str, plain: str) -> None:
    assert list(prose_paragraphs(marked)) == [plain]


@pytest.mark.parametrize(
    "text",
    [
        "for x in range(10): print(x, y, z, file=stream, flush=True, end='').",
        "Licensed under the terms of a licence that nobody has ever read in full.",
        "```\nThis is a sentence with many words inside of a fenced block of code.\n```",
        "+----+\n| This is a table with a sentence of more than nine words in it. |",
        "lower case beginnings are mostly the rest of something that was cut off.",
    ],
)
def test_what_is_not_prose_is_left_out(text: str) -> None:
    assert list(prose_paragraphs(text)) == []


def test_descriptions_begin_after_the_header() -> None:
    header = b"Metadata-Version: 2.1\nName: x\nSummary: This is a header with more than nine words in it.\n\n"
    data = header + b"# X\n\nThis package reads all the rivers of the world and nothing else."
    assert list(prose_of_metadata(data)) == ["This package reads all the rivers of the world and nothing else."]


def test_installed_packages_are_listed_in_a_fixed_order_whatever_is_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = python_files([])
    information = tmp_path / "other-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n\n" + "word " * 1000)
    (information / "RECORD").write_text("other-1.0.dist-info/METADATA,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))  # as importing Ray does
    assert packages == python_files([])
    labels = [file.label for package in packages for file in package]
    assert any(label.startswith("numpy/") for label in labels)
    assert not any("/tests/" in label or label.startswith("/") for label in labels)
    assert all(Path(file.uri).is_file() for package in packages[:20] for file in package)
    without = [file.label for package in python_files(["[!p]*", "py*"]) for file in package]
    assert without
    assert not any(label.startswith("numpy/") for label in without)
