from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from rayllm.inference.text_stream import TextStream


def bytes_to_text(ids: Sequence[int]) -> str:
    return bytes(ids).decode(errors="replace")


@given(st.text(max_size=40))
def test_the_pieces_make_the_text_and_no_piece_holds_half_a_character(text: str) -> None:
    stream = TextStream(bytes_to_text)
    pieces = [stream.push(byte) for byte in text.encode()]
    assert "".join([*pieces, stream.flush()]) == text
    if "\ufffd" not in text:
        assert all("\ufffd" not in piece for piece in pieces)


def test_text_comes_as_soon_as_a_character_is_whole() -> None:
    stream = TextStream(bytes_to_text)
    assert [stream.push(byte) for byte in "aé€".encode()] == ["a", "", "é", "", "", "€"]


def test_bytes_that_never_become_a_character_come_out_at_the_end() -> None:
    stream = TextStream(bytes_to_text)
    assert stream.push("é".encode()[0]) == ""
    assert stream.flush() == "\ufffd"
    assert stream.flush() == ""
