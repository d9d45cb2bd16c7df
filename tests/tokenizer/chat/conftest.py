"""A small tokenizer with ChatML's tokens, and transformers' view of the same files."""

from pathlib import Path

import pytest

from rayllm.tokenizer.bpe import train_bpe
from rayllm.tokenizer.codec import Codec
from rayllm.tokenizer.freeze import freeze

TEXTS = ["The cat sat on the mat; 12,345 times, naïvely.", "User: Hello\n\nAssistant: Hello there.\n"] * 10


@pytest.fixture(scope="session")
def chat_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("chat-tokenizer")
    freeze(train_bpe(iter(TEXTS), vocab_size=340, min_frequency=2, max_digits=3, num_reserved=0), str(directory))
    return directory


@pytest.fixture(scope="session")
def chat_codec(chat_directory: Path) -> Codec:
    return Codec.load(str(chat_directory))
