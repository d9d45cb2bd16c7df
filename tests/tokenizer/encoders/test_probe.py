"""The probe holds what encoders are known to disagree on."""

import unicodedata

from rayllm.tokenizer.encoders.probe import probe_texts


def test_the_probe_is_the_same_each_time_and_another_with_another_seed(codec):
    assert probe_texts(codec.tokenizer) == probe_texts(codec.tokenizer)
    assert probe_texts(codec.tokenizer) != probe_texts(codec.tokenizer, seed=1)


def test_it_spans_scripts_white_space_runs_contractions_and_special_tokens(codec):
    texts = probe_texts(codec.tokenizer)
    whole = "".join(texts)
    scripts = {unicodedata.name(char, "").split(" ")[0] for char in set(whole)}
    assert {"LATIN", "GREEK", "CYRILLIC", "ARABIC", "HEBREW", "DEVANAGARI", "THAI", "HANGUL", "CJK"} <= scripts
    assert {char for char in map(chr, range(0x3001)) if char.isspace()} <= set(whole)
    assert " " * 4099 in whole
    assert "a" * 257 in whole or "-" * 128 in whole
    assert all(part in whole for part in ("I'LL", "'\u017f", "<|endoftext|>", "<|im_start|>", "\r\n"))
    assert 800 < len(texts) < 1500
    assert 200_000 < len(whole.encode()) < 400_000


def test_no_text_is_beyond_utf8(codec):
    assert all(text.encode().decode() == text for text in probe_texts(codec.tokenizer))
