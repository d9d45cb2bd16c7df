"""Artifacts say what they hold, and damage to them is found and named."""

import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayllm.core import storage
from rayllm.core.artifact import MANIFEST, Artifact, Manifest, content_hash, read_artifact, record_files, sha256_file
from rayllm.core.errors import ArtifactDamaged


def _publish(root: str) -> Artifact:
    storage.write_bytes(storage.join(root, "a.bin"), b"aaaa")
    storage.write_bytes(storage.join(root, "deep", "b.bin"), b"bb")
    manifest = Manifest(
        stage="pack", hash="h" * 64, config={"seed": 1}, parents={"prepare": "p"}, counts={"tokens": 3},
        files=record_files(root, storage.list_files(root)), versions={}, wall_s=1.0, created="2025-01-01",
    )  # fmt: skip
    storage.write_text(storage.join(root, MANIFEST), manifest.model_dump_json())
    return Artifact(root, manifest)


@pytest.fixture(params=["local", "s3"])
def artifact(request: pytest.FixtureRequest, tmp_path: Path) -> Artifact:
    return _publish(str(tmp_path / "x") if request.param == "local" else f"{request.getfixturevalue('bucket')}/x")


def test_an_artifact_reads_back_as_it_was_published(artifact: Artifact) -> None:
    again = read_artifact(artifact.uri)
    assert again == artifact
    assert [(record.path, record.bytes) for record in again.manifest.files] == [("a.bin", 4), ("deep/b.bin", 2)]
    assert (again.hash, again.counts) == ("h" * 64, {"tokens": 3})
    again.verify(deep=True)


@pytest.mark.parametrize(
    ("damage", "text", "deep"),
    [
        (lambda uri: storage.remove(uri), "deep/b.bin is missing", False),
        (lambda uri: storage.write_bytes(uri, b"b"), "deep/b.bin has 1 bytes; the manifest says 2", False),
        (lambda uri: storage.write_bytes(uri, b"bc"), "deep/b.bin has other content", True),
    ],
)
def test_damage_is_named(artifact: Artifact, damage, text: str, deep: bool) -> None:
    damage(artifact.file("deep/b.bin"))
    with pytest.raises(ArtifactDamaged, match=text) as caught:
        artifact.verify(deep=deep)
    assert caught.value.where == artifact.uri
    artifact.verify(deep=True, only="a.")


def test_checkpoints_come_and_go_even_where_the_manifest_lists_them(tmp_path: Path) -> None:
    root = str(tmp_path / "x")
    domain = storage.join(root, "train", "checkpoints", "00000.parquet")
    paths = ["checkpoints/best.json", "checkpoints/step-00000004-a1/PINNED", "trial/checkpoints/step-00000004-a1/w"]
    for path in paths:
        storage.write_bytes(storage.join(root, path), b"x")
    storage.write_bytes(domain, b"a domain of this name")
    artifact = _publish(root)
    for path in paths:
        storage.remove(storage.join(root, path))
    artifact.verify(deep=True)
    storage.remove(domain)
    with pytest.raises(ArtifactDamaged, match=r"00000\.parquet is missing"):
        artifact.verify(deep=False)


def test_a_flipped_byte_of_equal_size_needs_the_deep_check(artifact: Artifact) -> None:
    storage.write_bytes(artifact.file("a.bin"), b"aaab")
    artifact.verify(deep=False)
    with pytest.raises(ArtifactDamaged):
        artifact.verify(deep=True)


def test_a_directory_without_a_manifest_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactDamaged, match="not a finished artifact"):
        read_artifact(str(tmp_path))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stage": "x"}'])
def test_a_torn_manifest_is_damage(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ArtifactDamaged, match="manifest cannot be read"):
        read_artifact(str(tmp_path))


def test_artifacts_cross_process_borders(artifact: Artifact) -> None:
    assert pickle.loads(pickle.dumps(artifact)) == artifact  # noqa: S301 - our own bytes


def test_hashes_of_files_are_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_text("abc")
    assert sha256_file(str(tmp_path / "abc")).startswith("ba7816bf8f01cfea")


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none(), max_size=6))
def test_content_hashes_do_not_depend_on_key_order(value: dict[str, object]) -> None:
    shuffled = dict(reversed(value.items()))
    assert content_hash(value) == content_hash(shuffled) == content_hash(json.loads(json.dumps(value)))
