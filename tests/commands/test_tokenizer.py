"""``rayllm tokenizer compare``: the numbers are those of the reference, and mistakes are named."""

import json
from pathlib import Path

import pytest
import yaml
from tokenizers import Tokenizer, normalizers

from rayllm.cli import main
from rayllm.commands.text_samples import Asked, read_samples, source_of, split_domain
from rayllm.commands.tokenizer import describe
from rayllm.core.artifact import Artifact
from rayllm.core.stage import Task, Work, run_task
from rayllm.pipelines import existing
from rayllm.pipelines.frame import Frame
from rayllm.tokenizer.bpe import train_bpe
from rayllm.tokenizer.freeze import freeze

Capture = pytest.CaptureFixture[str]

PROSE = [f"The cat number {i} sat naïvely on the mat, <|endoftext|> or so it says." for i in range(40)]
CODE = [f"def f{i}(x):\n    return x + {i}\n" for i in range(40)]
RUN = {"name": "tiny", "sources": {"math": {"kind": "synthetic_math"}}, "train": {"seq_len": 64, "max_steps": 10}}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command switches threads off in its process; here that ends with the test."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """The directory of a small tokenizer artifact."""

    def fit(work: Work) -> dict:
        data = train_bpe(iter([*PROSE, *CODE]), vocab_size=300, min_frequency=2, max_digits=3, num_reserved=0)
        return {"sha256": freeze(data, work.directory)}

    return Path(run_task(Task("fit_tokenizer", fit, Frame(name="test")), str(tmp_path / "made"))[0].uri)


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    path = tmp_path / "prose.v1.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in PROSE))
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Artifact:
    """A corpus of two domains, one of which has validation text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def prepare(work: Work) -> dict:
        for place, texts in (("train/code", CODE), ("train/prose", PROSE), ("validation/prose", PROSE[:5])):
            path = Path(work.path(place, "00000.parquet"))
            path.parent.mkdir(parents=True)
            pq.write_table(pa.table({"text": texts}), path)
        return {"domains": {"code": {}, "prose": {}}}

    return run_task(Task("prepare", prepare, Frame(name="test")), str(tmp_path / "corpora"))[0]


def compared(capsys: Capture, *arguments: object) -> dict:
    assert main(["tokenizer", "compare", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: Capture, *arguments: object) -> str:
    assert main(["tokenizer", "compare", *map(str, arguments)]) in (1, 2, 3)
    return capsys.readouterr().err


def test_the_numbers_are_those_of_the_reference(tokenizer: Path, jsonl: Path, tmp_path: Path, capsys: Capture) -> None:
    code = tmp_path / "code.txt"
    code.write_text("".join(CODE))
    found = compared(capsys, tokenizer, "--text", jsonl, "--text", f"{code}:python")
    (name,) = found["tokenizers"]
    assert name == tokenizer.name
    reference = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    reference.encode_special_tokens = True
    for domain, texts in (("prose", PROSE), ("python", ["".join(CODE).strip()])):
        mine = found["tokenizers"][name]["domains"][domain]
        tokens = sum(len(reference.encode(text).ids) for text in texts)
        size, words = sum(len(text.encode()) for text in texts), sum(len(text.split()) for text in texts)
        assert found["texts"][domain] == {"documents": len(texts), "bytes": size, "words": words}
        assert mine["tokens"] == tokens
        assert mine["bytes_per_token"] == pytest.approx(size / tokens)
        assert mine["tokens_per_word"] == pytest.approx(tokens / words)
        assert mine["encode_mb_per_s"] > 0
        assert mine["round_trip"] is True
    every = found["tokenizers"][name]["domains"]["all"]
    parts = [found["tokenizers"][name]["domains"][domain]["tokens"] for domain in ("prose", "python")]
    assert every["tokens"] == sum(parts)
    assert found["tokenizers"][name]["vocab_size"] == reference.get_vocab_size()


def test_a_tokenizer_that_changes_texts_is_shown_as_such(tokenizer, jsonl, tmp_path, capsys) -> None:
    lower = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    lower.normalizer = normalizers.Lowercase()
    lower.save(str(tmp_path / "lower.json"))
    found = compared(capsys, tmp_path / "lower.json", tokenizer, "--text", jsonl)["tokenizers"]
    assert found["lower"]["domains"]["prose"]["round_trip"] is False
    assert found["lower"]["domains"]["prose"]["changed_documents"] == len(PROSE)
    assert found[tokenizer.name]["domains"]["prose"]["changed_documents"] == 0
    assert main(["tokenizer", "compare", str(tmp_path / "lower.json"), "--text", str(jsonl)]) == 0
    assert "no: 40 of 40 change" in capsys.readouterr().out


def test_the_table_says_everything_in_80_columns(tokenizer, jsonl, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["tokenizer", "compare", str(tokenizer), "--text", f"{jsonl}:english"]) == 0
    told = capsys.readouterr().out
    assert max(map(len, told.splitlines()[:-1])) <= 80
    for word in ("vocabulary", "fastokens", "bytes/token", "tokens/word", "MB/s", "round trip", "english", "yes"):
        assert word in told


def test_text_beyond_the_limit_is_not_read(tokenizer, jsonl, capsys) -> None:
    assert compared(capsys, tokenizer, "--text", jsonl, "--max-bytes", "1K")["texts"]["prose"]["bytes"] == 1000


def test_files_of_one_domain_are_one_text(tokenizer, jsonl, tmp_path, capsys) -> None:
    (tmp_path / "more.txt").write_text("More prose.")
    found = compared(capsys, tokenizer, "--text", f"{jsonl}:a", "--text", f"{tmp_path / 'more.txt'}:a")["texts"]
    assert list(found) == ["a"]
    assert found["a"]["documents"] == len(PROSE) + 1


def test_a_corpus_gives_its_domains_and_the_part_that_is_asked_for(corpus, tokenizer, capsys) -> None:
    held = compared(capsys, tokenizer, "--text", corpus.uri)["texts"]
    assert {name: text["documents"] for name, text in held.items()} == {"prose": 5}
    train = compared(capsys, tokenizer, "--text", corpus.uri, "--split", "train")["texts"]
    assert {name: text["documents"] for name, text in train.items()} == {"code": 40, "prose": 40, "all": 80}
    code = compared(capsys, tokenizer, "--text", f"{corpus.uri}:code", "--split", "train")["texts"]
    assert list(code) == ["code"]
    assert "no validation text of a domain 'code'" in refused(capsys, tokenizer, "--text", f"{corpus.uri}:code")


def test_a_run_file_stands_for_its_tokenizer_and_its_corpus(corpus, tokenizer, tmp_path, capsys, monkeypatch) -> None:
    from rayllm.core.artifact import read_artifact

    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(RUN))
    made = {"prepare": corpus, "fit_tokenizer": read_artifact(str(tokenizer))}
    monkeypatch.setattr(existing, "find_artifacts", lambda config, verb, file: {verb: made[verb]})
    found = compared(capsys, file, "--text", file)
    assert list(found["tokenizers"]) == ["tiny"]
    assert list(found["texts"]) == ["prose"]


def test_a_run_without_a_tokenizer_names_the_command(tmp_path, jsonl, capsys) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump({**RUN, "storage": str(tmp_path)}))
    assert f"rayllm fit_tokenizer {file}" in refused(capsys, file, "--text", jsonl)


def test_damaged_artifacts_are_not_compared(corpus, tokenizer, jsonl, capsys) -> None:
    text = (tokenizer / "tokenizer.json").read_text()
    (tokenizer / "tokenizer.json").write_text(text.replace("  ", " ", 1))
    assert "damaged" in refused(capsys, tokenizer, "--text", jsonl)
    path = Path(corpus.file("validation/prose/00000.parquet"))
    path.write_bytes(path.read_bytes()[:-1])
    assert "damaged" in refused(capsys, tokenizer / "tokenizer.json", "--text", corpus.uri)


@pytest.mark.parametrize(
    ("tokenizers", "options", "told"),
    [
        (["nothing.json"], [], "there is no tokenizer"),
        (["."], [], "holds no tokenizer"),
        (["a.tiktoken"], [], "put the name of its pattern behind it"),
        (["a.tiktoken@cl10k"], [], "'cl10k' is not a pattern"),
        (["tok@gpt2"], [], "leave @gpt2 out"),
        (["tok"], ["--max-bytes", "lots"], "--max-bytes"),
        (["tok"], ["--text", "none.jsonl"], "no such file"),
        (["tok"], ["--text", "empty.txt"], "there is no text in empty"),
        (["tok"], ["--field", "body"], "no field 'body'"),
        (["tok"], ["--text", "tok"], "an artifact of fit_tokenizer"),
    ],
)
def test_mistakes_are_named(tokenizers, options, told, tokenizer, jsonl, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tok").symlink_to(tokenizer)
    (tmp_path / "a.tiktoken").write_text("")
    (tmp_path / "empty.txt").write_text("")
    assert told in refused(capsys, *tokenizers, "--text", jsonl, *options)


def test_a_colon_names_a_domain_and_schemes_keep_theirs() -> None:
    for written, wanted in {
        "a.jsonl": ("a.jsonl", None),
        "a.jsonl:web": ("a.jsonl", "web"),
        "s3://bucket/a.jsonl": ("s3://bucket/a.jsonl", None),
        "s3://bucket/a.jsonl:web_2": ("s3://bucket/a.jsonl", "web_2"),
        "http://host:80/a.txt": ("http://host:80/a.txt", None),
        "a:b:c": ("a:b", "c"),
    }.items():
        assert split_domain(written) == wanted


def test_files_are_read_by_their_ending() -> None:
    kinds = {"a.jsonl.gz": "jsonl", "a.parquet": "parquet", "a.arrow": "arrow", "b.md": "markdown", "c.py": "text"}
    assert {name: source_of(name, "text").kind for name in kinds} == kinds


def test_a_template_makes_a_text_of_fields(tmp_path) -> None:
    path = tmp_path / "gsm.jsonl"
    path.write_text('{"q": "1 + 1?", "a": "2"}\n')
    assert read_samples([str(path)], Asked(100, "validation", "{q} {a}")) == {"gsm": ["1 + 1? 2"]}


def test_a_domain_of_a_persons_own_called_all_is_left_alone() -> None:
    from rayllm.tokenizer.comparison.measure import Fit
    from rayllm.tokenizer.comparison.scores import Score

    class Fake:
        name, source, sha256, vocab_size, encoder = "fake", "", "", 1, type("E", (), {"name": "none"})

    scores = {"all": Score(Fit(10, 2, 5), 1, 1.0, 0), "b": Score(Fit(1, 1, 1), 1, 1.0, 1)}
    found = describe(iter([(Fake(), scores)]))  # pyright: ignore[reportArgumentType]
    assert found["texts"]["all"]["bytes"] == 10
