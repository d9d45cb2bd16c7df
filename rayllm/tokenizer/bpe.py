"""Byte-level BPE, trained on text.

In: texts. Out: the bytes of a ``tokenizer.json``. All 256 bytes are in the vocabulary, so every text has an encoding
and decodes to itself. The pre-tokenizer is GPT-4's: words with the space or sign before them, runs of signs, line
breaks, and digits in short groups, so that numbers are spelt in pieces of known length instead of frequent numbers.
The special tokens come first: ``<|endoftext|>`` is id 0 in every tokenizer that we train.

Source: Sennrich et al. 2016, arXiv:1508.07909 (BPE); Radford et al. 2019, GPT-2, section 2.2 (bytes); the pattern is
that of ``cl100k_base`` in openai/tiktoken.
"""

from collections.abc import Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from rayllm.tokenizer.special import special_tokens

_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,{max_digits}}}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_bpe(
    texts: Iterator[str], *, vocab_size: int, min_frequency: int, max_digits: int, num_reserved: int
) -> bytes:
    """Learn merges from texts; the same texts give the same bytes, whatever the number of threads.

    Args:
        texts: Read once; only the counts of distinct words are held in memory.
        vocab_size: Ids in all, special tokens and the 256 bytes included; fewer when the texts run out of pairs.
        min_frequency: A pair seen less often is not merged.
        max_digits: Longest group of digits in a token, 1 to 3.
        num_reserved: Special tokens kept for later use.

    Returns:
        The content of ``tokenizer.json``.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN.format(max_digits=max_digits)), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=special_tokens(num_reserved),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.to_str(pretty=True).encode()
