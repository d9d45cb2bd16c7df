"""Documents to flat tokens: a separator before each document, nothing between, nothing dropped.

In: an Arrow column of texts. Out: their ids in one array and where each document starts. Any sequence length is served
from that by slicing, so nothing has to be packed again when it changes.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64, Integer

from rayllm.tokenizer.codec import Codec


class PackedBatch(NamedTuple):
    """Some documents as tokens.

    Attributes:
        tokens: Ids, each document's separator first.
        starts: Where each document's separator stands in ``tokens``.
        text_bytes: UTF-8 bytes of the texts together.
    """

    tokens: Integer[np.ndarray, " tokens"]
    starts: Int64[np.ndarray, " documents"]
    text_bytes: int


def pack_texts(codec: Codec, texts: pa.Array) -> PackedBatch:
    """Encode documents and put them one after the other.

    Args:
        codec: The tokenizer; it decides the dtype (uint16 where the vocabulary fits).
        texts: A string column without nulls.
    """
    ids, lengths = codec.encode_to_buffer(texts.to_pylist())
    tokens = np.insert(ids, np.cumsum(lengths) - lengths, codec.separator_id)
    text_bytes = pc.call_function("sum", [pc.call_function("binary_length", [texts])]).as_py()
    return PackedBatch(tokens, np.cumsum(lengths + 1) - lengths - 1, text_bytes or 0)
