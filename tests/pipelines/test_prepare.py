import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rayllm.core.artifact import Artifact
from rayllm.core.config import load_config, to_yaml
from rayllm.core.errors import ConfigError, DataError
from rayllm.core.stage import Task, run_task
from rayllm.corpus.build.build import build_corpus
from rayllm.pipelines import prepare
from rayllm.pipelines.prepare import Config

REPO = Path(__file__).resolve().parents[2]


def config(**settings: Any) -> Config:
    return Config.model_validate({"name": "t", "seed": 3, **settings})


def files(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def run(settings: Config, root: Path, **options: Any) -> Artifact:
    return run_task(
        Task("prepare", prepare.run, settings, version=prepare.VERSION, in_place=True), str(root), **options
    )[0]


def test_one_source_or_a_list_of_them_and_yaml_that_loads_back(tmp_path: Path) -> None:
    text = """
name: t
sources:
  math: {kind: synthetic_math, documents: 10K}
  web:
    - {kind: jsonl, path: a.jsonl}
    - {kind: text, path: [b.txt, c.txt], documents: line}
"""
    (tmp_path / "run.yaml").write_text(text)
    loaded = load_config(str(tmp_path / "run.yaml"), ["prepare.max_bad_frac=0.5"], Config)
    assert [source.kind for source in loaded.sources["web"]] == ["jsonl", "text"]
    (tmp_path / "again.yaml").write_text(to_yaml(loaded))
    assert load_config(str(tmp_path / "again.yaml"), [], Config) == loaded


def test_problems_are_told_with_their_place_and_a_suggestion(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        "name: t\nsources:\n  web: {kind: jsonl, paht: a}\n  b: {kind: parket, path: a}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_config(str(tmp_path / "run.yaml"), [], Config)
    message = str(caught.value)
    assert "run.yaml:3: `sources.web.paht` is not a setting" in message
    assert "Did you mean parquet?" in message


@pytest.mark.parametrize(
    "settings",
    [
        {"sources": {}},
        {"sources": {"a b": {"kind": "synthetic_math"}}},
        {"sources": {"a": {"kind": "synthetic_math"}}, "validation": {"sources": {"b": {"kind": "synthetic_math"}}}},
        {"sources": {"a": {"kind": "synthetic_math"}}, "validation": {"heldout_frac": 1}},
    ],
)
def test_impossible_domains_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**settings)


def test_the_hash_ignores_the_order_of_domains_as_the_corpus_does() -> None:
    a, b = {"kind": "synthetic_math"}, {"kind": "python_stdlib"}
    first, second = (
        Task("prepare", prepare.run, config(sources=sources)) for sources in ({"a": a, "b": b}, {"b": b, "a": a})
    )
    assert first.hash == second.hash


def test_every_file_of_sources_in_configs_is_valid(tmp_path: Path) -> None:
    found = sorted((REPO / "configs/sources").glob("*.yaml"))
    assert found
    for path in found:
        (tmp_path / "run.yaml").write_text(f"name: t\nsources: {{base: {path}}}\n")
        assert load_config(str(tmp_path / "run.yaml"), [], Config).sources


@pytest.mark.fault("P6", "prepared on Ray and in a plain loop", "the same bytes")
@pytest.mark.ray
def test_ray_makes_the_bytes_that_a_plain_loop_makes(tmp_path: Path, ray_session: None) -> None:
    for name in ("a", "b"):
        rows = [{"text": f"{name if index % 3 else 'both'} row {index}"} for index in range(300)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = config(
        sources={
            "a": {"kind": "jsonl", "path": str(tmp_path / "a.jsonl")},
            "b": [{"kind": "jsonl", "path": str(tmp_path / "b.jsonl")}, {"kind": "synthetic_math", "documents": 50}],
        },
        validation={"heldout_frac": 0.1},
        prepare={"unit_bytes": 2000, "shard_bytes": 6000, "rules": {"prose": {"min_words": 1}}},
    )
    artifact = run(settings, tmp_path / "runs")
    artifact.verify(deep=True)
    loop = tmp_path / "loop"
    counts = build_corpus(
        settings.sources,
        settings.validation,
        settings.prepare,
        seed=settings.seed,
        output=str(loop),
        scratch=str(tmp_path / "scratch"),
        run=map,
    )
    assert artifact.counts == counts
    assert files(Path(artifact.uri)) == files(loop)
    assert [record.path for record in artifact.manifest.files] == sorted(files(loop))


@pytest.mark.ray
def test_an_error_of_a_task_arrives_as_it_was_raised(ray_session: None) -> None:
    def fail_on_three(item: str) -> str:
        if item == "3":
            raise DataError("three", where="here", why="because", fix="count again")
        return item * 2

    assert list(prepare.run_on_ray(fail_on_three, ["1", "2"])) == ["11", "22"]
    with pytest.raises(DataError) as caught:
        list(prepare.run_on_ray(fail_on_three, ["1", "2", "3", "4"]))
    assert (caught.value.what, caught.value.where, caught.value.fix) == ("three", "here", "count again")
    assert list(prepare.run_on_ray(fail_on_three, [])) == []
