"""The configs that come with the project: each loads, and the committed schema is that of the code."""

import json
import re
from pathlib import Path

import pytest

from rayllm.cli import main
from rayllm.core.config import load_config
from rayllm.pipelines.run_config import RunConfig, load_run

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
RUNS = sorted([*CONFIGS.glob("run/*.yaml"), *CONFIGS.glob("sweep/*.yaml")])
PARTS = sorted(path for path in CONFIGS.glob("*/*.yaml") if path.parent.name not in ("run", "sweep"))
#: Pages with examples of run files, and the directory where each says that its example lies.
EXAMPLES = {"README.md": CONFIGS.parent, "docs/configuration.md": CONFIGS / "run"}


@pytest.mark.parametrize("path", RUNS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_run_file_loads(path: Path) -> None:
    config = load_run(str(path), [])
    assert config.tune is not None or path.parent.name != "sweep"


@pytest.mark.parametrize("path", PARTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_part_loads_as_the_section_that_its_folder_names(path: Path, tmp_path: Path) -> None:
    base = CONFIGS / "run" / "quickstart.yaml"
    run = tmp_path / "run.yaml"
    run.write_text(f"base: {base}\n{path.parent.name}:\n  base: {path}\n")
    load_config(str(run), [], RunConfig)


@pytest.mark.parametrize("page", EXAMPLES)
def test_the_examples_in_the_docs_load(page: str, tmp_path: Path) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", (CONFIGS.parent / page).read_text(), re.DOTALL | re.MULTILINE)
    assert blocks
    for block in blocks:
        run = tmp_path / "run.yaml"
        run.write_text(re.sub(r"base: (\S+)", lambda match: f"base: {EXAMPLES[page] / match[1]}", block))
        load_run(str(run), [])


def test_run_files_have_names_of_their_own() -> None:
    names = [load_run(str(path), []).name for path in RUNS]
    assert len(set(names)) == len(names)


def test_the_committed_schema_is_that_of_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert json.loads((CONFIGS / "schema.json").read_text()) == schema, "rayllm config schema > configs/schema.json"


def test_check_show_and_a_bad_setting_have_their_exit_codes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = str(CONFIGS / "run" / "quickstart.yaml")
    assert main(["config", "check", file]) == 0
    assert main(["config", "show", file]) == 0
    shown = tmp_path / "shown.yaml"
    shown.write_text(capsys.readouterr().out.partition(": ok\n")[2])
    assert load_run(str(shown), []) == load_run(file, [])
    assert main(["config", "check", file, "train.lrr=1"]) == 2
    error = capsys.readouterr().err
    assert "train.lrr=1" in error
    assert "Traceback" not in error
