"""Tensors as the bytes of a safetensors file, one part after another: nothing is copied.

The library's own ``save_file`` first copies every tensor and holds the interpreter's lock meanwhile; a file that is
written beside training may do neither. Format: eight bytes with the length of a JSON header, the header (name → dtype,
shape, offsets), then the tensors' bytes without gaps.

Source: Hugging Face safetensors, README, section "Format".
"""

import json
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

#: The dtypes that checkpoints hold; wider ones first, so that every tensor begins at a multiple of its element's size.
DTYPES = {torch.float32: "F32", torch.uint8: "U8"}
ALIGNMENT = 8


def safetensors_parts(tensors: Mapping[str, Tensor]) -> Iterator[memoryview | bytes]:
    """The parts of a safetensors file.

    Args:
        tensors: Contiguous CPU tensors of the dtypes in ``DTYPES``; they must not change before the last part is taken.

    Yields:
        The header, then the memory of each tensor, by dtype and name.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, at = {}, 0
    for name in order:
        tensor = tensors[name]
        size = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + size],
        }
        at += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        yield tensors[name].detach().view(-1).view(torch.uint8).numpy().data
