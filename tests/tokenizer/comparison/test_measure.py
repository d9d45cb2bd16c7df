"""Compression and fertility by hand."""

from rayllm.tokenizer.comparison.measure import Fit, measure


def test_counts_are_of_bytes_words_and_tokens(codec):
    texts = [["naïve cat", ""], ["the mat"]]
    tokens = sum(len(codec.encode(text)) for batch in texts for text in batch)
    assert measure(codec.encoder, texts) == Fit(bytes=17, words=4, tokens=tokens)


def test_ratios_of_nothing_are_zero():
    assert (Fit(0, 0, 0).bytes_per_token, Fit(0, 0, 0).tokens_per_word) == (0.0, 0.0)
    assert (Fit(12, 2, 4).bytes_per_token, Fit(12, 2, 4).tokens_per_word) == (3.0, 2.0)
