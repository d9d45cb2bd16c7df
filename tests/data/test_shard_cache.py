"""The node's cache of remote shards."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rayllm.core import storage
from rayllm.core.errors import ArtifactDamaged, SetupError
from rayllm.data.shards import cache as shard_cache
from rayllm.data.shards.cache import cached, default_cache_dir
from rayllm.data.shards.format import PackedIndex
from rayllm.data.shards.packed import PackedData
from rayllm.data.shards.writer import ShardWriter

REMOTE = "memory://shard-cache"


def put(name: str, data: bytes) -> tuple[str, str]:
    uri = storage.join(REMOTE, name)
    storage.write_bytes(uri, data)
    return uri, hashlib.sha256(data).hexdigest()


def test_a_remote_packed_directory_is_written_and_read_through_the_cache(tmp_path):
    uri = storage.join(REMOTE, "packed")
    with ShardWriter(uri, "train/web/00000", "uint16") as writer:
        writer.append(np.array([0, 7, 8]), np.array([0]), 2)
    PackedIndex(
        dtype="uint16",
        vocab_size=9,
        tokenizer_sha256="a" * 64,
        separator_id=0,
        splits={"train": {"web": [writer.record]}},
    ).write(uri)
    stream = PackedData.open(uri, cache_dir=tmp_path).stream("train", "web")
    assert stream.read(0, 3).tolist() == [0, 7, 8]
    storage.remove(storage.join(uri, "train"))
    assert PackedData.open(uri, cache_dir=tmp_path).stream("train", "web").read(1, 2).tolist() == [7, 8]


def test_a_local_file_is_used_where_it_is(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x")
    assert cached(str(path), "unused") == path


def test_many_readers_download_once(tmp_path, monkeypatch):
    uri, sha256 = put("shared", b"tokens" * 1000)
    downloads = []
    real = shard_cache._download
    monkeypatch.setattr(shard_cache, "_download", lambda *args: (downloads.append(args), real(*args)))
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: cached(uri, sha256, tmp_path), range(8)))
    assert len(downloads) == len(paths) == 1
    assert paths.pop().read_bytes() == b"tokens" * 1000


def test_changed_content_is_never_cached(tmp_path):
    uri, _ = put("changed", b"other")
    with pytest.raises(ArtifactDamaged, match="shard-cache/changed"):
        cached(uri, "0" * 64, tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_a_missing_remote_file_is_named(tmp_path):
    with pytest.raises(ArtifactDamaged, match="shard-cache/absent"):
        cached(storage.join(REMOTE, "absent"), "0" * 64, tmp_path)


def test_a_full_disk_is_said_before_the_download(tmp_path, monkeypatch):
    uri, sha256 = put("large", b"x" * 100)
    monkeypatch.setattr(shard_cache.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 99}))
    with pytest.raises(SetupError, match="100 bytes are needed, 99 are free"):
        cached(uri, sha256, tmp_path)


def test_the_environment_chooses_the_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("RAYLLM_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path
