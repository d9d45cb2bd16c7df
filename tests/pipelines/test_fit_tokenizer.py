"""fit_tokenizer: the same corpus gives the same frozen tokenizer, within its cap."""

import logging
import os
import re
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from pydantic import ValidationError

from rayllm.core.artifact import Artifact
from rayllm.core.errors import ArtifactDamaged, DataError
from rayllm.core.stage import Task, run_task
from rayllm.data.shards.flatten import pack_texts
from rayllm.pipelines import fit_tokenizer, progress
from rayllm.tokenizer.codec import Codec

ENGLISH = [f"The cat number {i} sat on the mat, and it was naïve of it to sit there." for i in range(60)]
CODE = [f"def f{i}(x):\n    return x + {i}\n" for i in range(60)]


@pytest.fixture
def corpus(make_corpus) -> Artifact:
    return make_corpus(
        {
            "english": {"train": [ENGLISH[:30], ENGLISH[30:50]], "validation": [ENGLISH[50:]]},
            "code": {"train": [CODE[:50]], "validation": [CODE[50:]]},
        }
    )


def fit(corpus: Artifact, root, **settings) -> Artifact:
    settings = settings if "kind" in settings else {"vocab_size": 300, **settings}
    config = fit_tokenizer.Config(name="test", fit_tokenizer=settings)
    return run_task(Task("fit_tokenizer", fit_tokenizer.run, config, {"prepare": corpus}), str(root))[0]


def test_the_artifact_is_a_tokenizer_with_its_hash_and_its_fit(corpus, tmp_path):
    artifact = fit(corpus, tmp_path)
    codec = Codec.load(artifact.uri, artifact.counts["sha256"])
    assert codec.vocab_size == artifact.counts["vocab_size"] == 300
    assert codec.decode(codec.encode(ENGLISH[0])) == ENGLISH[0]
    assert list(artifact.counts["domains"]) == ["english", "code"]
    found = artifact.counts["domains"]["code"]
    size = sum(len(text.encode()) for text in CODE[50:])
    tokens = sum(len(codec.encode(text)) for text in CODE[50:])
    assert found["measured_bytes"] == size
    assert found["bytes_per_token"] == pytest.approx(size / tokens, abs=1e-4)
    assert found["tokens_per_word"] == pytest.approx(tokens / sum(len(text.split()) for text in CODE[50:]), abs=1e-4)


def test_running_again_gives_the_same_bytes(corpus, tmp_path):
    first, second = fit(corpus, tmp_path / "a"), fit(corpus, tmp_path / "b")
    assert first.manifest.files == second.manifest.files


def test_the_cap_is_kept_and_spread_over_shards(corpus, tmp_path, monkeypatch):
    learned = []
    real = fit_tokenizer.train_bpe

    def listen(texts, **settings):
        learned.extend(texts)
        return real(iter(learned), **settings)

    monkeypatch.setattr(fit_tokenizer, "train_bpe", listen)
    artifact = fit(corpus, tmp_path, max_bytes=2000, vocab_size=264)
    assert sum(len(text.encode()) for text in learned) <= 2000
    assert sum(artifact.counts["sampled_bytes"].values()) == sum(len(text.encode()) for text in learned)
    assert set(learned) & set(ENGLISH[:30])
    assert set(learned) & set(ENGLISH[30:50])
    assert set(learned) & set(CODE)


def test_weights_change_what_is_learned(corpus, tmp_path):
    sampled = fit(corpus, tmp_path, weights={"code": 1.0}).counts["sampled_bytes"]
    assert list(sampled) == ["code"]
    even = fit(corpus, tmp_path, weights={"code": 1, "english": 1}).counts["sampled_bytes"]
    assert even["code"] == pytest.approx(even["english"], rel=0.1)


def test_a_vocabulary_that_the_text_cannot_fill_is_said(corpus, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("rayllm"), "propagate", True)
    artifact = fit(corpus, tmp_path, vocab_size=8192)
    assert artifact.counts["vocab_size"] < 8192
    assert "of the 8,192 ids asked for" in caplog.text


def test_an_existing_tokenizer_is_adopted_byte_for_byte(corpus, tmp_path, shared_data):
    path = shared_data / "tokenizers/gpt2/tokenizer.json"
    artifact = fit(corpus, tmp_path, kind="adopt", from_file=str(path))
    assert artifact.counts["vocab_size"] == 50_257
    assert (tmp_path / artifact.uri / "tokenizer.json").read_bytes() == path.read_bytes()
    assert artifact.counts["sampled_bytes"] == {}


def test_superbpe_learns_tokens_across_words_and_the_transition_is_kept(corpus, tmp_path):
    words = fit(corpus, tmp_path, vocab_size=300)
    mixed = fit(corpus, tmp_path, kind="superbpe", vocab_size=330, transition_size=300, max_words=2)
    first, second = (Codec.load(artifact.uri, artifact.counts["sha256"]) for artifact in (words, mixed))
    assert (first.vocab_size, second.vocab_size) == (300, 330)
    names = [second.decode([index]) for index in range(first.vocab_size, second.vocab_size)]
    assert max(len(name.split()) for name in names) == 2
    assert [second.decode([index]) for index in range(300)] == [first.decode([index]) for index in range(300)]
    for text in [*ENGLISH[50:], *CODE[50:]]:
        assert second.decode(second.encode(text)) == text
    fits = [artifact.counts["domains"]["english"]["bytes_per_token"] for artifact in (words, mixed)]
    assert fits[1] > fits[0]
    assert mixed.counts["sampled_bytes"] == words.counts["sampled_bytes"], "both stages read it, and it counts once"


def test_the_separator_that_is_asked_for_stands_before_every_document(corpus, tmp_path, shared_data):
    path = str(shared_data / "tokenizers/llama2/tokenizer.model")
    for separator, index in ((None, 2), ("<s>", 1)):
        settings = {} if separator is None else {"separator": separator}
        artifact = fit(corpus, tmp_path, kind="adopt", from_file=path, **settings)
        codec = Codec.load(artifact.uri)
        assert codec.separator_id == index
        flat, bounds, _ = pack_texts(codec, pa.array(CODE[:2]))
        assert [flat[start] for start in bounds] == [index, index]
    with pytest.raises(DataError, match="'<eos>' is no special token"):
        fit(corpus, tmp_path, kind="adopt", from_file=path, separator="<eos>")


def test_what_is_read_is_shown_with_its_rate_and_the_time_left(corpus, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("rayllm"), "propagate", True)
    monkeypatch.setattr(progress, "PLAIN_INTERVAL_S", 0.0)
    caplog.set_level(logging.INFO, "rayllm")
    fit(corpus, tmp_path)
    (first, *_, last) = [line for line in caplog.messages if line.startswith("fit_tokenizer: reading")]
    for part in (r"1% of 5\.02 kB", r"1 document \(\d.*documents/s\)", r"70 B \(\d.*B/s\)", r"eta \d"):
        assert re.search(part, first), first
    assert re.search(r"kB in .*, 100 documents \(.*/s\)", last), last


def test_a_damaged_corpus_shard_is_never_learned_from(corpus, tmp_path):
    path = Path(corpus.file("train/code/00000.parquet"))
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactDamaged, match=r"train/code/00000\.parquet"):
        fit(corpus, tmp_path)


def test_a_corpus_without_text_is_refused(make_corpus, tmp_path):
    with pytest.raises(DataError, match="no training text"):
        fit(make_corpus({"english": {"train": [[]], "validation": [[]]}}), tmp_path)


def test_settings_that_cannot_be_are_refused():
    for settings, text in (
        ({"vocab_size": 100}, "at least 264"),
        ({"weights": {"a": -1.0}}, "must not be negative"),
        ({"kind": "adopt"}, "from_file"),
        ({"kind": "adopt", "from_file": "x", "special_tokens": {"<eos>": 1}}, "without a pattern"),
        ({"kind": "superbpe", "transition_size": 9000}, "stage 2 would begin at a vocabulary of 9,000"),
        ({"kind": "superbpe", "transition_size": 4000, "transition_frac": 0.5}, "not both"),
    ):
        with pytest.raises(ValidationError, match=text):
            fit_tokenizer.Config(name="test", fit_tokenizer=settings)


def test_the_settings_shape_the_hash_and_the_storage_does_not():
    def key(**settings) -> str:
        return Task("fit_tokenizer", fit_tokenizer.run, fit_tokenizer.Config(name="x", **settings)).hash

    assert key() != key(fit_tokenizer={"max_bytes": "1Mi"})
    assert key() == key(storage="elsewhere")


def test_the_environment_is_left_as_it_was(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    fit(corpus, tmp_path)
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"


def test_every_config_of_the_page_on_tokenizers_is_valid():
    page = (Path(__file__).parents[2] / "docs/tokenizers.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    kinds = [fit_tokenizer.Config(name="x", **yaml.safe_load(block)).fit_tokenizer.kind for block in blocks]
    assert kinds == ["bpe", "superbpe", *["adopt"] * 5]
