import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ftfy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayllm.core.config import load_config
from rayllm.core.stage import Task
from rayllm.corpus.clean import Boilerplate, CleanByContent, CleanSettings, clean_text, fix_encoding
from rayllm.pipelines.prepare import Config, run

Prepare = Callable[..., dict[str, Any]]
Texts = Callable[..., list[str]]
Jsonl = Callable[..., str]

GOOD = """The river comes down from the hills behind the town, and in spring it has more water than its bed can hold.
Farmers have known that for a long time. They built their houses on higher ground, with the barns below.
When the snow melts, children are sent out each morning to look at the marks on the old bridge.
If the water stands above the third of them, school is closed, because the road to it will soon be flooded.
Nobody remembers who cut these marks into the stone; some say it was a miller whose wheel had been swept away."""
PRESETS = Path(__file__).resolve().parents[2] / "configs" / "prepare"

ODD = st.text(
    alphabet=st.sampled_from(list("ab \t\n\r\x00\x0c\u0301e\u00e9\u200b\u2028\u0085\ufeff\u202e\u00a0\u1100\u1161"))
)
#: Pieces of UTF-8 read as Latin-1 and as Windows-1252, and what cleaning removes, in any order.
BROKEN = st.text(
    alphabet=st.sampled_from(list("\u00e2\u20ac\u2122\u0080\u0099\u00c3\u00a9\u00c2\u00a0\u00ad\u200b ax"))
)
WEB = st.lists(
    st.sampled_from(
        [
            "A whole sentence.",
            "Menu",
            "[1]",
            "[[2]3]",
            "[edit]",
            "We use cookies.",
            "One. [4]",
            "a b",
            "",
            "x" * 1200 + ".",
        ]
    ),
    max_size=6,
).map("\n".join)
SETTINGS = [
    CleanSettings(fix_encoding=False),
    CleanSettings(),
    CleanSettings(boilerplate=Boilerplate()),
    CleanSettings(boilerplate=Boilerplate(terminal_punctuation=False, min_line_words=0)),
]
LINES = CleanSettings(boilerplate=Boilerplate())


@pytest.mark.parametrize("settings", SETTINGS)
@settings(deadline=None)
@given(text=st.text() | ODD | BROKEN | WEB)
def test_cleaning_again_changes_nothing(settings: CleanSettings, text: str) -> None:
    once = clean_text(text, settings)
    assert clean_text(once, settings) == once
    assert unicodedata.is_normalized("NFC", once)
    assert "\r" not in once
    assert "\n\n\n\n" not in once


@settings(deadline=None)
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


@pytest.mark.parametrize("page", ["latin-1", "windows-1252", "windows-1251", "windows-1250", "mac-roman", "cp437"])
def test_utf8_read_by_another_code_page_is_repaired(page: str) -> None:
    text = "It\u2019s \u201creally\u201d a caf\u00e9 \u2013 na\u00efve"
    try:
        broken = text.encode().decode(page)
    except UnicodeDecodeError:
        broken = text.encode().decode(f"sloppy-{page}")
    assert broken != text
    assert clean_text(broken) == text
    assert clean_text(broken, CleanSettings(fix_encoding=False)) != text


@settings(deadline=None)
@given(st.text(max_size=8), st.text(max_size=4), st.sampled_from(["latin-1", "sloppy-windows-1252", "macroman"]))
def test_the_cheap_signs_miss_nothing_that_ftfy_would_repair(text: str, good: str, page: str) -> None:
    mixed = good + text.encode("utf-8", "ignore").decode(page) + good
    assert fix_encoding(mixed) == ftfy.fix_encoding(mixed)


@pytest.mark.parametrize(
    "text",
    [
        "Stra\u00dfe \u201eM\u00fcnchen\u201c",
        "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440",
        "\u65e5\u672c\u8a9e",
        "d\u00e9j\u00e0 vu\u2026",
    ],
)
def test_good_text_of_other_languages_stays(text: str) -> None:
    assert clean_text(text) == text


def test_code_and_mathematics_keep_their_characters_and_prose_its_lines() -> None:
    contents = CleanByContent()
    broken = "caf\u00c3\u00a9"
    assert clean_text(broken, contents.of("code")) == clean_text(broken, contents.of("math")) == broken
    assert clean_text(broken + "\nMenu", contents.of("prose")) == "caf\u00e9\nMenu"


@pytest.mark.parametrize(
    "line",
    [
        "Home About Contact",
        "The story goes on...",
        "Too short.",
        "Please enable JavaScript to see this page.",
        "This site uses cookies to work.",
        "Read our Terms of Use before you go on.",
        "By reading this you accept our privacy policy.",
        "We made use of cookies here.",
        "A word " + "x" * 1001 + " that nobody wrote.",
    ],
)
def test_boilerplate_lines_are_left_out(line: str) -> None:
    assert clean_text(f"This is a sentence.\n{line}\nThis is another one!", LINES) == (
        "This is a sentence.\nThis is another one!"
    )
    assert line[:20] in clean_text(f"This is a sentence.\n{line}")


def test_citations_go_and_their_lines_stay() -> None:
    assert clean_text("The river is long.[3] It is old.[citation needed]", LINES) == "The river is long. It is old."
    kept = LINES.model_copy(update={"boilerplate": Boilerplate(citations=False, terminal_punctuation=False)})
    assert clean_text("The river is long.[3]", kept) == "The river is long.[3]"


def test_without_the_rule_of_punctuation_headings_stay() -> None:
    settings = CleanSettings(boilerplate=Boilerplate(terminal_punctuation=False))
    assert clean_text("A heading of words\nThis is a sentence.\nMenu", settings) == (
        "A heading of words\nThis is a sentence."
    )


def test_a_preparation_cleans_each_content_by_its_own_settings(
    tmp_path: Path, prepare: Prepare, corpus_texts: Texts, jsonl: Jsonl
) -> None:
    path = jsonl("a.jsonl", [{"text": "A caf\u00c3\u00a9 is open.\nMenu\nIt is closed on Sundays."}])
    sources = {name: {"kind": "jsonl", "path": path, "content": name} for name in ("prose", "code")}
    settings = {"clean": {"prose": {"boilerplate": {}}}, "validation": {"heldout_frac": 0}}
    prepare(tmp_path / "prose", {"prose": sources["prose"]}, **settings)
    assert corpus_texts(tmp_path / "prose", "train", "prose") == ["A caf\u00e9 is open.\nIt is closed on Sundays."]
    prepare(tmp_path / "code", {"code": sources["code"]}, **settings)
    assert corpus_texts(tmp_path / "code", "train", "code") == [
        "A caf\u00c3\u00a9 is open.\nMenu\nIt is closed on Sundays."
    ]


def test_how_texts_are_cleaned_shapes_the_identity_of_the_corpus() -> None:
    base = {"name": "t", "sources": {"math": {"kind": "synthetic_math"}}}
    cleanings: list[dict[str, Any]] = [
        {},
        {"prose": {"fix_encoding": False}},
        {"prose": {"boilerplate": {}}},
        {"prose": {"boilerplate": {"min_line_words": 4}}},
        {"code": {"boilerplate": {}}},
    ]
    configs = [Config.model_validate({**base, "prepare": {"clean": clean}}) for clean in cleanings]
    assert len({Task("prepare", run, config).hash for config in configs}) == len(configs)


@pytest.mark.parametrize("preset", ["gopher", "c4", "fineweb"])
def test_a_preset_keeps_good_prose_and_drops_what_its_paper_drops(
    preset: str, tmp_path: Path, prepare: Prepare, corpus_texts: Texts, jsonl: Jsonl
) -> None:
    (tmp_path / "run.yaml").write_text(
        f"name: t\nsources: {{math: {{kind: synthetic_math}}}}\nprepare: {{base: {PRESETS / preset}.yaml}}\n"
    )
    config = load_config(str(tmp_path / "run.yaml"), [], Config).prepare
    bad = {
        "gopher": "the cat sat on that mat and the dog ran to the old house. " * 20,
        "c4": f"{GOOD}\nNobody ever wrote a {{ in here before.",
        "fineweb": re.sub(r"[.](?=\n|$)", "", GOOD),
    }[preset]
    sources = {"web": {"kind": "jsonl", "path": jsonl("a.jsonl", [{"text": GOOD}, {"text": bad}])}}
    settings = config.model_dump(include={"clean", "rules", "language", "near_duplicates"})
    counts = prepare(tmp_path / "out", sources, validation={"heldout_frac": 0}, **settings)
    assert corpus_texts(tmp_path / "out", "train", "web") == [GOOD]
    (reason,) = counts["web"]["dropped"]
    assert reason.startswith(f"{preset}_")
