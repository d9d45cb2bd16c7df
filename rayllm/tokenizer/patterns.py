"""How texts are cut into pieces before merging: the patterns by name, and as a pre-tokenizer.

No merge crosses a piece. A vocabulary gives the right ids only with the pattern that it was trained with, and most file
formats do not carry it; so it is named in the config, and nothing is guessed.

Source: openai/tiktoken, ``tiktoken_ext/openai_public.py`` (gpt2, cl100k, o200k); PythonNut/superbpe, ``utils.py``
(superbpe: the pre-tokenizer of ``OLMo2-8B-SuperBPE``; superwords: its ``scripts/extend_tokenizer.sh``).
"""

import re

from tokenizers import Regex, pre_tokenizers

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"

#: Digits in threes, counted from the right: the end of ``12345`` is ``345``, as in how numbers are read.
_THOUSANDS = r"(?=(\d{3})+(?!\d))"

PATTERNS: dict[str, str] = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "cl100k": rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}",
    "o200k": rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?|\p{{N}}{{1,3}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "superbpe": _THOUSANDS,
}

#: Special tokens that belong to the vocabulary of a named pattern but are not in its file.
SPECIAL_TOKENS: dict[str, dict[str, int]] = {
    "cl100k": {
        "<|endoftext|>": 100257,
        "<|fim_prefix|>": 100258,
        "<|fim_middle|>": 100259,
        "<|fim_suffix|>": 100260,
        "<|endofprompt|>": 100276,
    },
    "o200k": {"<|endoftext|>": 199999, "<|endofprompt|>": 200018},
}


def words(max_digits: int) -> str:
    """GPT-4's pattern with digits in groups of at most ``max_digits``: no piece holds more than one word."""
    digits = {1: r"\p{N}", 2: r"\p{N}{1,2}", 3: r"\p{N}{1,3}"}[max_digits]
    pattern = PATTERNS["cl100k"].replace(r"\p{N}{1,3}", digits)
    return _same_spaces(pattern) if max_digits == 2 else pattern  # the others are known by name to fast encoders


def superwords(max_digits: int) -> str:
    """Where a token that crosses words must end: groups of digits, runs of signs, and spaces before the last one."""
    return _same_spaces(rf"\p{{N}}{{1,{max_digits}}}| ?[^\s\p{{L}}\p{{N}}]{{2,}}[\r\n/]*| +(?!\S)")


def _same_spaces(pattern: str) -> str:
    """Count U+180E as white space, whatever the engine thinks of it: Oniguruma says no, PCRE yes."""
    inside = pattern.replace(r"[^\s", "[^\\s\u180e")
    return re.sub(r"(?<!\^)\\s", "[\\\\s\u180e]", inside).replace(r"\S", "[^\\s\u180e]")


def byte_level(pattern: str) -> pre_tokenizers.PreTokenizer:
    """Cut by a pattern, then spell each piece in bytes.

    Args:
        pattern: A name of ``PATTERNS``, or a regular expression whose matches are the pieces.

    Raises:
        ValueError: If it is neither.
    """
    if pattern == "gpt2":  # the component's own pattern, by which every library knows GPT-2
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    expression = PATTERNS.get(pattern, pattern)
    if pattern not in PATTERNS and re.fullmatch(r"\w+", pattern):
        raise ValueError(f"{pattern!r} is not a pattern; known: {', '.join(PATTERNS)}")
    try:
        split = pre_tokenizers.Split(Regex(expression), behavior="isolated")
    except Exception as error:  # `tokenizers` raises nothing narrower
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
    # Published superword vocabularies keep all digits apart from the rest first, then cut them in threes.
    digits = [pre_tokenizers.Digits(individual_digits=False)] if pattern == "superbpe" else []
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([*digits, split, spell])
