"""pack: a corpus to memory-mapped token shards.

In: the corpus and the tokenizer. Out: for every Parquet shard of the corpus one token shard of the same name, and
``packed.json`` over them (``data.shards``). A shard is made from one file by one function, so the bytes do not depend
on how many run at once. Ray Data hands the shards to processes of one thread each: processes scale where the
tokenizer's threads wait for its cache. They are tasks, not actors: the processes that prepared the corpus go on with
them, and none need be started. A finished shard leaves a note with its hashes; after a stop, shards whose note holds
are not made again. The notes end in ``packed.json``.
"""

import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rayllm.core import storage
from rayllm.core.artifact import Artifact, FileRecord, check_files
from rayllm.core.config import RUNTIME, ConfigModel, Count
from rayllm.core.errors import ArtifactDamaged, DataError, RayllmError
from rayllm.core.log import get_logger
from rayllm.core.progress import Step
from rayllm.core.stage import Work, full_disk_named
from rayllm.data.shards.flatten import pack_texts
from rayllm.data.shards.format import PACKED_JSON, PackedIndex, ShardRecord, dtype_for
from rayllm.data.shards.writer import ShardWriter
from rayllm.pipelines.corpus_shards import domain_shards, read_texts
from rayllm.pipelines.frame import Frame
from rayllm.pipelines.pack_chat import (
    ChatTask,
    append_conversations,
    chat_task,
    check_conversations,
    conversation_counts,
    template_digest,
)
from rayllm.pipelines.progress import track
from rayllm.pipelines.ray_errors import error_from_json, error_to_json
from rayllm.pipelines.ray_runtime import cluster_resources, ensure_ray, quiet_libraries, require
from rayllm.tokenizer.chat.config import ChatConfig
from rayllm.tokenizer.chat.template import CHAT_TEMPLATE
from rayllm.tokenizer.codec import Codec
from rayllm.tokenizer.freeze import FILES, copy_frozen

logger = get_logger(__name__)

VERSION = 2
SPLITS = ("train", "validation")
PARQUET, NOTE = ".parquet", ".json"


class PackConfig(ConfigModel):
    """How conversations are written, and how the encoders share the machine, which changes no byte."""

    chat: ChatConfig | None = Field(
        default=None,
        description="How conversations become tokens, and which of these are learnt; needed where a source has any.",
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        description="Encoders at work at once; by default one for each CPU of the cluster.",
        json_schema_extra=RUNTIME,
    )
    worker_cpus: float = Field(
        default=0.9,
        gt=0,
        le=64,
        description="CPUs that Ray reserves for an encoder; below 1, so that reading is not starved.",
        json_schema_extra=RUNTIME,
    )
    batch_bytes: Count = Field(
        default=1 << 20,
        ge=1,
        description="Text that an encoder takes at a time, in bytes.",
        json_schema_extra=RUNTIME,
    )


class Config(Frame):
    """What pack reads of a run file."""

    pack: PackConfig = Field(default=PackConfig(), description="How tokens are packed.")


def fingerprint(config: Config) -> dict[str, str]:
    """The chat template's text, where a file holds it, so that another one there makes other tokens."""
    return template_digest(config.pack.chat)


class PackedShard(NamedTuple):
    """A shard that is whole: what it holds, and the name of the encoder that its process has proved and uses."""

    record: ShardRecord
    encoder: str


class ShardTask(BaseModel):
    """One shard to make: a file of the corpus, the packed directory, and how conversations are written."""

    model_config = ConfigDict(frozen=True)

    corpus: str
    source: FileRecord
    directory: str
    batch_bytes: int
    chat: ChatTask | None = None

    @property
    def name(self) -> str:
        """Name of the shard: its source's path without ending."""
        return self.source.path.removesuffix(PARQUET)

    @property
    def note(self) -> str:
        """URI of the note that says it is finished."""
        return storage.join(self.directory, self.name + NOTE)


def run(work: Work) -> dict[str, Any]:
    """Encode every shard of the corpus, or find it encoded, and write the index over them."""
    corpus, tokenizer = work.inputs["prepare"], work.inputs["fit_tokenizer"]
    tokenizer.verify(deep=True)
    codec = Codec.load(tokenizer.uri, tokenizer.counts["sha256"])
    copy_frozen(tokenizer.uri, work.directory)
    chat = chat_task(work.config.pack.chat, codec, work.directory)
    tasks = plan_tasks(corpus, work.directory, work.config.pack.batch_bytes, chat)
    packed = list(_watch(encode_shards(tasks, tokenizer, work.config), tasks))
    records = {record.name: record for record, _ in packed}
    encoders = sorted({encoder for _, encoder in packed})
    logger.info("encoded by %s", " and ".join(encoders))
    index = PackedIndex(
        dtype=dtype_for(codec.vocab_size),
        vocab_size=codec.vocab_size,
        tokenizer_sha256=codec.sha256,
        separator_id=codec.separator_id,
        splits=_by_split(corpus, records),
    )
    check_conversations(index)
    index.write(work.directory)
    _remove_leftovers(work.directory, index)
    return {**_counts(index), "encoder": ", ".join(encoders)}


def _watch(packed: Iterable[PackedShard], tasks: Sequence[ShardTask]) -> Iterator[PackedShard]:
    """Pass shards on, and show how far it is."""
    sizes = {task.name: task.source.bytes for task in tasks}

    def step(shard: PackedShard) -> Step:
        record = shard.record
        return Step(sizes[record.name], documents=record.documents, bytes=record.bytes, tokens=record.tokens)

    return track(packed, "pack", total=sum(sizes.values()), step=step, unit="bytes")


def plan_tasks(corpus: Artifact, directory: str, batch_bytes: int, chat: ChatTask | None = None) -> list[ShardTask]:
    """The shards to make, large ones first, so that no encoder is left alone with one at the end.

    Raises:
        DataError: If the corpus has no text.
    """
    sources = [source for split in SPLITS for files in domain_shards(corpus, split).values() for source in files]
    if not sources:
        raise DataError("the corpus has no shards", where=corpus.uri, fix="look at its data_card.md")
    sources.sort(key=lambda source: (-source.bytes, source.path))
    return [
        ShardTask(corpus=corpus.uri, source=source, directory=directory, batch_bytes=batch_bytes, chat=chat)
        for source in sources
    ]


class ShardNote(BaseModel):
    """What is written beside a shard when it is whole; from what it was made, and what it holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source_sha256: str
    tokenizer_sha256: str
    shard: ShardRecord


def pack_shard(task: ShardTask, codec: Codec) -> ShardRecord:
    """Make one shard, unless a note says that it is there and its files agree.

    Raises:
        ArtifactDamaged: If the corpus file differs from the corpus manifest.
    """
    if (found := _finished(task, codec)) is not None:
        return found
    check_files(task.corpus, [task.source], deep=True)
    uri = storage.join(task.corpus, task.source.path)
    with ShardWriter(task.directory, task.name, dtype_for(codec.vocab_size)) as writer:
        if task.chat is None:
            conversations = None
            for texts in read_texts(uri, task.batch_bytes):
                writer.append(*pack_texts(codec, texts))
        else:
            conversations = append_conversations(task.chat, codec, writer, uri, task.batch_bytes)
    record = writer.record.model_copy(update={"conversations": conversations})
    note = ShardNote(source_sha256=task.source.sha256, tokenizer_sha256=codec.sha256, shard=record)
    storage.write_text(task.note, note.model_dump_json())
    return record


def _finished(task: ShardTask, codec: Codec) -> ShardRecord | None:
    """The shard as its note describes it, if there is a note of these parents and the files are as it says."""
    try:
        note = ShardNote.model_validate_json(storage.read_bytes(task.note))
        if (note.source_sha256, note.tokenizer_sha256) != (task.source.sha256, codec.sha256):
            return None
        check_files(task.directory, note.shard.files(dtype_for(codec.vocab_size)), deep=True)
    except FileNotFoundError:
        return None
    except (ValidationError, ArtifactDamaged) as error:
        logger.warning("%s is made again: %s", task.name, str(error).splitlines()[0])
        return None
    return note.shard


@functools.lru_cache(maxsize=1)
def _codec(tokenizer: str, sha256: str) -> Codec:
    """The tokenizer, loaded once in a process."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return Codec.load(tokenizer, sha256)


def encode_row(row: Mapping[str, str], *, tokenizer: str, sha256: str) -> dict[str, str]:
    """Make the shard of ``row["task"]``; returns its record and its encoder, or an error of ours, as JSON."""
    task = ShardTask.model_validate_json(row["task"])
    try:
        with full_disk_named(task.directory):
            codec = _codec(tokenizer, sha256)
            record = pack_shard(task, codec).model_dump_json()
            return {"record": record, "encoder": codec.encoder.name, "error": ""}
    except RayllmError as error:
        return {"record": "", "encoder": "", "error": error_to_json(error)}


def encode_shards(tasks: Sequence[ShardTask], tokenizer: Artifact, config: Config) -> Iterator[PackedShard]:
    """All shards, in the order in which they are finished."""
    ensure_ray(config.ray)
    import ray.data

    quiet_libraries()
    workers = min(config.pack.workers or max(1, int(cluster_resources().get("CPU", 1))), len(tasks))
    cpus = config.pack.worker_cpus
    require({"CPU": workers * cpus}, what="pack", fix="lower pack.workers or pack.worker_cpus")
    rows = ray.data.from_items([{"task": task.model_dump_json()} for task in tasks], override_num_blocks=len(tasks))
    made = rows.map(
        functools.partial(encode_row, tokenizer=tokenizer.uri, sha256=tokenizer.counts["sha256"]),
        compute=ray.data.TaskPoolStrategy(size=workers),
        num_cpus=cpus,
    )
    yield from map(read_row, made.iter_rows())


def read_row(row: Mapping[str, str]) -> PackedShard:
    """The shard that an encoder has made.

    Raises:
        RayllmError: The one that it met instead.
    """
    if row["error"]:
        raise error_from_json(row["error"])
    return PackedShard(ShardRecord.model_validate_json(row["record"]), row["encoder"])


def _by_split(corpus: Artifact, records: Mapping[str, ShardRecord]) -> dict[str, dict[str, list[ShardRecord]]]:
    """The shards in the order of the run file's domains and the corpus's files."""
    return {
        split: {
            domain: [records[source.path.removesuffix(PARQUET)] for source in sources]
            for domain, sources in domain_shards(corpus, split).items()
        }
        for split in SPLITS
    }


def _remove_leftovers(directory: str, index: PackedIndex) -> None:
    """Remove all but the artifact's own files: notes, and scratch files of encoders that were killed."""
    shards = [shard for domains in index.splits.values() for records in domains.values() for shard in records]
    own = {PACKED_JSON, CHAT_TEMPLATE, *FILES, *(file.path for shard in shards for file in shard.files(index.dtype))}
    for path in storage.list_files(directory):
        if path not in own:
            storage.remove(storage.join(directory, path))


def _counts(index: PackedIndex) -> dict[str, Any]:
    """Tokens, documents and bytes in all and by split and domain."""
    splits = {
        split: {
            domain: {
                "tokens": sum(shard.tokens for shard in shards),
                "documents": sum(shard.documents for shard in shards),
                "bytes": sum(shard.bytes for shard in shards),
                **conversation_counts(shards),
            }
            for domain, shards in domains.items()
        }
        for split, domains in index.splits.items()
    }
    return {
        "tokens": sum(domain["tokens"] for domains in splits.values() for domain in domains.values()),
        "dtype": index.dtype,
        "vocab_size": index.vocab_size,
        "tokenizer_sha256": index.tokenizer_sha256,
        **splits,
    }
