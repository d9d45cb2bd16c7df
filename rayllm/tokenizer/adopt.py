"""Taking over a tokenizer that exists, byte for byte, after checking that texts survive it."""

import hashlib

from tokenizers import Tokenizer

from rayllm.core import storage
from rayllm.core.errors import ConfigError, DataError
from rayllm.tokenizer.codec import ordinary
from rayllm.tokenizer.freeze import check_sha256, parse_tokenizer
from rayllm.tokenizer.special import separator_of
from rayllm.tokenizer.token_bytes import token_bytes

#: Case, accents (composed and not), signs, scripts, emoji, white space of all kinds, special tokens as text.
PROBE = (
    "  Leading spaces, CamelCase, naïve cafe\u0301, 1234567.89\n\n\tdef f(x):\r\n        return x != 'y'  # ½ €\n"
    "中文 Ελληνικά русский العربية हिन्दी 한국어 👩‍👩‍👧 \u00a0\u200b\ufeff <|endoftext|></s>[MASK]\x00\x1b trailing   "
)


def read_tokenizer(uri: str, expected_sha256: str | None) -> bytes:
    """Read a ``tokenizer.json`` made elsewhere.

    Args:
        uri: The file.
        expected_sha256: What it must hash to, if known.

    Raises:
        ConfigError: If there is no such file.
        ArtifactDamaged: If it cannot be parsed, or has another hash.
        DataError: If texts do not survive it, or it has no end-of-text token.
    """
    try:
        data = storage.read_bytes(uri)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ConfigError(
            "there is no tokenizer file", where=f"fit_tokenizer.from_file: {uri}", fix="name a tokenizer.json"
        ) from error
    if expected_sha256 is not None:
        check_sha256(hashlib.sha256(data).hexdigest(), expected_sha256, where=uri)
    tokenizer = parse_tokenizer(data, uri)
    separator_of(tokenizer, uri)
    token_bytes(tokenizer)
    check_round_trip(ordinary(tokenizer), uri)
    return data


def check_round_trip(tokenizer: Tokenizer, where: str) -> None:
    """Encode and decode a text of many kinds of characters.

    Raises:
        DataError: If it comes back changed.
    """
    back = tokenizer.decode(tokenizer.encode(PROBE, add_special_tokens=False).ids, skip_special_tokens=False)
    if back != PROBE:
        at = next((i for i, (a, b) in enumerate(zip(PROBE, back, strict=False)) if a != b), min(len(PROBE), len(back)))
        raise DataError(
            "this tokenizer changes texts",
            where=where,
            why=f"{PROBE[at : at + 12]!r} came back as {back[at : at + 12]!r}",
            fix="use a tokenizer without normaliser (lower-casing, NFKC, added spaces)",
        )
