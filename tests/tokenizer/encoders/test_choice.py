"""The fast encoder is used where its ids are the reference's, and nowhere else."""

import logging
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_texts import fuzzed_texts, real_texts
from tokenizers import Tokenizer, models

from rayllm.core.errors import ConfigError, DataError
from rayllm.tokenizer.adopt import read_tokenizer
from rayllm.tokenizer.encoders import choice
from rayllm.tokenizer.encoders.choice import SWITCH, Watched, choose_encoder, first_difference
from rayllm.tokenizer.encoders.encoder import Encoder, Fast, Flat, Reference
from rayllm.tokenizer.special import ordinary

FILES = {
    "gpt2": {"path": "gpt2/vocab.json", "pattern": "gpt2"},
    "cl100k": {"path": "cl100k_base.tiktoken.gz", "pattern": "cl100k"},
    "llama2": {"path": "llama2/tokenizer.model"},
    "superbpe": {"path": "superbpe_180k/vocab.json.gz", "pattern": "superbpe"},
}


class Wrong:
    """The reference, but one text in it gets another id."""

    name = "wrong"

    def __init__(self, reference: Encoder, bad: str) -> None:
        self._reference, self._bad = reference, bad

    def encode(self, texts: Sequence[str]) -> Flat:
        ids, lengths = self._reference.encode(texts)
        ids = ids.copy()
        for text, end in zip(texts, np.cumsum(lengths), strict=True):
            if self._bad in text:
                ids[end - 1] += 1
        return Flat(ids, lengths)


@pytest.fixture
def log(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("rayllm"), "propagate", True)
    caplog.set_level(logging.INFO)
    return caplog


@pytest.fixture
def reference(codec) -> Reference:
    return Reference(codec.tokenizer)


def test_the_fast_encoder_is_chosen_for_a_tokenizer_of_ours_and_said(codec, log):
    assert choose_encoder(codec.tokenizer).name == "fastokens"
    assert "its ids equal those of tokenizers" in log.text


@pytest.mark.parametrize("name", ["gpt2", "llama2", "superbpe", pytest.param("cl100k", marks=pytest.mark.slow)])
def test_adopted_tokenizers_get_the_same_ids_from_both(name, shared_data):
    """A file of each form by default; cl100k, which the formats' tests compare with tiktoken, is slow."""
    known = {**FILES[name]}
    data = read_tokenizer(str(shared_data / "tokenizers" / known.pop("path")), **known)
    tokenizer = ordinary(Tokenizer.from_str(data.decode()))
    chosen = choose_encoder(tokenizer)
    assert chosen.name == "fastokens"
    texts = [*real_texts(shared_data, 100_000), *fuzzed_texts(100, seed=5)]
    assert first_difference(chosen, Reference(tokenizer), texts) is None


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=5))
def test_both_give_the_same_ids_for_any_unicode(codec, texts):
    fast, reference = codec.encode_to_buffer(texts), [codec.encode(text) for text in texts]
    assert fast.lengths.tolist() == [len(ids) for ids in reference]
    assert fast.ids.tolist() == [index for ids in reference for index in ids]


def test_an_encoder_that_fails_the_probe_is_not_used(codec, monkeypatch, log):
    monkeypatch.setattr(choice, "Fast", lambda _: Wrong(Reference(codec.tokenizer), "\u017f"))
    assert choose_encoder(codec.tokenizer).name == "tokenizers"
    assert "wrong gives other ids for" in log.text


def test_without_the_library_the_reference_is_used_and_said(codec, monkeypatch, log):
    monkeypatch.setitem(sys.modules, "fastokens", None)
    assert choose_encoder(codec.tokenizer).name == "tokenizers"
    assert "the fast one cannot be used" in log.text


def test_a_tokenizer_that_the_library_does_not_know_gets_the_reference(log):
    strange = ordinary(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    assert choose_encoder(strange).name == "tokenizers"
    assert "cannot be used" in log.text


def test_the_switch_in_the_environment_is_obeyed_or_refused(codec, monkeypatch):
    monkeypatch.setenv(SWITCH, "reference")
    assert choose_encoder(codec.tokenizer).name == "tokenizers"
    monkeypatch.setenv(SWITCH, "slow")
    with pytest.raises(ConfigError, match="is 'slow'"):
        choose_encoder(codec.tokenizer)


def test_a_wrong_id_in_a_real_text_ends_the_work(reference):
    watched = Watched(Wrong(reference, "bad"), reference)
    assert watched.encode(["good", "good"]).lengths.sum() == reference.encode(["good", "good"]).lengths.sum()
    for texts in (["a bad one", "good"], ["bad" + " long" * 1000]):
        with pytest.raises(DataError, match=rf"wrong does not give the ids[\s\S]*{SWITCH}=reference"):
            watched.encode(texts)


def test_a_lost_text_ends_the_work(reference):
    class Losing(Wrong):
        def encode(self, texts: Sequence[str]) -> Flat:
            return reference.encode(texts[:-1])

    with pytest.raises(DataError, match="2 texts came back as 1"):
        Watched(Losing(reference, ""), reference).encode(["a", "b"])


def test_no_texts_are_no_ids(codec, reference):
    for encoder in (codec.encoder, reference):
        assert [len(part) for part in encoder.encode([])] == [0, 0]


def test_where_differences_begin_is_found(reference):
    texts = ["one", "", "two x", "three x"]
    assert first_difference(reference, reference, texts) is None
    assert first_difference(reference, Wrong(reference, "x"), texts) == "two x"


def test_in_a_process_of_one_thread_the_fast_encoder_has_one_too(codec, monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.delenv("RAYON_NUM_THREADS", raising=False)
    monkeypatch.delenv("FASTOKENS_BPE_THREADS", raising=False)
    Fast(codec.tokenizer.to_str())
    import os

    assert (os.environ["RAYON_NUM_THREADS"], os.environ["FASTOKENS_BPE_THREADS"]) == ("1", "1")
