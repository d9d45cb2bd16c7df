"""Conversations through pack: masks that fit the tokens, counts of what is left out, documents that stay found."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from without_ray import encode_here

from rayllm.core.artifact import Artifact
from rayllm.core.errors import ConfigError, DataError
from rayllm.core.stage import Task, Work, run_task
from rayllm.data.packing.row_index import open_rows
from rayllm.data.packing.rows import Segment, read_segments
from rayllm.data.provenance import Documents
from rayllm.data.shards.packed import PackedData
from rayllm.pipelines import fit_tokenizer, pack
from rayllm.pipelines.frame import Frame

LONG = "word " * 60


def talk(number: int, reply: str = "Fine.") -> list[dict[str, str]]:
    return [
        {"role": "user", "content": f"How is number {number}?"},
        {"role": "assistant", "content": f"{reply} {number}"},
    ]


TALKS = [talk(number, LONG if number % 10 == 3 else "Fine.") for number in range(40)]
PLAIN = [f"A plain document of number {number}." for number in range(20)]


def corpus(root: Path, domains: dict[str, list[Any]]) -> Artifact:
    """A corpus of one shard for each domain and split: texts, or turns."""

    def fill(work: Work) -> dict[str, Any]:
        for split in ("train", "validation"):
            for domain, documents in domains.items():
                held = [_metadata(document) for document in documents]
                texts = [
                    document if isinstance(document, str) else "\n".join(turn["content"] for turn in kept["messages"])
                    for document, kept in zip(documents, held, strict=True)
                ]
                columns = {
                    "id": [str(number) for number in range(len(texts))],
                    "text": texts,
                    "source": [domain] * len(texts),
                    "metadata": [json.dumps(kept) for kept in held],
                }
                path = Path(work.path(split, domain, "00000.parquet"))
                path.parent.mkdir(parents=True)
                pq.write_table(pa.table(columns), path)
        amount = {"documents": 1, "bytes": 1 << 20}
        return {"domains": {domain: {"train": amount, "validation": amount} for domain in domains}}

    return run_task(Task("prepare", fill, Frame(name="t")), str(root / "corpus"))[0]


def _metadata(document: Any) -> dict[str, Any]:
    """Of a text nothing, of turns these, of a pair its turns and the reply that was not preferred."""
    if isinstance(document, str):
        return {}
    return (
        {"messages": document[0], "rejected_reply": document[1]}
        if isinstance(document, tuple)
        else {"messages": document}
    )


@pytest.fixture
def run_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Pack documents in this process: domains, then settings of ``pack.chat``."""

    monkeypatch.setattr(pack, "encode_shards", encode_here)

    def run(domains: dict[str, list[Any]], batch_bytes: int = 1 << 20, **chat: Any) -> Artifact:
        prepared = corpus(tmp_path, domains)
        settings = fit_tokenizer.Config(name="t", fit_tokenizer={"vocab_size": 300})
        tokenizer = run_task(Task("fit_tokenizer", fit_tokenizer.run, settings, {"prepare": prepared}), str(tmp_path))[
            0
        ]
        config = pack.Config(name="t", pack={"chat": chat, "batch_bytes": batch_bytes})
        task = Task("pack", pack.run, config, {"prepare": prepared, "fit_tokenizer": tokenizer}, in_place=True)
        return run_task(task, str(tmp_path / f"pack-{batch_bytes}"))[0]

    return run


def documents_of(packed: PackedData, domain: str) -> list[tuple[str, str]]:
    """Each document's text, and the part of it that is learnt."""
    stream, codec = packed.stream("train", domain), packed.codec()
    found = []
    for start, end in pairwise([*stream.document_starts().tolist(), stream.num_tokens]):
        ids, mask = stream.read(start + 1, end - start - 1), stream.read_mask(start + 1, end - start - 1)
        found.append((codec.decode(ids), codec.decode(ids[mask])))
    return found


def test_conversations_and_plain_texts_lie_side_by_side(run_pack) -> None:
    packed = PackedData.open(run_pack({"chat": TALKS[:3], "web": PLAIN, "both": [PLAIN[0], TALKS[1], PLAIN[2]]}).uri)
    chat = documents_of(packed, "chat")
    assert [learnt for _, learnt in chat] == [f"Fine. {number}<|im_end|>" for number in range(3)]
    assert chat[0][0].startswith("<|im_start|>user\nHow is number 0?<|im_end|>\n<|im_start|>assistant\n")
    assert documents_of(packed, "web") == [(text, text) for text in PLAIN]
    assert not packed.stream("train", "web").has_mask
    both = packed.stream("train", "both")
    assert [learnt for _, learnt in documents_of(packed, "both")] == [PLAIN[0], "Fine. 1<|im_end|>", PLAIN[2]]
    ends = both.read_mask(0, both.num_tokens)[both.document_starts()]
    assert ends.tolist() == [True, True, False], (
        "the end of a plain text is learnt, that of a conversation is its turn's"
    )


def test_the_end_of_a_text_template_is_learnt_by_the_separator_that_follows(run_pack) -> None:
    packed = PackedData.open(run_pack({"chat": TALKS[:3]}, template="alpaca").uri)
    stream = packed.stream("train", "chat")
    ends = stream.read_mask(0, stream.num_tokens)[stream.document_starts()]
    assert ends.tolist() == [False, True, True], "nobody knows what stands before a shard"


def test_what_is_left_out_is_counted_and_rows_of_the_corpus_stay_found(run_pack) -> None:
    artifact = run_pack({"chat": TALKS}, max_tokens=64)
    counts = artifact.counts["train"]["chat"]
    assert (counts["conversations"], counts["documents"], counts["dropped"]) == (36, 36, {"too_long": 4})
    packed = PackedData.open(artifact.uri)
    stream = packed.stream("train", "chat")
    mask = stream.read_mask(0, stream.num_tokens)
    assert counts["learnt_tokens"] == mask.sum()
    passages = Documents(stream).passages([Segment(0, stream.num_tokens)])
    assert [passage.shard_row for passage in passages] == [row for row in range(40) if row % 10 != 3]


def test_truncated_conversations_are_counted_and_keep_something_to_learn(run_pack) -> None:
    artifact = run_pack({"chat": TALKS}, max_tokens=64, truncate="right")
    assert artifact.counts["train"]["chat"]["truncated"] == 4
    assert artifact.counts["train"]["chat"]["documents"] == 40
    stream = PackedData.open(artifact.uri).stream("train", "chat")
    lengths = np.diff([*stream.document_starts(), stream.num_tokens])
    assert lengths.max() == 64
    assert all(learnt for _, learnt in documents_of(PackedData.open(artifact.uri), "chat"))


@pytest.mark.parametrize("seq_len", [64, 256])
def test_every_packed_row_has_something_to_learn_and_no_document_in_pieces(run_pack, seq_len: int) -> None:
    packed = PackedData.open(run_pack({"chat": TALKS}, max_tokens=64).uri)
    rows = open_rows(packed, "train", "chat", seq_len, "best_fit")
    stream = packed.stream("train", "chat")
    starts = {*stream.document_starts().tolist(), stream.num_tokens}
    for number in range(rows.num_rows):
        segments = rows.segments(number)
        assert all(start in starts and start + length in starts for start, length in segments)
        for piece in read_segments(stream, segments):
            assert piece.learnt is not None
            assert piece.learnt[1:].any()


def test_the_size_of_a_batch_changes_no_byte(run_pack) -> None:
    domains = {"chat": TALKS, "both": [PLAIN[0], TALKS[1], PLAIN[2]]}
    one, large = (run_pack(domains, batch_bytes, template="alpaca") for batch_bytes in (1, 1 << 30))
    assert one.manifest.files == large.manifest.files


def test_the_template_lies_beside_the_tokenizer(run_pack) -> None:
    artifact = run_pack({"chat": TALKS[:3]})
    assert "<|im_start|>" in Path(artifact.file("chat_template.jinja")).read_text()
    assert "chat_template.jinja" in {file.path for file in artifact.manifest.files}


def test_a_domain_of_which_nothing_is_left_is_refused(run_pack) -> None:
    with pytest.raises(DataError, match=r"no conversation of a domain is left(.|\n)*train/chat(.|\n)*40 too_long"):
        run_pack({"chat": TALKS, "web": PLAIN}, max_tokens=10)


def test_a_template_that_cannot_be_used_stops_before_any_shard_is_made(run_pack, tmp_path: Path) -> None:
    file = tmp_path / "t.jinja"
    file.write_text("{% for m in messages %}<|eot_id|>{{ m.content }}{% endfor %}")
    with pytest.raises(ConfigError, match=r"no special token '<\|eot_id\|>'"):
        run_pack({"chat": TALKS}, template={"jinja": str(file)})
    assert not list(tmp_path.rglob("*.tokens"))


def test_another_text_in_a_template_file_is_other_data(tmp_path: Path) -> None:
    file = tmp_path / "t.jinja"
    config = pack.Config(name="t", pack={"chat": {"template": {"jinja": str(file)}}})
    file.write_text("{{ messages }}")
    first = pack.fingerprint(config)
    file.write_text("{{ messages }} ")
    assert first != pack.fingerprint(config)
    assert pack.fingerprint(pack.Config(name="t", pack={"chat": {}})) == {}


def test_a_pair_is_one_document_of_two_halves_that_learns_its_last_replies_only(run_pack) -> None:
    asked = [*talk(1), {"role": "user", "content": "And two?"}, {"role": "assistant", "content": "Good."}]
    pairs = [(asked, "Bad."), (talk(2), "Fine. 2"), (talk(3, LONG * 8), "Short."), (talk(4), "Worse.")]
    packed = PackedData.open(run_pack({"pairs": pairs}, max_tokens=256).uri)
    stream, codec = packed.stream("train", "pairs"), packed.codec()
    assert packed.pair_domains("train") == packed.chat_domains("train") == ["pairs"]
    (record,) = stream.records
    assert record.conversations is not None
    assert (record.documents, record.conversations.pairs) == (2, 2)
    assert record.conversations.dropped == {"no_preference": 1, "too_long": 1}
    ids = stream.read(0, stream.num_tokens)
    halves = np.split(ids, np.flatnonzero(ids == packed.separator_id)[1:])
    masks = np.split(stream.read_mask(0, len(ids)), np.flatnonzero(ids == packed.separator_id)[1:])
    assert stream.document_starts().tolist() == [0, len(halves[0]) + len(halves[1])]
    learnt = [codec.decode(half[mask].tolist()) for half, mask in zip(halves, masks, strict=True)]
    assert learnt == [f"{text}<|im_end|>" for text in ("Good.", "Bad.", "Fine. 4", "Worse.")]
    prompts = [codec.decode(half[: mask.argmax()].tolist()) for half, mask in zip(halves, masks, strict=True)]
    assert prompts[0] == prompts[1]
    assert "Fine. 1<|im_end|>" in prompts[0], "earlier replies are read, not learnt"


def test_a_pair_may_be_as_long_as_both_of_its_halves(run_pack) -> None:
    whole = PackedData.open(run_pack({"pairs": [(talk(1), "No.")]}).uri).stream("train", "pairs").num_tokens
    assert PackedData.open(run_pack({"pairs": [(talk(1), "No.")]}, 1 << 19, max_tokens=whole).uri)
    with pytest.raises(DataError, match="too_long"):
        run_pack({"pairs": [(talk(1), "No.")]}, 1 << 18, max_tokens=whole - 1)
