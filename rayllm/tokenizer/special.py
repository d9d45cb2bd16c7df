"""Special tokens: the ones of our own tokenizers, and the end of text in those of others."""

from tokenizers import Tokenizer

from rayllm.core.errors import DataError

SEPARATOR = "<|endoftext|>"
PAD = "<|pad|>"
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
NUM_BYTES = 256

#: Names of the end-of-text token in the families of tokenizers that we adopt, ours first.
SEPARATORS = (SEPARATOR, "<|end_of_text|>", "</s>", "<eos>")


def special_tokens(num_reserved: int) -> list[str]:
    """The special tokens of a tokenizer of ours in the order of their ids, from 0."""
    return [SEPARATOR, PAD, TURN_START, TURN_END, *(f"<|reserved_{i}|>" for i in range(num_reserved))]


def smallest_vocab(num_reserved: int) -> int:
    """Ids of a tokenizer of ours that has learned nothing."""
    return NUM_BYTES + len(special_tokens(num_reserved))


def separator_of(tokenizer: Tokenizer, where: str) -> tuple[str, int]:
    """Name and id of the token that ends a text.

    Raises:
        DataError: If the tokenizer has none of the known names.
    """
    for name in SEPARATORS:
        if (found := tokenizer.token_to_id(name)) is not None:
            return name, found
    raise DataError(
        "the tokenizer has no token that can separate documents",
        where=where,
        why=f"it has none of {', '.join(SEPARATORS)}",
        fix=f"add `{SEPARATOR}` to it as a special token, or train a tokenizer of your own",
    )
