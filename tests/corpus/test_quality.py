import pytest

from rayllm.corpus.quality import RULES, Rules, RulesByContent, broken_rule

PROSE = (
    "The people of the village have to walk to the river, and that is where they meet. "
    "It is a long way, but nobody would think of staying at home when the weather is good. "
    "In the evening they return with fish and stories, and the children listen until they sleep. "
    "Nothing about it has changed since their grandparents were young."
)
DEFAULTS = RulesByContent()


def test_ordinary_texts_are_kept_by_the_rules_of_their_content() -> None:
    assert broken_rule(PROSE, DEFAULTS.prose) is None
    assert broken_rule("def add(a, b):\n    return a + b\n\nprint(add(1, 2), add(3, 4), 'done')", DEFAULTS.code) is None
    assert broken_rule("What is 3 + 4?\n3 + 4 = 7.\n#### 7", DEFAULTS.math) is None


BREAKING = {
    "empty": ("\n \n", Rules()),
    "too_long": (PROSE, Rules(max_chars=100)),
    "too_short": ("Too short for prose.", DEFAULTS.prose),
    "word_length": ("a be to of " * 30, DEFAULTS.prose),
    "symbols": (PROSE + " #tag" * 12, DEFAULTS.prose),
    "bullets": ("\n".join(f"- {line} the end of" for line in PROSE.split(". ") * 3), DEFAULTS.prose),
    "ellipses": (
        "\n".join(f"{number} the people and the river have to wait longer..." for number in range(20)),
        Rules(max_ellipsis_frac=0.3),
    ),
    "low_alpha": (PROSE + " 1234" * 30, DEFAULTS.prose),
    "stop_words": ("Menschen gehen morgens zum Fluss hinunter und treffen dort ihre Freunde. " * 6, DEFAULTS.prose),
    "repeated_lines": ("\n".join([PROSE[:80]] * 5 + [PROSE]), DEFAULTS.prose),
    "long_line": ("x = 1\n" * 50 + "y = " + "a b " * 400, DEFAULTS.code),
    "long_lines": (("word " * 40 + "\n") * 5, DEFAULTS.code),
    "low_alphanumeric": ("+-*/ () [] {} <> !! ?? ;; ,, .. :: a b\n" * 3, DEFAULTS.code),
    "boilerplate": (PROSE + " Lorem ipsum dolor sit amet.", DEFAULTS.prose),
}


@pytest.mark.parametrize("reason", ["empty", *RULES])
def test_every_rule_has_a_text_that_it_drops(reason: str) -> None:
    text, rules = BREAKING[reason]
    assert broken_rule(text, rules) == reason


def test_thresholds_are_inclusive_as_in_the_papers() -> None:
    words = " ".join(["the", "river"] * 25)
    assert broken_rule(words, Rules(min_words=50)) is None
    assert broken_rule(words, Rules(min_words=51)) == "too_short"
    assert broken_rule("aaa", Rules(min_mean_word_chars=3, max_mean_word_chars=3)) is None


def test_without_rules_only_empty_texts_are_dropped() -> None:
    assert broken_rule("x", None) is None
    assert broken_rule("x", Rules(max_chars=None)) is None
    assert broken_rule("", None) == "empty"


def test_a_rule_of_zero_is_not_a_rule_that_is_off() -> None:
    assert broken_rule("a # b", Rules(max_symbol_ratio=0)) == "symbols"
    assert broken_rule("a\na", Rules(max_repeated_line_frac=0)) == "repeated_lines"
