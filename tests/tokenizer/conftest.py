"""A small tokenizer of our own."""

from pathlib import Path

import pytest

from rayllm.tokenizer.bpe import train_bpe
from rayllm.tokenizer.codec import Codec
from rayllm.tokenizer.freeze import freeze

TEXTS = ["The cat sat on the mat; 12,345 times, naïvely.", "def f(x):\n    return x ** 2  # squared\n"] * 10


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A frozen tokenizer of about 300 ids."""
    directory = tmp_path_factory.mktemp("tokenizer")
    data = train_bpe(iter(TEXTS), vocab_size=320, min_frequency=2, max_digits=3, num_reserved=4)
    freeze(data, str(directory))
    return directory


@pytest.fixture(scope="session")
def codec(tokenizer_dir: Path) -> Codec:
    """The same, opened."""
    return Codec.load(str(tokenizer_dir))
