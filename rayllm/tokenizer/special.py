"""Special tokens: the ones of our own tokenizers, and the end of text in those of others."""

from tokenizers import Tokenizer

from rayllm.core.errors import DataError

SEPARATOR = "<|endoftext|>"
PAD = "<|pad|>"
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
NUM_BYTES = 256

#: Names of the end-of-text token in the families of tokenizers that we adopt, ours first; others must be configured.
SEPARATORS = (SEPARATOR, "<|end_of_text|>", "</s>", "<eos>")


def special_tokens(num_reserved: int) -> list[str]:
    """The special tokens of a tokenizer of ours in the order of their ids, from 0."""
    return [SEPARATOR, PAD, TURN_START, TURN_END, *(f"<|reserved_{i}|>" for i in range(num_reserved))]


def smallest_vocab(num_reserved: int) -> int:
    """Ids of a tokenizer of ours that has learned nothing."""
    return NUM_BYTES + len(special_tokens(num_reserved))


def separator_of(tokenizer: Tokenizer, where: str, wanted: str | None = None) -> str:
    """Name of the special token that stands between documents.

    Args:
        tokenizer: Whose vocabulary it must be in.
        where: The tokenizer's file, for errors.
        wanted: Its name; by default the first of the known names that the vocabulary has.

    Raises:
        DataError: If the vocabulary has no such special token.
    """
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    for name in SEPARATORS if wanted is None else (wanted,):
        if name in special:
            return name
    shown = ", ".join(special[:8]) + (f" and {len(special) - 8} more" if len(special) > 8 else "")
    what = "the tokenizer has no token that can separate documents"
    if wanted is not None:
        known = tokenizer.token_to_id(wanted) is not None
        what = f"{wanted!r} is " + ("an ordinary token, which documents may contain" if known else "no special token")
    raise DataError(
        what,
        where=where,
        why=f"the special tokens are {shown}" if special else "the tokenizer has no special tokens",
        fix="name one of them in fit_tokenizer.separator"
        if special
        else f"add `{SEPARATOR}` to it as a special token (to a file that needs a pattern by "
        f"fit_tokenizer.special_tokens: {{'{SEPARATOR}': {tokenizer.get_vocab_size()}}}), or train one of your own",
    )


def ordinary(tokenizer: Tokenizer) -> Tokenizer:
    """Switch off the recognition of special tokens in text, and any truncation or padding of the file; in place."""
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
