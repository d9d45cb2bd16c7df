"""A tokenizer without merges: a token is a byte."""

import pytest

from rayllm.tokenizer.bpe import train_bpe
from rayllm.tokenizer.codec import Codec
from rayllm.tokenizer.freeze import freeze


@pytest.fixture(scope="session")
def byte_codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    """261 ids: bytes, the separator, four reserved ones."""
    directory = str(tmp_path_factory.mktemp("bytes"))
    freeze(train_bpe(iter(["a"]), vocab_size=261, min_frequency=2, max_digits=3, num_reserved=4), directory)
    return Codec.load(directory)
