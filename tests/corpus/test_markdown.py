from hypothesis import given
from hypothesis import strategies as st

from rayllm.corpus.extract.markdown import drop_comments, split_front_matter, split_sections

LINES = st.lists(
    st.sampled_from(
        ["# A", "## B ##", "###### C", "#no", "```", "~~~", "````", "<!-- x -->", "text", "", "    # code"]
    ),
    max_size=12,
)


@given(LINES, st.integers(1, 6))
def test_sections_hold_every_line_once(lines: list[str], level: int) -> None:
    text = "\n".join(lines)
    assert "\n".join(section for _, section in split_sections(text, level)) == text


@given(LINES)
def test_a_text_without_comments_stays_as_it_is(lines: list[str]) -> None:
    text = "\n".join(line for line in lines if "<!--" not in line)
    assert drop_comments(text) == text


def test_comments_go_except_in_code() -> None:
    assert drop_comments("a <!-- b --> c <!-- d\ne -->f") == "a  c\nf"
    assert drop_comments("`<!-- a -->` <!-- b -->x") == "`<!-- a -->` x"
    assert drop_comments("```\n<!-- a -->\n```") == "```\n<!-- a -->\n```"
    assert drop_comments("<!--\n```\nhidden\n```\n-->\nshown") == "shown"
    assert drop_comments("a\n<!-- never closed\nb") == "a"


def test_a_fence_ends_with_one_as_long_and_of_the_same_kind() -> None:
    text = "````\n```\n# not\n~~~~\n````\n# yes"
    assert [title for title, _ in split_sections(text, 1)] == ["", "yes"]


def test_only_a_mapping_between_dashes_is_front_matter() -> None:
    assert split_front_matter("---\ntitle: x\n---\n\nbody") == ({"title": "x"}, "body")
    for text in ("no", "---\nno end", "---\n- a list\n---\nbody", "---\n: [bad\n---\nbody", "a\n---\nb: c\n---\n"):
        assert split_front_matter(text) == ({}, text)


def test_front_matter_that_multiplies_itself_is_not_expanded() -> None:
    text = "---\na: &a [x, x]\nb: &b [*a, *a]\n---\nbody"
    assert split_front_matter(text) == ({}, text)
