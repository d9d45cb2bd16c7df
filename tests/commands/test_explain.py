"""explain and data preview: the very ids that training reads, and where they come from."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished_stages import finish_stages
from packing_fixture import texts_of
from tiny_run import write_run

from rayllm.cli import main
from rayllm.core.artifact import Artifact
from rayllm.data.batches import open_reader
from rayllm.data.mixing.plan import Plan
from rayllm.data.shards.packed import PackedData
from rayllm.pipelines.existing import train_directory
from rayllm.pipelines.run_config import load_run
from rayllm.pipelines.train.planning import plan_packed

Capture = pytest.CaptureFixture[str]
CODE, MATH = texts_of("code", 40), texts_of("math", 60)
MATH[3] = "naïve 日本語 \x1b[31mred\n\tend"
CORPUS = {
    "code": {"train": [CODE[:20], CODE[20:35]], "validation": [CODE[35:]]},
    "math": {"train": [MATH[:50]], "validation": [MATH[50:]]},
}


@dataclasses.dataclass
class Packed:
    """A run file, and what stands behind it."""

    file: str
    artifacts: dict[str, Artifact]

    @property
    def data(self) -> PackedData:
        return PackedData.open(self.artifacts["pack"].uri)


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Packed:
    root = tmp_path_factory.mktemp("explain")
    file = str(write_run(root, str(root / "storage")))
    return Packed(file, finish_stages(load_run(file, []), CORPUS))


def explained(packed: Packed, capsys: Capture, *arguments: str) -> dict[str, Any]:
    assert main(["explain", packed.file, *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_the_ids_are_those_that_training_reads(packed, capsys, packing):
    override = f"train.packing={packing}"
    config = load_run(packed.file, [override])
    reader = open_reader(packed.data, plan_packed(config, packed.data))
    hashes = set()
    for step in (1, 7, 12):
        found = explained(packed, capsys, override, "--step", str(step), "--rows", "all")
        batch = next(reader.micro_batches(step - 1, 1, 0, 100))
        for name in ("input_ids", "labels", "doc_ids"):
            assert [row[name] for row in found["rows"]] == getattr(batch, name).tolist()
        assert [row["domain"] for row in found["rows"]] == [("code", "math")[i] for i in batch.domain.tolist()]
        hashes.add(found["sha256"])
    assert len(hashes) == 3


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_every_passage_is_that_part_of_its_document_in_the_corpus(packed, capsys, packing):
    codec = packed.data.codec()
    for row in explained(packed, capsys, f"train.packing={packing}", "--step", "2", "--rows", "all")["rows"]:
        for passage in row["passages"]:
            domain, split, shard, number = passage["id"].split("-")
            text = CORPUS[domain][split][int(shard)][int(number)]
            ids = [codec.separator_id, *codec.encode(text)]
            part = slice(passage["offset"], passage["offset"] + passage["length"])
            place = slice(passage["position"], passage["position"] + passage["length"])
            assert row["input_ids"][place] == ids[part]
            assert passage["document_tokens"] == len(ids)
            assert passage["source"] == domain
            assert f"{split}/{domain}/{int(shard):05d}" == passage["shard"]
            tokens = np.fromfile(Path(packed.artifacts["pack"].file(passage["shard"] + ".tokens")), "<u2")
            assert tokens[passage["shard_token"] :][: passage["length"]].tolist() == ids[part]


def test_the_ranks_together_have_the_rows_of_the_global_batch(packed, capsys):
    whole = explained(packed, capsys, "--step", "3", "--rows", "all")
    parts = [
        explained(packed, capsys, "--step", "3", "--rows", "all", "--rank", str(rank), "--world-size", "3")
        for rank in range(3)
    ]
    assert [row for part in parts for row in part["rows"]] == whole["rows"]
    assert explained(packed, capsys, "--step", "3", "--rows", "5-6")["rows"] == whole["rows"][5:7]
    assert explained(packed, capsys, "--step", "3", "--rows", "5-6")["sha256"] == whole["sha256"]


def test_the_plan_that_training_wrote_is_the_one_used(packed, capsys):
    config = load_run(packed.file, ["train.max_steps=13"])
    directory = Path(train_directory(config, packed.artifacts))
    directory.mkdir(parents=True)
    other = dataclasses.replace(plan_packed(config, packed.data), seed=1)
    (directory / "plan.json").write_text(other.to_json())
    found = explained(packed, capsys, "train.max_steps=13", "--step", "1")
    assert found["plan"] == str(directory / "plan.json")
    expected = open_reader(packed.data, Plan.from_json(other.to_json())).rows(0, range(8))
    assert [row["input_ids"] for row in found["rows"]] == expected.input_ids.tolist()
    assert explained(packed, capsys, "--step", "1")["plan"] is None


def test_the_page_names_documents_and_sends_no_escape_of_theirs(packed, capsys):
    assert main(["explain", packed.file, "--step", "2", "--rows", "0-1", "--width", "90"]) == 0
    page = capsys.readouterr().out
    assert "step     2 of 12" in page
    assert "shown    2 of 16 rows" in page
    assert ".parquet row" in page
    assert main(["data", "preview", packed.file, "--domain", "math", "--rows", "99", "train.packing=best_fit"]) == 0
    page = capsys.readouterr().out
    assert "|日|||本|||語|" in page
    assert "\\x1b|[|" in page
    assert "\x1b" not in page


def test_preview_shows_padding_and_the_mask_of_each_row(packed, capsys):
    assert main(["data", "preview", packed.file, "--domain", "math", "--rows", "1", "train.packing=best_fit"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("train    math, best_fit: ") and "padding" in line for line in lines)
    (bar,) = [line for line in lines if "AAAA" in line]
    assert bar.rstrip("·").endswith("B")
    assert bar.endswith("·")
    mask = lines.index(next(line for line in lines if line.startswith("mask")))
    assert lines[mask].count("█") < lines[mask + 1].count("█")


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (["explain", "--step", "0"], "--step"),
        (["explain", "--step", "13"], "--step"),
        (["explain", "--step", "1", "--rows", "x"], "--rows"),
        (["explain", "--step", "1", "--rows", "4-99"], "--rows"),
        (["explain", "--step", "1", "--rows", "5-4"], "--rows"),
        (["explain", "--step", "1", "--rank", "2", "--world-size", "2"], "--rank"),
        (["data", "preview", "--first", "9999"], "--first"),
        (["data", "preview", "--rows", "0"], "--first"),
    ],
)
def test_what_is_not_there_is_said_with_exit_code_2(packed, capsys, arguments, where):
    verbs = arguments[: 2 if arguments[0] == "data" else 1]
    assert main([*verbs, packed.file, *arguments[len(verbs) :]]) == 2
    assert where in capsys.readouterr().err


def test_data_that_was_not_packed_yet_is_said_with_the_command(tmp_path, capsys):
    file = str(write_run(tmp_path, str(tmp_path / "storage")))
    assert main(["explain", file, "--step", "1"]) == 3
    assert f"rayllm pack {file}" in capsys.readouterr().err
