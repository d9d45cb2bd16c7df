"""pack: every document once, the same bytes however the work is shared or stopped."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from without_ray import encode_here

from rayllm.core.artifact import Artifact
from rayllm.core.errors import ArtifactDamaged, DataError
from rayllm.core.stage import Task, run_task
from rayllm.data.shards.packed import PackedData
from rayllm.pipelines import STAGES, fit_tokenizer, pack
from rayllm.tokenizer.codec import Codec

ENGLISH = [f"The cat number {i} sat naïvely on <|endoftext|> the mat." for i in range(40)]
CODE = [f"def f{i}(x):\n    return x + {i}\n" for i in range(40)]
VALIDATION = ["A cat.", "", "Another cat."]


@pytest.fixture
def corpus(make_corpus) -> Artifact:
    return make_corpus(
        {
            "english": {"train": [ENGLISH[:25], ENGLISH[25:]], "validation": [VALIDATION]},
            "code": {"train": [CODE], "validation": [CODE[:2]]},
        }
    )


@pytest.fixture
def tokenizer(corpus, tmp_path) -> Artifact:
    config = fit_tokenizer.Config(name="test", fit_tokenizer={"vocab_size": 300})
    return run_task(Task("fit_tokenizer", fit_tokenizer.run, config, {"prepare": corpus}), str(tmp_path / "t"))[0]


@pytest.fixture
def inline(monkeypatch):
    """Encode in this process, as Ray's tasks do, which have tests of their own below."""
    monkeypatch.setattr(pack, "encode_shards", encode_here)


def run_pack(corpus: Artifact, tokenizer: Artifact, root, **settings) -> Artifact:
    config = pack.Config(name="test", pack=settings)
    inputs = {"prepare": corpus, "fit_tokenizer": tokenizer}
    task = Task("pack", pack.run, config, inputs, in_place=STAGES["pack"].in_place)
    return run_task(task, str(root))[0]


def documents_of(packed: PackedData, split: str, domain: str) -> list[str]:
    stream, codec = packed.stream(split, domain), packed.codec()
    starts = [*stream.document_starts(), stream.num_tokens]
    return [codec.decode(stream.read(start + 1, end - start - 1)) for start, end in pairwise(starts)]


def test_every_document_is_packed_once_in_order(inline, corpus, tokenizer, tmp_path):
    packed = PackedData.open(run_pack(corpus, tokenizer, tmp_path).uri)
    assert packed.domains("train") == packed.domains("validation") == ["english", "code"]
    assert documents_of(packed, "train", "english") == ENGLISH
    assert documents_of(packed, "train", "code") == CODE
    assert documents_of(packed, "validation", "english") == VALIDATION
    stream = packed.stream("train", "english")
    assert stream.num_bytes == sum(len(text.encode()) for text in ENGLISH)
    assert (stream.read(0, stream.num_tokens) == packed.separator_id).sum() == stream.num_documents == 40


def test_the_counts_and_the_hash_are_those_of_the_index(inline, corpus, tokenizer, tmp_path):
    artifact = run_pack(corpus, tokenizer, tmp_path)
    packed = PackedData.open(artifact.uri)
    assert artifact.counts["train"]["code"]["tokens"] == packed.stream("train", "code").num_tokens
    assert artifact.counts["tokenizer_sha256"] == packed.tokenizer_sha256 == tokenizer.counts["sha256"]
    assert artifact.counts["encoder"] == "fastokens"
    assert packed.codec().sha256 == Codec.load(tokenizer.uri).sha256
    names = {file.path for file in artifact.manifest.files}
    assert names == {
        "packed.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "token_bytes.npy",
        *(
            f"{shard}.{ending}"
            for shard in ("train/english/00000", "train/english/00001", "train/code/00000")
            for ending in ("tokens", "bounds")
        ),
        *(f"validation/{d}/00000.{ending}" for d in ("english", "code") for ending in ("tokens", "bounds")),
    }


def test_the_size_of_a_batch_changes_no_byte(inline, corpus, tokenizer, tmp_path):
    one = run_pack(corpus, tokenizer, tmp_path / "a", batch_bytes=1)
    large = run_pack(corpus, tokenizer, tmp_path / "b", batch_bytes="1Gi")
    assert one.manifest.files == large.manifest.files


@pytest.mark.fault("P7", "packing stopped half-way", "shards that were done are kept; the same bytes")
def test_a_stopped_run_goes_on_without_redoing_shards_and_ends_in_the_same_bytes(
    inline, corpus, tokenizer, tmp_path, monkeypatch
):
    whole = run_pack(corpus, tokenizer, tmp_path / "whole")
    made = []
    real = pack.pack_texts

    def stop_at_the_third(codec, texts):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(len(texts))
        return real(codec, texts)

    monkeypatch.setattr(pack, "pack_texts", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run_pack(corpus, tokenizer, tmp_path / "stopped")
    (partial,) = (tmp_path / "stopped").glob("pack-*")
    assert len(list(partial.rglob("*/0000?.json"))) == 2
    (partial / "train/code/.00000.dead.tokens").write_bytes(b"left by a killed encoder")

    monkeypatch.setattr(pack, "pack_texts", lambda codec, texts: (made.append(len(texts)), real(codec, texts))[1])
    resumed = run_pack(corpus, tokenizer, tmp_path / "stopped")
    assert len(made) == 5, "five shards, each encoded once in both runs together"
    assert resumed.manifest.files == whole.manifest.files


@pytest.mark.parametrize("damage", ["shard", "note", "tokenizer", "source"])
def test_a_shard_whose_note_does_not_hold_is_made_again(corpus, tokenizer, tmp_path, damage):
    codec = Codec.load(tokenizer.uri)
    task = pack.plan_tasks(corpus, str(tmp_path), 1000)[0]
    first = pack.pack_shard(task, codec)
    tokens, note = tmp_path / f"{first.name}.tokens", Path(task.note)
    good = tokens.read_bytes()
    if damage == "shard":
        tokens.write_bytes(good[:10] + b"\x07" + good[11:])
    elif damage == "note":
        note.write_text(note.read_text()[:40])
    else:
        note.write_text(json.dumps(json.loads(note.read_text()) | {f"{damage}_sha256": "0" * 64}))
    assert pack.pack_shard(task, codec) == first
    assert tokens.read_bytes() == good
    assert json.loads(note.read_text())[f"{'source' if damage == 'source' else 'tokenizer'}_sha256"] != "0" * 64


def test_a_changed_corpus_shard_is_refused(inline, corpus, tokenizer, tmp_path):
    path = Path(corpus.file("train/code/00000.parquet"))
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactDamaged, match=r"train/code/00000\.parquet"):
        run_pack(corpus, tokenizer, tmp_path)


def test_a_swapped_tokenizer_is_refused(inline, corpus, tokenizer, tmp_path):
    path = Path(tokenizer.file("tokenizer.json"))
    state = json.loads(path.read_text())
    state["model"]["merges"].reverse()
    path.write_text(json.dumps(state))
    with pytest.raises(ArtifactDamaged, match="tokenizer"):
        run_pack(corpus, tokenizer, tmp_path)


def test_an_object_store_gets_the_same_bytes_and_no_leftovers(inline, corpus, tokenizer, tmp_path):
    local = run_pack(corpus, tokenizer, tmp_path / "local")
    remote = run_pack(corpus, tokenizer, "memory://pack-test")
    assert remote.manifest.files == local.manifest.files
    stream = PackedData.open(remote.uri, cache_dir=tmp_path / "cache").stream("train", "code")
    expected = PackedData.open(local.uri).stream("train", "code")
    assert stream.read(0, stream.num_tokens).tolist() == expected.read(0, expected.num_tokens).tolist()


def test_large_shards_come_first(corpus, tmp_path):
    sizes = [task.source.bytes for task in pack.plan_tasks(corpus, str(tmp_path), 1)]
    assert sizes == sorted(sizes, reverse=True)


def test_a_corpus_without_shards_is_refused(make_corpus, tmp_path):
    with pytest.raises(DataError, match="no shards"):
        pack.plan_tasks(make_corpus({}), str(tmp_path), 1)


def test_how_the_work_is_shared_is_no_part_of_the_hash():
    def key(**settings) -> str:
        return Task("pack", pack.run, pack.Config(name="x", pack=settings)).hash

    assert key() == key(workers=3) == key(worker_cpus=0.5) == key(batch_bytes=1)


@pytest.mark.fault("P6", "one and two encoders on Ray", "the same bytes")
@pytest.mark.ray
def test_one_and_two_encoders_write_the_same_bytes(ray_session, corpus, tokenizer, tmp_path):
    one = run_pack(corpus, tokenizer, tmp_path / "one", workers=1)
    two = run_pack(corpus, tokenizer, tmp_path / "two", workers=2)
    assert one.manifest.files == two.manifest.files
    assert documents_of(PackedData.open(two.uri), "train", "english") == ENGLISH


@pytest.mark.ray
def test_an_encoders_error_reaches_the_driver_as_itself(ray_session, corpus, tokenizer, tmp_path):
    Path(corpus.file("train/code/00000.parquet")).unlink()
    with pytest.raises(ArtifactDamaged, match=r"train/code/00000\.parquet is missing"):
        run_pack(corpus, tokenizer, tmp_path)
