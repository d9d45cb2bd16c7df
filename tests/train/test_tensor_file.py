from pathlib import Path

import torch
from safetensors.torch import load_file, save

from rayllm.core.artifact import record_files
from rayllm.core.hashed_files import HashedFiles
from rayllm.train.tensor_file import safetensors_parts


def tensors() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return {
        "rng.torch": torch.arange(7, dtype=torch.uint8),
        "weight|master|0": torch.randn(5, 3, generator=random),
        "empty": torch.zeros(0),
        "äöü|exp_avg|12": torch.randn(9_000_000, generator=random),
    }


def test_the_file_is_the_one_that_the_library_writes(tmp_path: Path) -> None:
    files = HashedFiles(tmp_path)
    files.write("state/a.safetensors", safetensors_parts(tensors()))
    read = load_file(tmp_path / "state" / "a.safetensors")
    assert read.keys() == tensors().keys()
    assert all(read[name].equal(value) for name, value in tensors().items())
    assert (tmp_path / "state" / "a.safetensors").read_bytes() == save(tensors())


def test_hashes_and_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    files = HashedFiles(tmp_path)
    files.write("state/b.safetensors", safetensors_parts(tensors()))
    files.write("a.json", [b"{", b"}"])
    files.write("nothing", [])
    paths = ["a.json", "nothing", "state/b.safetensors"]
    assert [record.path for record in files.records] == paths
    assert files.records == record_files(str(tmp_path), paths)
