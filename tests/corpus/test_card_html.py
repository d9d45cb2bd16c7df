import pytest

from rayllm.corpus.card.html import marked
from rayllm.corpus.sources import JsonlSource, PythonStdlibSource, SyntheticMathSource


@pytest.mark.parametrize(
    ("text", "part", "page"),
    [
        ("Max bought stamps. He left.", "bought   STAMPS", "Max <mark>bought stamps</mark>. He left."),
        ("a < b & 3*7 = <<3*7=21>>21", "3*7 = <<3*7", "a &lt; b &amp; <mark>3*7 = &lt;&lt;3*7</mark>=21&gt;&gt;21"),
        ("nothing <b>", "something", "nothing &lt;b&gt;"),
        ("nothing", "...", "nothing"),
    ],
)
def test_what_was_found_is_marked_and_all_else_is_text(text: str, part: str, page: str) -> None:
    assert str(marked(text, part)) == page


def test_sources_that_come_with_the_machine_say_under_which_terms() -> None:
    assert PythonStdlibSource().terms == "PSF-2.0, as Python itself"
    assert SyntheticMathSource(license="CC0").terms == "CC0"
    assert JsonlSource(path=["a"]).terms == ""
