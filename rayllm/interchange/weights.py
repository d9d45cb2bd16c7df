"""Tensors in safetensors files, one at a time: reading shards wherever they lie, writing shards of bounded size.

In and out: names and tensors in order. At no time is more than one shard in memory.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rayllm.core import storage
from rayllm.core.errors import ArtifactDamaged

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


class TensorFiles:
    """The tensors of one or several safetensors files below a URI.

    Args:
        uri: A directory with ``model.safetensors``, or with shards and their index.

    Raises:
        ArtifactDamaged: If there is neither, or the index cannot be read.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        if storage.exists(storage.join(uri, INDEX)):
            try:
                self.file_of: Mapping[str, str] = json.loads(storage.read_text(storage.join(uri, INDEX)))["weight_map"]
            except (ValueError, KeyError) as error:
                raise ArtifactDamaged("the index of the weights cannot be read", where=uri, why=repr(error)) from error
        elif storage.exists(storage.join(uri, SINGLE)):
            with _opened(storage.join(uri, SINGLE)) as file:
                self.file_of = dict.fromkeys(file.keys(), SINGLE)
        else:
            raise ArtifactDamaged(
                "there are no weights here",
                where=uri,
                why=f"neither {SINGLE} nor {INDEX} is there",
                fix="name the directory of a model in safetensors format (pickled weights are not read)",
            )

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Tensors in the given order; a shard stays open while its tensors follow each other.

        Raises:
            ArtifactDamaged: If one is missing, or a file cannot be read.
        """
        wanted = list(names)
        if missing := [name for name in wanted if name not in self.file_of]:
            raise ArtifactDamaged("a tensor is missing", where=self.uri, why=", ".join(missing[:3]))
        position = 0
        while position < len(wanted):
            file_name = self.file_of[wanted[position]]
            with _opened(storage.join(self.uri, file_name)) as file:
                while position < len(wanted) and self.file_of[wanted[position]] == file_name:
                    yield wanted[position], file.get_tensor(wanted[position])
                    position += 1


def read_tensors(uri: str) -> dict[str, Tensor]:
    """All tensors of one safetensors file.

    Raises:
        ArtifactDamaged: If it cannot be read.
    """
    with _opened(uri) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@contextmanager
def _opened(uri: str) -> Iterator["safe_open"]:
    """A safetensors file, mapped; a remote one is copied for as long as it is used."""
    with tempfile.TemporaryDirectory(prefix="rayllm-") as directory:
        path = storage.local_path(uri) if storage.is_local(uri) else Path(directory) / "shard.safetensors"
        try:
            if not storage.is_local(uri):
                fs, remote = storage.filesystem(uri)
                with storage.reaching(uri):
                    fs.get_file(remote, str(path))
            with safe_open(str(path), framework="pt") as file:
                yield file
        except (SafetensorError, FileNotFoundError) as error:
            raise ArtifactDamaged("weights cannot be read", where=uri, why=str(error)) from error


def write_shards(
    tensors: Iterable[tuple[str, Tensor]], directory: Path, max_shard_bytes: int | None = None
) -> dict[str, int]:
    """Write tensors as ``model.safetensors``, or as numbered shards and their index where they are more.

    Args:
        tensors: Names and tensors, in order.
        directory: Where the files go.
        max_shard_bytes: Size of a shard; a larger tensor is a shard of its own. By default there is one shard.

    Returns:
        Parameters and bytes in all.
    """
    shards: list[list[str]] = []
    held: dict[str, Tensor] = {}
    held_bytes = total = parameters = 0

    def flush() -> None:
        save_file(held, directory / f"shard-{len(shards)}", metadata={"format": "pt"})
        shards.append(list(held))
        held.clear()

    for name, tensor in tensors:
        if held and max_shard_bytes is not None and held_bytes + tensor.nbytes > max_shard_bytes:
            flush()
            held_bytes = 0
        held[name] = tensor
        held_bytes, total, parameters = held_bytes + tensor.nbytes, total + tensor.nbytes, parameters + tensor.numel()
    flush()
    names = (
        [SINGLE]
        if len(shards) == 1
        else [f"model-{n + 1:05d}-of-{len(shards):05d}.safetensors" for n in range(len(shards))]
    )
    for number, name in enumerate(names):
        (directory / f"shard-{number}").rename(directory / name)
    if len(shards) > 1:
        where = {tensor: name for name, members in zip(names, shards, strict=True) for tensor in members}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
        (directory / INDEX).write_text(json.dumps(index, indent=1))
    return {"parameters": parameters, "bytes": total}


def cast(tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """The same tensors in another dtype."""
    for name, tensor in tensors:
        yield name, tensor.to(dtype)
