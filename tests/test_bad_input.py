"""Bad input as a user meets it: through the command line, with the exit code and the message that they get.

Every failure must fit on a screen, hold no traceback, say what is wrong and where, and leave what was there before.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tokenizers import Tokenizer

from rayllm.cli import main
from rayllm.core.artifact import sha256_file
from rayllm.core.errors import ArtifactDamaged, SetupError
from rayllm.pipelines import ray_runtime
from rayllm.pipelines.ray_errors import error_from_json

SCREEN_LINES = 24
ROWS = 200

RUN: dict[str, Any] = {
    "name": "tiny",
    "storage": "runs",
    "sources": {"web": {"kind": "jsonl", "path": "web.jsonl"}},
    "prepare": {"rules": {"prose": {"min_words": 1}}},
    "fit_tokenizer": {"vocab_size": 300},
    "model": {"dim": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "ffn_dim": 32, "max_seq_len": 64},
    "train": {
        "seq_len": 32,
        "global_batch_tokens": 128,
        "micro_batch_size": 2,
        "max_steps": 2,
        "validation": {"max_tokens": 256},
        "samples": {"max_new_tokens": 4},
        "logging": {"tensorboard": False},
        "workers": {"count": 1, "max_failures": 0},
    },
}

Fail = Callable[..., str]


def jsonl(bad: Iterable[int] = ()) -> str:
    """Rows of text; the lines whose numbers are given are no JSON."""
    good = [json.dumps({"text": f"Row {i} says that {i * i} is the square of {i}."}) for i in range(1, ROWS + 1)]
    return "".join(("{oops" if i in set(bad) else line) + "\n" for i, line in enumerate(good, start=1))


def files(root: Path) -> dict[str, str]:
    """SHA-256 of every file below a directory."""
    return {str(path.relative_to(root)): sha256_file(str(path)) for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(autouse=True)
def keep_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command stops the Ray that it uses; here it is the session's."""
    monkeypatch.setattr(ray_runtime, "shutdown", lambda: None)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a run file and its source."""
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(yaml.safe_dump(RUN, sort_keys=False))
    Path("web.jsonl").write_text(jsonl())
    return tmp_path


@pytest.fixture
def fail(home: Path, capsys: pytest.CaptureFixture[str]) -> Fail:
    """Runs a command that must fail with an exit code, and returns what it says."""

    def run(code: int, *arguments: str) -> str:
        before = files(home)
        capsys.readouterr()
        try:
            found = main(arguments)
        except SystemExit as exit_:  # how argparse ends
            found = exit_.code
        said = capsys.readouterr().err
        assert found == code, said
        after = files(home)
        assert {name: after.get(name) for name in before} == before
        return checked(said)

    return run


def checked(said: str) -> str:
    """The message in what a command wrote to standard error, which must fit on a screen."""
    assert "Traceback" not in said
    assert len(said.splitlines()) <= SCREEN_LINES, said
    assert "error: " in said
    return said[said.index("error: ") :]


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("train.lrr=1", "`train.lrr` is not a setting. Did you mean `train.optimizer.lr`?"),
        ("train.seq_len=long", "`train.seq_len` is 'long': input should be a valid integer"),
        ("train.engine.kind=jax", "it must be one of deepspeed, torch"),
        ("sources.web.kind=jsonll", "Did you mean jsonl?"),
        ("train.tokens=1M", "set exactly one of `train.max_steps`, `train.tokens` and `train.tokens_per_param`"),
        ("mixture.weights={web: 1, code: 1}", "mixture.weights: there is no domain 'code'; the domains are web"),
        ("fit_tokenizer.weights={wed: 1}", "fit_tokenizer.weights: there is no domain 'wed'; "),
        ("curriculum=[{frac: 1, weights: {code: 1}}]", "curriculum.0.weights: there is no domain 'code'"),
        ("nonsense", "`nonsense` is not of the form path.to.setting=value"),
    ],
)
def test_a_wrong_setting_is_named_before_anything_starts(fail: Fail, home: Path, setting: str, told: str) -> None:
    message = fail(2, "run", "run.yaml", setting)
    assert told in message
    assert setting in message or "run.yaml:" in message
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: a\nname: b\n", "bad.yaml:2: `name` is set twice (first on line 1)"),
        ("base: gone.yaml\nname: a\n", "gone.yaml: cannot be read: No such file or directory (named as base by "),
        ("name: [a\n", "bad.yaml:2: not valid YAML"),
        ("- a\n", "bad.yaml:1: a config is a mapping of settings, not sequence"),
        ("", "bad.yaml:1: `name` is required and missing"),
        ("!!int abc: 1\n", "bad.yaml:1: `abc` is not a setting"),
    ],
)
def test_a_wrong_run_file_is_told_with_its_line(fail: Fail, home: Path, text: str, told: str) -> None:
    Path("bad.yaml").write_text(text)
    assert told in fail(2, "run", "bad.yaml")


def test_a_missing_file_is_the_only_problem_told(fail: Fail) -> None:
    message = fail(2, "run", "gone.yaml")
    assert message.splitlines() == [
        "error: gone.yaml: 1 problem",
        "  gone.yaml: cannot be read: No such file or directory",
    ]


@pytest.mark.parametrize(
    "arguments",
    [[], ["rum", "run.yaml"], ["run"], ["train", "run.yaml", "--bogus"], ["config", "check"], ["sample", "runs/none"]],
)
def test_a_wrong_command_line_is_told(fail: Fail, arguments: list[str]) -> None:
    fail(2, *arguments)


def test_a_sweep_without_its_section_is_refused_before_its_data_are_made(fail: Fail) -> None:
    assert "no section `tune:`" in fail(2, "tune", "run.yaml")
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("wed.jsonl", "no such file"),
        ("web.jsonl/part.jsonl", "no such file"),
        ("*.parquet", "no file matches"),
        (".", "this is a directory"),
    ],
)
def test_a_missing_source_is_named_by_its_setting(fail: Fail, home: Path, path: str, told: str) -> None:
    message = fail(1, "run", "run.yaml", f"sources.web.path={path}")
    assert told in message
    assert f"sources.web: {path}" in message
    assert str(home) in message or "name its files" in message


def test_an_unreadable_source_is_named(fail: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def refuse(self: Path, *arguments: Any, **options: Any) -> Any:  # root may open every real file
        if self.name == "web.jsonl":
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    message = fail(1, "run", "run.yaml")
    assert "sources.web: web.jsonl" in message
    assert "Permission denied" in message


@pytest.mark.parametrize("setting", ["storage=s3://bucket/runs", "sources.web.path=s3://bucket/web.jsonl"])
def test_an_object_store_that_does_not_answer_is_a_message(
    fail: Fail, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    import s3fs

    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    s3fs.S3FileSystem.clear_instance_cache()
    message = fail(3, "run", "run.yaml", setting)
    assert "the storage cannot be reached" in message
    assert "s3://bucket/" in message
    assert "127.0.0.1:9" in message
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize(
    ("setting", "told"),
    [("storage=web.jsonl", "the storage cannot be written"), ("ray.address=127.0.0.1:9", "nothing answers at")],
)
def test_a_machine_that_lacks_something_has_its_own_exit_code(
    fail: Fail, setting: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # whatever tests before this one have started
    message = fail(3, "run", "run.yaml", setting)
    assert told in message
    assert "fix:" in message


@pytest.mark.fault("P8", "a line that is no JSON", "counted with its place; the rest is kept")
@pytest.mark.ray
def test_a_bad_line_is_quarantined_with_its_number_and_the_run_goes_on(home: Path, ray_session: None) -> None:
    Path("web.jsonl").write_text(jsonl(bad=[7]))
    assert main(["prepare", "run.yaml"]) == 0
    (corpus,) = Path("runs/data").glob("prepare-*")
    (row,) = [json.loads(line) for line in (corpus / "quarantine.jsonl").read_text().splitlines()]
    assert (row["domain"], row["source"], row["place"]) == ("web", "web.jsonl", "7")
    assert row["reason"].startswith("malformed_json: ")
    assert "line" not in row["reason"]
    counts = json.loads((corpus / "manifest.json").read_text())["counts"]["domains"]["web"]
    assert counts["quarantined"] == {"malformed_json": 1}
    assert counts["train"]["documents"] + counts["validation"]["documents"] == ROWS - 1


@pytest.mark.ray
def test_sources_that_hold_nothing_usable_are_refused_with_the_first_places(fail: Fail, ray_session: None) -> None:
    Path("web.jsonl").write_text(jsonl(bad=range(5, 65)))
    message = fail(1, "prepare", "run.yaml")
    assert "60 of 200 rows of a source cannot be used" in message
    assert "web.jsonl:5: malformed_json" in message
    assert "prepare.max_bad_frac" in message

    Path("web.jsonl").write_text(jsonl())
    message = fail(1, "prepare", "run.yaml", "prepare.rules.prose.min_words=1000")
    assert "a domain has no training documents left" in message
    assert "200 documents read; left out: 200 too_short" in message
    assert "relax prepare.rules" in message

    Path("book.txt").write_bytes(bytes(range(256)) * 40)
    message = fail(1, "prepare", "run.yaml", "sources.web={kind: text, path: book.txt}")
    assert "sources.web" in message
    assert "book.txt:1: binary: it has NUL bytes" in message
    assert not list(Path("runs/data").glob("prepare-*/manifest.json"))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """A working directory in which everything up to the packed tokens is there."""
    root = tmp_path_factory.mktemp("packed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(ray_runtime, "shutdown", lambda: None)
        Path("web.jsonl").write_text(jsonl())
        Path("run.yaml").write_text(yaml.safe_dump(RUN, sort_keys=False))
        assert main(["pack", "run.yaml"]) == 0
    return root


@pytest.fixture
def ready(packed: Path, home: Path) -> Path:
    """A copy of it, which a test may damage; returns the packed artifact."""
    for name in files(packed):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes((packed / name).read_bytes())
    (artifact,) = home.glob("runs/data/pack-*")
    return artifact


def trained_steps(home: Path) -> list[Path]:
    """Files that only a run that has begun to train leaves."""
    return [*home.glob("runs/tiny/train-*/metrics.jsonl"), *home.glob("runs/tiny/train-*/checkpoints/step-*")]


def swap_merges(path: Path) -> None:
    """Make another tokenizer of a file: the same vocabulary, the same size, two merges in the other order."""
    before = path.read_bytes()
    content = json.loads(before)
    merges = content["model"]["merges"]
    merges[-1], merges[-2] = merges[-2], merges[-1]
    path.write_text(Tokenizer.from_str(json.dumps(content)).to_str(pretty=True))
    assert len(path.read_bytes()) == len(before)
    assert path.read_bytes() != before


@pytest.mark.fault("P9", "two merges of the tokenizer swapped, the size the same", "refused before step 1")
@pytest.mark.ray
def test_another_tokenizer_of_the_same_size_stops_the_run_before_step_1(fail: Fail, ready: Path, home: Path) -> None:
    swap_merges(ready / "tokenizer.json")
    message = fail(1, "train", "run.yaml")
    assert "tokenizer.json has other content than its SHA-256" in message
    assert str(ready) in message
    assert "rayllm pack FILE --force" in message
    assert not trained_steps(home)


@pytest.mark.fault("P9", "two merges of the tokenizer swapped, the size the same", "refused before step 1")
@pytest.mark.ray
def test_another_tokenizer_is_found_even_if_no_manifest_is_looked_at(ready: Path, home: Path) -> None:
    from rayllm.pipelines.run_config import load_run, stage_config
    from rayllm.pipelines.train.session import train_alone

    swap_merges(ready / "tokenizer.json")
    with pytest.raises(ArtifactDamaged, match="another tokenizer than the one the data was made with"):
        train_alone(stage_config("train", load_run("run.yaml", [])), str(ready), str(home / "trial"))  # pyright: ignore[reportArgumentType]
    assert not list(home.glob("trial/checkpoints/step-*"))
    assert not [
        line for line in Path("trial/metrics.jsonl").read_text().splitlines() if json.loads(line)["kind"] == "train"
    ]


@pytest.mark.fault("P9", "a token shard cut short, or a bit of it flipped", "refused before step 1")
@pytest.mark.ray
@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda data: data[:-10], "bytes; the manifest says"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "other content than its SHA-256"),
    ],
    ids=["truncated", "flipped bit"],
)
def test_a_damaged_token_shard_is_found_before_step_1(
    fail: Fail, ready: Path, home: Path, damage: Callable[[bytes], bytes], told: str
) -> None:
    shard = ready / "train/web/00000.tokens"
    shard.write_bytes(damage(shard.read_bytes()))
    message = fail(1, "train", "run.yaml")
    assert "train/web/00000.tokens has " in message
    assert told in message
    assert not trained_steps(home)


@pytest.mark.ray
def test_more_workers_than_cpus_are_refused_at_once(fail: Fail, ready: Path, home: Path) -> None:
    message = fail(3, "train", "run.yaml", "train.workers.count=64")
    assert "needs 64 CPU (there are 2)" in message
    assert "train.workers.count" in message
    assert not trained_steps(home)


@pytest.mark.fault("P12", "the disk is full in a whole run", "exit code 1, the cause and the fix; the data stay")
@pytest.mark.ray
def test_a_full_disk_while_saving_is_told_and_keeps_the_data(
    fail: Fail, ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYLLM_ALLOW_FAULTS", "1")
    monkeypatch.setenv("RAYLLM_FAULT", "save.write=full_disk")
    message = fail(1, "train", "run.yaml")
    assert "saving a checkpoint failed" in message
    assert "No space left on device" in message
    assert "run the same command again" in message


@pytest.mark.fault("P12", "a stage finds no room", "exit code 3, the cause and the fix")
@pytest.mark.ray
def test_a_stage_that_finds_no_room_says_so(ready: Path, home: Path) -> None:
    before = files(home)
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); "
        "from rayllm.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", limited, "fit_tokenizer", "run.yaml", "fit_tokenizer.vocab_size=310"]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=60)
    message = checked(done.stderr)
    assert done.returncode == 3
    assert "no room left for artifacts" in message
    assert "set `storage=` to another disk" in message
    after = files(home)
    assert {name: after.get(name) for name in before} == before


@pytest.mark.ray
def test_an_encoder_that_finds_no_room_says_so(ready: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rayllm.core.artifact import read_artifact
    from rayllm.data.shards.writer import ShardWriter
    from rayllm.pipelines.pack import encode_row, plan_tasks

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ShardWriter, "append", full)
    (corpus,), (tokenizer,) = home.glob("runs/data/prepare-*"), home.glob("runs/data/fit_tokenizer-*")
    sha256 = read_artifact(str(tokenizer)).counts["sha256"]
    task, *_ = plan_tasks(read_artifact(str(corpus)), str(home / "again"), 1 << 20)
    row = encode_row({"task": task.model_dump_json()}, tokenizer=str(tokenizer), sha256=sha256)
    error = error_from_json(row["error"])
    assert isinstance(error, SetupError)
    assert "no room left" in error.what
    assert not list((home / "again").rglob("*.tokens"))
