"""Text to ids and back with a frozen tokenizer.

In: a directory that ``freeze`` wrote. Out: a ``Codec``. A document is data: text in it that looks like a special token
is encoded as ordinary text, so no document can forge the end of another or a turn of a chat. For single texts the
reference encoder is used; ``encode_to_buffer`` takes the fastest one whose ids are the same (``encoders``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, Integer, UInt16
from tokenizers import Tokenizer

from rayllm.core.errors import DataError
from rayllm.tokenizer.encoders.choice import choose_encoder
from rayllm.tokenizer.encoders.encoder import Encoder
from rayllm.tokenizer.freeze import read_frozen
from rayllm.tokenizer.special import ordinary


class Buffer(NamedTuple):
    """Texts as ids, one text after the other, without separators.

    Attributes:
        ids: uint16 where the vocabulary fits, else uint32; little-endian.
        lengths: Ids of each text.
    """

    ids: Integer[np.ndarray, " tokens"]
    lengths: Int64[np.ndarray, " texts"]


@dataclass(frozen=True, eq=False)
class Codec:
    """A frozen tokenizer.

    Attributes:
        tokenizer: The ``tokenizers`` object behind it; special tokens in text are off.
        sha256: SHA-256 of its ``tokenizer.json``: its identity.
        separator_id: The id that stands before every document (end of text).
        token_bytes: Bytes of text of each id, 0 for special tokens.
    """

    tokenizer: Tokenizer = field(repr=False)
    sha256: str
    separator_id: int
    token_bytes: UInt16[np.ndarray, " vocab_size"] = field(repr=False)

    @classmethod
    def load(cls, directory: str, expected_sha256: str | None = None) -> "Codec":
        """Open the tokenizer in a directory or at a URI.

        Args:
            directory: A tokenizer artifact, a packed artifact, or a checkpoint.
            expected_sha256: What ``tokenizer.json`` must hash to.

        Raises:
            ArtifactDamaged: If files are missing or do not fit together, or the hash is another one.
            DataError: If the tokenizer has no end-of-text token.
        """
        frozen = read_frozen(directory, expected_sha256)
        return cls(
            tokenizer=ordinary(frozen.tokenizer),
            sha256=frozen.sha256,
            separator_id=frozen.separator_id,
            token_bytes=frozen.token_bytes,
        )

    @property
    def vocab_size(self) -> int:
        """One more than the highest id."""
        return len(self.token_bytes)

    @property
    def dtype(self) -> np.dtype:
        """What holds an id: ``<u2`` if all of them fit, else ``<u4``."""
        return np.dtype("<u2" if self.vocab_size <= 1 << 16 else "<u4")

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder of this process for large batches; chosen once, when it is first needed."""
        return choose_encoder(self.tokenizer)

    def encode(self, text: str) -> list[int]:
        """The ids of one text, without separator."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without separators; uses as many threads as ``RAYON_NUM_THREADS`` allows."""
        return [found.ids for found in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_to_buffer(self, texts: Sequence[str]) -> Buffer:
        """The ids of many texts in one array: the same ids as ``encode``, by the fastest encoder that gives them.

        Raises:
            DataError: If that encoder ever gives other ids than the reference on the texts where both are asked.
        """
        flat = self.encoder.encode(texts)
        return Buffer(flat.ids.astype(self.dtype), flat.lengths)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of ids, special tokens by name. ``decode(encode(text)) == text`` for any text.

        Raises:
            ValueError: If an id is not in the vocabulary.
        """
        array = np.asarray(ids, np.int64)
        if array.size and (array.min() < 0 or array.max() >= self.vocab_size):
            raise ValueError(f"ids must be in [0, {self.vocab_size}), not {array.min()} to {array.max()}")
        return self.tokenizer.decode(array.tolist(), skip_special_tokens=False)

    def token_id(self, token: str) -> int:
        """The id of a token by its name, such as ``<|im_start|>``.

        Raises:
            DataError: If the vocabulary lacks it.
        """
        found = self.tokenizer.token_to_id(token)
        if found is None:
            raise DataError(f"the tokenizer has no token {token!r}", where=f"tokenizer {self.sha256[:12]}")
        return found
