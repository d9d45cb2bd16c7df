"""No code runs from a checkpoint or from packed data, whatever is planted in them, even with its hashes made to fit."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from packing_fixture import make_packed
from small_session import make_config

from rayllm.core.artifact import Artifact, record_files
from rayllm.core.checkpoint import COMMIT, Commit, list_checkpoints, verify_checkpoint, write_rank_manifest
from rayllm.core.config_source import read_source
from rayllm.inference.loading import load_checkpoint
from rayllm.pipelines.train.session import train_alone

#: How far a run may come before or after what was planted is read.
STEPS = {"max_steps": 2, "samples": {}, "validation": {"every_steps": 2, "max_tokens": 256}}


class Bomb:
    """Makes a directory when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self._mark),)


def plant_pickle(path: Path, mark: Path) -> None:
    path.write_bytes(pickle.dumps(Bomb(mark)))


def plant_torch(path: Path, mark: Path) -> None:
    torch.save({"weight": Bomb(mark)}, path)


def plant_numpy(path: Path, mark: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([Bomb(mark)], dtype=object), allow_pickle=True)


def plant_yaml(path: Path, mark: Path) -> None:
    path.write_text(f"!!python/object/apply:os.mkdir [{json.dumps(str(mark))}]\n")


Plant = Callable[[Path, Path], None]
PLANTS: list[Plant] = [plant_pickle, plant_torch, plant_numpy, plant_yaml]
#: The plant whose reader is the likeliest to be used on such a file; all others are slow tests.
LIKELY: dict[str, Plant] = {
    ".yaml": plant_yaml,
    ".safetensors": plant_torch,
    ".npy": plant_numpy,
    ".tokens": plant_numpy,
    ".bounds": plant_numpy,
}
SOME_OR_ALL = pytest.mark.parametrize("plants", [None, pytest.param(PLANTS, marks=pytest.mark.slow)], ids=["", "all"])


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_packed(tmp_path_factory.mktemp("packed"), count=60)


@pytest.fixture(scope="module")
def trained(packed: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run."""
    directory = tmp_path_factory.mktemp("trained")
    train_alone(make_config(directory, **STEPS), packed.uri, str(directory))
    return directory


def files_of(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def seal(checkpoint: Path) -> None:
    """Write manifest and commit anew, so that hashes are no obstacle to what was planted."""
    commit = Commit.model_validate_json((checkpoint / COMMIT).read_bytes())
    (manifest,) = commit.manifests
    listed = [item["path"] for item in json.loads((checkpoint / manifest.path).read_text())]
    record = write_rank_manifest(str(checkpoint), 0, record_files(str(checkpoint), listed))
    (checkpoint / COMMIT).write_text(commit.model_copy(update={"manifests": [record]}).model_dump_json())
    verify_checkpoint(str(checkpoint), deep=True)


def planted(files: list[Path], plants: list[Plant] | None) -> list[tuple[Path, Plant]]:
    """Each file with each of the plants, or with its likeliest one."""
    return [(path, plant) for path in files for plant in plants or [LIKELY.get(path.suffix, plant_pickle)]]


def attempt(read: Callable[[], object]) -> None:
    """Read, and let every complaint pass: what counts is what was run."""
    try:
        read()
    except Exception:  # noqa: BLE001
        return


def test_each_plant_would_work_on_a_careless_reader(tmp_path: Path) -> None:
    import yaml

    readers = [
        lambda path: pickle.loads(path.read_bytes()),  # noqa: S301
        lambda path: torch.load(path, weights_only=False),
        lambda path: np.load(path, allow_pickle=True),
        lambda path: yaml.unsafe_load(path.read_text()),
    ]
    for number, (plant, read) in enumerate(zip(PLANTS, readers, strict=True)):
        plant(tmp_path / "file", tmp_path / f"{number}")
        read(tmp_path / "file")
        assert (tmp_path / f"{number}").is_dir(), plant.__name__


@pytest.mark.fault("P15", "code planted in any file of a checkpoint, its hashes made to fit", "nothing of it runs")
@SOME_OR_ALL
def test_nothing_runs_from_a_checkpoint(
    plants: list[Plant] | None, packed: Artifact, trained: Path, tmp_path: Path
) -> None:
    (saved,) = list_checkpoints(str(trained / "checkpoints"))
    names = [path.relative_to(saved.uri) for path in files_of(Path(saved.uri))]
    assert len(names) > 10
    for number, (name, plant) in enumerate(planted(names, plants)):
        directory = Path(shutil.copytree(trained, tmp_path / f"{number}"))
        checkpoint, mark = directory / Path(saved.uri).relative_to(trained), tmp_path / "ran"
        plant(checkpoint / name, mark)
        if "manifest" not in name.name and name.name != COMMIT:
            seal(checkpoint)
        attempt(lambda found=checkpoint: load_checkpoint(str(found)))
        attempt(lambda found=directory: train_alone(make_config(found, **STEPS), packed.uri, str(found)))
        attempt(lambda found=checkpoint: read_source(str(found / "run.yaml"), []))
        assert not mark.exists(), f"{plant.__name__} in {name} was run"


@pytest.mark.fault("P15", "code planted in any file of packed data", "nothing of it runs")
@SOME_OR_ALL
def test_nothing_runs_from_packed_data(plants: list[Plant] | None, packed: Artifact, tmp_path: Path) -> None:
    for number, (path, plant) in enumerate(planted(files_of(Path(packed.uri)), plants)):
        data = Path(shutil.copytree(packed.uri, tmp_path / f"data-{number}"))
        mark = tmp_path / "ran"
        plant(data / path.relative_to(packed.uri), mark)
        config = make_config(tmp_path, **STEPS, packing="best_fit")
        attempt(lambda data=data, config=config: train_alone(config, str(data), str(tmp_path / f"run-{data.name}")))
        assert not mark.exists(), f"{plant.__name__} in {path.name} was run"
