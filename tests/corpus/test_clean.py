import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from rayllm.corpus.clean import clean_text

ODD = st.text(
    alphabet=st.sampled_from(list("ab \t\n\r\x00\x0c\u0301e\u00e9\u200b\u2028\u0085\ufeff\u202e\u00a0\u1100\u1161"))
)


@given(st.text() | ODD)
def test_cleaning_again_changes_nothing(text: str) -> None:
    once = clean_text(text)
    assert clean_text(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert "\r" not in once
    assert "\n\n\n\n" not in once


@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), min_size=1))
def test_plain_text_stays(text: str) -> None:
    assert clean_text(text) == text


def test_line_ends_controls_blanks_and_unicode_form() -> None:
    assert clean_text("\ufeffa\r\nb\rc\x00\x0c\u2028d  \t\n") == "a\nb\nc\nd"
    assert clean_text("e\u0301 \u202eevil\u200b") == "\u00e9 evil"
    assert clean_text("a\n \n\t\n\n\nb") == "a\n\n\nb"


def test_indentation_tabs_and_two_blank_lines_stay() -> None:
    code = "    def f():\n\treturn 1\n\n\nclass A:"
    assert clean_text("\n" + code + "\n\n") == code
