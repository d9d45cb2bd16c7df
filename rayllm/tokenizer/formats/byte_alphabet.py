"""Bytes as printable characters, the spelling of byte-level vocabularies in ``vocab.json`` and ``tokenizer.json``.

Source: Radford et al. 2019, GPT-2, ``encoder.py``: printable Latin-1 bytes stand for themselves, the others for the
characters from U+0100 on.
"""

_PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]

#: The character of each byte.
BYTE_CHARS: tuple[str, ...] = tuple(
    chr(byte) if byte in _PRINTABLE else chr(0x100 + _OTHERS.index(byte)) for byte in range(256)
)

#: The bytes that occur in UTF-8, of which every text is made; a vocabulary needs no others.
TEXT_BYTES: tuple[int, ...] = tuple(byte for byte in range(0xF5) if byte not in (0xC0, 0xC1))

_BYTES = {char: byte for byte, char in enumerate(BYTE_CHARS)}


def spell(token: bytes) -> str:
    """Bytes as the characters that stand for them."""
    return "".join([BYTE_CHARS[byte] for byte in token])


def unspell(token: str) -> bytes:
    """The bytes behind a token's characters.

    Raises:
        KeyError: If a character stands for no byte.
    """
    return bytes([_BYTES[char] for char in token])
