"""Packing loses no token and doubles none."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayllm.data.shards.flatten import pack_texts
from rayllm.tokenizer.bpe import train_bpe
from rayllm.tokenizer.codec import Codec
from rayllm.tokenizer.freeze import freeze

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@pytest.fixture(scope="module")
def codec(tmp_path_factory) -> Codec:
    directory = str(tmp_path_factory.mktemp("tokenizer"))
    data = train_bpe(iter(["the cat the mat"] * 9), vocab_size=270, min_frequency=2, max_digits=3, num_reserved=0)
    freeze(data, directory)
    return Codec.load(directory)


@settings(max_examples=100, deadline=None)
@given(documents=st.lists(texts, max_size=8))
def test_every_document_is_its_separator_and_its_ids(codec, documents):
    batch = pack_texts(codec, pa.array(documents, pa.string()))
    expected = [token for text in documents for token in (codec.separator_id, *codec.encode(text))]
    assert batch.tokens.tolist() == expected
    assert batch.starts.tolist() == [i for i, token in enumerate(expected) if token == codec.separator_id]
    assert batch.text_bytes == sum(len(text.encode()) for text in documents)
    parts = [batch.tokens[start + 1 : end] for start, end in pairwise([*batch.starts, len(batch.tokens)])]
    assert [codec.decode(part) for part in parts] == documents


def test_a_small_vocabulary_gives_uint16_and_a_large_one_uint32(codec):
    documents = pa.array(["the cat"])
    assert pack_texts(codec, documents).tokens.dtype == np.uint16
    many = np.zeros(65_537, np.uint16)
    large = Codec(codec.tokenizer, codec.sha256, codec.separator_id, many)
    assert pack_texts(large, documents).tokens.dtype == np.uint32


def test_sliced_and_large_string_columns_pack_the_same(codec):
    documents = pa.array(["one", "the cat", "naïve"])
    expected = pack_texts(codec, documents)
    sliced = pack_texts(codec, pa.array(["drop", "one", "the cat", "naïve", "drop"]).slice(1, 3))
    large = pack_texts(codec, documents.cast(pa.large_string()))
    for found in (sliced, large):
        assert found.tokens.tolist() == expected.tokens.tolist()
        assert found.text_bytes == expected.text_bytes
