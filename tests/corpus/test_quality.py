"""Every rule drops a text made for it, and measures what a plain, slow reading of its paper measures."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayllm.corpus.quality import Rules, RulesByContent, broken_rule, broken_rules
from rayllm.corpus.quality.batch import BATCH_CHARS, TextBatch
from rayllm.corpus.quality.c4 import C4, sentences
from rayllm.corpus.quality.fineweb import FineWeb
from rayllm.corpus.quality.gopher import GopherQuality
from rayllm.corpus.quality.repetition import GopherRepetition

DOCS = Path(__file__).resolve().parents[2] / "docs" / "quality-rules.md"
PROSE = (
    "The people of the village have to walk to the river, and that is where they meet. "
    "It is a long way, but nobody would think of staying at home when the weather is good. "
    "In the evening they return with fish and stories, and the children listen until they sleep. "
    "Nothing about it has changed since their grandparents were young."
)
SENTENCES = [sentence.rstrip(".") + "." for sentence in PROSE.split(". ")]
DEFAULTS = RulesByContent()
GOPHER = Rules(gopher_quality=GopherQuality())
REPETITION = Rules(gopher_repetition=GopherRepetition())
PAGES = Rules(c4=C4())
FINEWEB = Rules(fineweb=FineWeb())
FULL = Rules(
    gopher_quality=GopherQuality(marks_are_words=True),
    c4=C4(),
    fineweb=FineWeb(),
    gopher_repetition=GopherRepetition(),
)


def only(**thresholds: object) -> Rules:
    """Repetition rules of which only those given are on."""
    off = {name: None for name in GopherRepetition.model_fields if not name.endswith("gram_frac")}
    return Rules(
        gopher_repetition=GopherRepetition.model_validate(
            {**off, "max_top_ngram_frac": {}, "max_repeated_ngram_frac": {}, **thresholds}
        )
    )


def numbered(words: int) -> str:
    """Words that do not repeat."""
    return " ".join(f"w{number}x" for number in range(words))


def repeating(n: int, limit: float) -> str:
    """A text in which one sequence of n words occurs twice and makes up a little more than the limit."""
    phrase = " ".join(f"phrase{number:02d}" for number in range(n))
    others = max(int(len(phrase.replace(" ", "")) / limit / 7) - 2 * n, 1)
    return f"{phrase} . {numbered(others)} . {phrase}"


BREAKING: dict[str, tuple[str, Rules]] = {
    "empty": ("\n \n", Rules()),
    "too_long": (PROSE, Rules(max_chars=100)),
    "too_short": ("x = 1", DEFAULTS.code),
    "repeated_lines": ("\n".join([PROSE[:80]] * 5 + [PROSE]), DEFAULTS.prose),
    "long_line": ("x = 1\n" * 50 + "y = " + "a b " * 400, DEFAULTS.code),
    "long_lines": (("word " * 40 + "\n") * 5, DEFAULTS.code),
    "low_alphanumeric": ("+-*/ () [] {} <> !! ?? ;; ,, .. :: a b\n" * 3, DEFAULTS.code),
    "boilerplate": (PROSE + " Lorem ipsum dolor sit amet.", DEFAULTS.prose),
    "gopher_few_words": ("Too short for prose.", GOPHER),
    "gopher_many_words": (PROSE, Rules(gopher_quality=GopherQuality(max_words=60))),
    "gopher_short_words": ("a be to of " * 30, GOPHER),
    "gopher_long_words": ("the institutionalisation and internationalisation of incomprehensibilities " * 10, GOPHER),
    "gopher_hashes": (PROSE + " #tag" * 12, GOPHER),
    "gopher_ellipses": (PROSE.replace(" the", "... the") + " and so on\u2026" * 4, GOPHER),
    "gopher_bullets": ("\n".join(f"- {line} the end of" for line in SENTENCES * 3), GOPHER),
    "gopher_cut_lines": ("\n".join(f"{n} the people and the river have to wait longer..." for n in range(20)), GOPHER),
    "gopher_few_letters": (PROSE + " 1234" * 30, GOPHER),
    "gopher_stop_words": ("Menschen gehen morgens zum Fluss hinunter und treffen dort ihre Freunde. " * 6, GOPHER),
    "gopher_paragraphs": (f"{PROSE}\n\nShort.\n\nShort.\n\n{PROSE[:40]}", only(max_repeated_paragraph_frac=0.2)),
    "gopher_paragraph_chars": (f"{PROSE}\n\n{PROSE}\n\nOther.\n\nThings.\n\nToo.", REPETITION),
    "gopher_lines": ("\n".join(["Read more", *SENTENCES, "Read more"]), only(max_repeated_line_frac=0.15)),
    "gopher_line_chars": ("\n".join([*SENTENCES, SENTENCES[1]]), REPETITION),
    "gopher_top_2_gram": ("stay tuned " * 12 + numbered(30), REPETITION),
    "gopher_top_3_gram": (" ".join(f"one two three w{n}" for n in range(9)) + " " + numbered(100), only(
        max_top_ngram_frac={3: 0.18})),
    "gopher_top_4_gram": (" ".join(f"one two three four w{n}" for n in range(9)) + " " + numbered(100), only(
        max_top_ngram_frac={4: 0.16})),
    **{
        f"gopher_repeated_{n}_grams": (repeating(n, limit), only(max_repeated_ngram_frac={n: limit}))
        for n, limit in GopherRepetition().max_repeated_ngram_frac.items()
    },
    "c4_lorem_ipsum": (PROSE + " Lorem Ipsum dolor.", PAGES),
    "c4_curly_bracket": (PROSE + " {", PAGES),
    "c4_few_sentences": (PROSE, PAGES),
    "fineweb_punctuation": ("\n".join(f"a heading without an end {n} of many" for n in range(20)), FINEWEB),
    "fineweb_short_lines": ("\n".join(f"Short line {n}." for n in range(20)), FINEWEB),
    "fineweb_repeated_lines": ("\n".join([*SENTENCES, SENTENCES[0]]), FINEWEB),
    "fineweb_newlines": ("\n".join(f"supercalifragilisticexpialidocious{n}." for n in range(9)), FINEWEB),
}  # fmt: skip


def reasons_of(rules: Rules) -> list[str]:
    return [reason for reason, _ in rules.checks(TextBatch([PROSE]))]


ALL_ON = FULL.model_copy(
    update={name: 1 for name in ("min_words", "max_line_chars", "max_mean_line_chars")}
).model_copy(update={"max_repeated_line_frac": 0.5, "min_alphanumeric_frac": 0.5, "drop_phrases": ["x"]})


@pytest.mark.parametrize("reason", ["empty", *reasons_of(ALL_ON)])
def test_every_rule_has_a_text_that_it_drops(reason: str) -> None:
    text, rules = BREAKING[reason]
    assert broken_rule(text, rules) == reason


@pytest.mark.parametrize("reason", ["empty", *reasons_of(ALL_ON)])
def test_every_rule_is_in_the_documentation(reason: str) -> None:
    assert f"`{reason}`" in DOCS.read_text()


def test_ordinary_texts_are_kept_by_the_rules_of_their_content() -> None:
    assert broken_rule(PROSE, DEFAULTS.prose) is None
    assert broken_rule("def add(a, b):\n    return a + b\n\nprint(add(1, 2), add(3, 4), 'done')", DEFAULTS.code) is None
    assert broken_rule("What is 3 + 4?\n3 + 4 = 7.\n#### 7", DEFAULTS.math) is None


def test_good_prose_is_kept_by_all_sets_together() -> None:
    text = PROSE + " Some of them left for the town, where they found work and a house. Others stayed."
    assert broken_rule(text, FULL) is None


def test_thresholds_are_inclusive_as_in_the_papers() -> None:
    words = " ".join(["the", "river"] * 25)
    assert broken_rule(words, Rules(min_words=50)) is None
    assert broken_rule(words, Rules(min_words=51)) == "too_short"
    threes = "the and " * 30
    assert broken_rule(threes, Rules(gopher_quality=GopherQuality(max_mean_word_chars=3))) is None


def test_without_rules_only_empty_texts_are_dropped() -> None:
    assert broken_rules(["x", "", " \n"], None) == [None, "empty", "empty"]
    assert broken_rules(["x", ""], Rules(max_chars=None)) == [None, "empty"]
    assert broken_rules([], FULL) == []


def test_a_rule_of_zero_is_not_a_rule_that_is_off() -> None:
    hashes = GopherQuality(min_words=None, max_symbol_ratio=0, min_alpha_frac=None, min_stop_words=None)
    assert broken_rule("many # signs", Rules(gopher_quality=hashes)) == "gopher_hashes"
    assert broken_rule("a\na", Rules(max_repeated_line_frac=0)) == "repeated_lines"


TEXTS = st.lists(
    st.lists(
        st.sampled_from(
            ["the", "a", "have", "of", "river.", "Yes!", "#", "...", "\n", "\n\n", "- it", "{", "\u2026", "7"]
        )
        | st.text(max_size=4),
        max_size=40,
    ).map(" ".join),
    max_size=8,
)
STRICT = Rules(
    gopher_quality=GopherQuality(min_words=3, min_mean_word_chars=2),
    fineweb=FineWeb(),
    gopher_repetition=GopherRepetition(max_top_ngram_frac={2: 0.4}, max_repeated_ngram_frac={3: 0.3, 4: 0.2}),
)


@settings(deadline=None)
@given(TEXTS)
def test_a_text_is_judged_alike_alone_and_among_others(texts: list[str]) -> None:
    assert broken_rules(texts, STRICT) == [broken_rule(text, STRICT) for text in texts]


def test_a_long_text_and_many_short_ones_are_judged_in_order() -> None:
    texts = [PROSE] * 3 + [numbered(BATCH_CHARS // 4)] + ["short"] * 500 + [PROSE] * 400
    rules = Rules(gopher_quality=GopherQuality(max_words=10_000))
    assert broken_rules(texts, rules) == [None] * 3 + ["gopher_many_words"] + ["gopher_few_words"] * 500 + [None] * 400


def top_share(words: list[str], n: int, length: int) -> float:
    grams = [" ".join(words[start : start + n]) for start in range(len(words) - n + 1)]
    top, count = Counter(grams).most_common(1)[0] if grams else ("", 0)
    return len(top) * count / length


def repeated_share(words: list[str], n: int, length: int) -> float:
    seen: set[str] = set()
    chars = start = 0
    while start < len(words) - n + 1:
        gram = " ".join(words[start : start + n])
        chars += len(gram) - n + 1 if gram in seen else 0
        start += n if gram in seen else 1
        seen.add(gram)
    return chars / length


def slow_repetition(text: str, rules: GopherRepetition) -> Iterator[str]:
    """What datatrove's filter computes, read off its source, for words between spaces."""
    words = text.split()
    for n, limit in sorted(rules.max_top_ngram_frac.items()):
        if top_share(words, n, len(text)) > limit:
            yield f"gopher_top_{n}_gram"
    for n, limit in sorted(rules.max_repeated_ngram_frac.items()):
        if repeated_share(words, n, len(text)) > limit:
            yield f"gopher_repeated_{n}_grams"


@settings(deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(["ab", "bc", "abc", "zzzzzz", "d", "longerword"]), min_size=1, max_size=60), max_size=6
    ),
    st.sampled_from([0.05, 0.2, 0.5]),
)
def test_repeated_ngrams_are_measured_exactly(texts: list[list[str]], limit: float) -> None:
    rules = only(max_top_ngram_frac={2: limit, 3: limit}, max_repeated_ngram_frac={2: limit, 3: limit, 5: limit})
    joined = [" ".join(words) for words in texts]
    assert rules.gopher_repetition is not None
    expected = [next(slow_repetition(text, rules.gopher_repetition), None) for text in joined]
    assert broken_rules(joined, rules) == expected


@settings(deadline=None)
@given(TEXTS)
def test_lines_and_paragraphs_are_those_of_the_text(texts: list[str]) -> None:
    texts = [re.sub(r"[^\S\n]+(?=\n)", "", text) for text in texts]  # as cleaning leaves them
    batch = TextBatch(texts)
    lines = [line.strip() for text in texts for line in text.split("\n") if line.strip()]
    assert parts(batch, "lines") == lines
    paragraphs = [part.strip() for text in texts for part in re.split("\n{2,}", text) if part.strip()]
    assert parts(batch, "paragraphs") == paragraphs
    assert parts(batch, "chunks") == [chunk for text in texts for chunk in text.split()]


def parts(batch: TextBatch, kind: str) -> list[str]:
    spans, everything = getattr(batch, kind), "\n" + "\n".join(batch.texts)
    return [everything[start:stop] for start, stop in zip(spans.starts.tolist(), spans.ends.tolist(), strict=True)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello, world.", "Hello|,|world|."),
        ('He said: "Yes!" (loudly)...', 'He|said|:|"|Yes|!|"|(|loudly|)|...'),
        ("I don't think it's well-known; they've seen the dog's.", "I|do|n't|think|it|'s|well|-|known|;|they|'ve|seen"
         "|the|dog|'s|."),
        ("$10,000 for 5.30 at J. Smith's in the U.S. today", "$|10,000|for|5.30|at|J.|Smith|'s|in|the|U.S.|today"),
        ("see http://a.org/b-c/d:e and a,b or x/y 3-4", "see|http://a.org/b-c/d:e|and|a|,|b|or|x|/|y|3|-|4"),
        ("caf\u00e9\u2026and \u2014 done\u2122", "caf\u00e9|\u2026|and|\u2014|done|\u2122"),
        ("end.Next e.g this", "end|.|Next|e.g|this"),
        ("of \"five\".Fort", "of|\"|five\"|.|Fort"),
        ("(e.g., at 7 a.m. in St. Ives; Dr. Co, of Co.", "(|e.g.|,|at|7|a.m.|in|St.|Ives|;|Dr.|Co|,|of|Co."),
        ("MR. x-St. etc. Mr.. so b. \"Messrs.\" Xmr.", "MR|.|x|-|St|.|etc|.|Mr|..|so|b.|\"|Messrs.|\"|Xmr|."),
    ],
)  # fmt: skip
def test_words_are_parted_as_spacy_does(text: str, words: str) -> None:
    assert parts(TextBatch([text]), "words") == words.split("|")


@settings(deadline=None)
@given(TEXTS)
def test_words_hold_every_character_but_spaces_once(texts: list[str]) -> None:
    assert "".join(parts(TextBatch(texts), "words")) == "".join("".join(text.split()) for text in texts)


def test_sentences_end_with_a_mark_and_what_closes_it() -> None:
    texts = [PROSE, 'One. "Two!" Three? (Four.)', "A heading\nOne line. Two", "3.14 is a number", ""]
    assert sentences(TextBatch(texts)).tolist() == [4, 4, 3, 1, 0]
