"""Text survives encoding, and documents cannot forge special tokens."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayllm.core.errors import ArtifactDamaged, DataError
from rayllm.tokenizer.adopt import PROBE
from rayllm.tokenizer.codec import Codec
from rayllm.tokenizer.freeze import freeze

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


@settings(max_examples=200, deadline=None)
@given(text=texts)
def test_any_unicode_text_comes_back_exactly(codec, text):
    assert codec.decode(codec.encode(text)) == text


@settings(max_examples=100, deadline=None)
@given(text=texts)
def test_token_bytes_add_up_to_the_text(codec, text):
    assert codec.token_bytes[codec.encode(text)].sum() == len(text.encode())


def test_hard_characters_come_back_exactly(codec):
    assert codec.decode(codec.encode(PROBE)) == PROBE


def test_a_document_that_spells_a_special_token_gets_ordinary_ids(codec):
    text = "before<|endoftext|>after <|im_start|>system"
    ids = codec.encode(text)
    assert codec.separator_id == 0
    assert min(ids) >= 8, "an id of a special token"
    assert codec.decode(ids) == text
    assert codec.encode_batch([text]) == [ids]


def test_special_ids_decode_to_their_names_and_stand_for_no_bytes(codec):
    ids = [codec.separator_id, *codec.encode("hi"), codec.token_id("<|im_end|>")]
    assert codec.decode(ids) == "<|endoftext|>hi<|im_end|>"
    assert codec.token_bytes[:8].tolist() == [0] * 8


def test_a_batch_gives_the_same_ids_as_one_by_one(codec):
    batch = ["", " a", "The cat\n\n", "12345"]
    assert codec.encode_batch(batch) == [codec.encode(text) for text in batch]
    assert codec.encode_batch([]) == []


def test_an_id_outside_the_vocabulary_is_refused(codec):
    for bad in ([codec.vocab_size], [-1]):
        with pytest.raises(ValueError, match="ids must be in"):
            codec.decode(bad)


def test_an_unknown_token_is_named(codec):
    with pytest.raises(DataError, match=r"<\|tool\|>"):
        codec.token_id("<|tool|>")


def test_the_expected_hash_opens_and_another_blocks(tokenizer_dir, codec):
    assert Codec.load(str(tokenizer_dir), codec.sha256).sha256 == codec.sha256
    with pytest.raises(ArtifactDamaged, match=f"{codec.sha256}; expected {'0' * 64}"):
        Codec.load(str(tokenizer_dir), "0" * 64)


def test_one_edited_merge_of_an_equal_vocabulary_blocks(tokenizer_dir, codec, tmp_path):
    state = json.loads((tokenizer_dir / "tokenizer.json").read_text())
    merges = state["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]
    freeze(json.dumps(state).encode(), str(tmp_path))
    assert Codec.load(str(tmp_path)).vocab_size == codec.vocab_size
    with pytest.raises(ArtifactDamaged, match="another tokenizer"):
        Codec.load(str(tmp_path), codec.sha256)


def test_gpt2_gives_its_known_ids_and_all_its_bytes(shared_data, tmp_path):
    freeze((shared_data / "tokenizers/gpt2/tokenizer.json").read_bytes(), str(tmp_path))
    gpt2 = Codec.load(str(tmp_path))
    assert (gpt2.vocab_size, gpt2.separator_id) == (50_257, 50_256)
    assert gpt2.encode("Hello world") == [15496, 995]
    assert gpt2.token_bytes[[15496, 995, 50_256]].tolist() == [5, 6, 0]


def test_llama2_round_trips_and_counts_its_byte_tokens(shared_data, tmp_path):
    freeze((shared_data / "tokenizers/llama2/tokenizer.json").read_bytes(), str(tmp_path))
    llama = Codec.load(str(tmp_path))
    text = "naïve 日本\n\x00 end"
    ids = llama.encode(text)
    assert llama.decode(ids) == text
    assert llama.separator_id == llama.token_id("</s>") == 2
    # Llama 2 puts one space before every text: the one byte more.
    assert llama.token_bytes[ids].sum() == len(text.encode()) + 1
