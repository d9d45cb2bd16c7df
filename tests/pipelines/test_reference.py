"""Parts of a reference: what is kept of them between starts."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save

from rayllm.core import storage
from rayllm.pipelines.reference import Part, PartTask, read_part, write_part


def test_a_part_of_an_older_version_is_made_again(tmp_path: Path) -> None:
    task = PartTask(split="train", domain="a", first=0, stop=2, file=str(tmp_path / "00000000.safetensors"))
    part = Part(np.arange(2), np.full((2, 2), -1.5), "bf16")
    assert read_part(task) is None
    storage.write_bytes(task.file, save({"numbers": part.numbers, "values": part.values}))
    assert read_part(task) is None, "it does not say in what the model computed"
    write_part(task, part)
    found = read_part(task)
    assert found is not None
    assert found.precision == "bf16"
    assert (found.values == part.values).all()
