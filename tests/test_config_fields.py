"""Every setting is described and really read: a setting that nothing reads would be silently ignored."""

import ast
import typing
from pathlib import Path

import pytest
from pydantic import BaseModel

from rayllm.core.config import ConfigModel
from rayllm.pipelines.run_config import RunConfig

PACKAGE = Path(__file__).resolve().parents[1] / "rayllm"


def models(root: type[BaseModel]) -> set[type[ConfigModel]]:
    """All config models that a run file can reach."""
    found: set[type[ConfigModel]] = set()

    def visit(annotation: object) -> None:
        if isinstance(annotation, type) and issubclass(annotation, ConfigModel) and annotation not in found:
            found.add(annotation)
            for field in annotation.model_fields.values():
                visit(field.annotation)
        for argument in typing.get_args(annotation):
            visit(argument)

    visit(root)
    return found


def names_read() -> set[str]:
    """Names that some code takes from an object: ``x.name``, or ``"name"`` given to ``getattr`` or used as a key."""
    names: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        names |= {
            node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
        }
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        getters = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "getattr"]
        names |= {str(arg.value) for call in getters for arg in call.args[1:2] if isinstance(arg, ast.Constant)}
    return names


FIELDS = [
    pytest.param(model, name, id=f"{model.__module__.removeprefix('rayllm.')}.{model.__name__}.{name}")
    for model in sorted(models(RunConfig), key=lambda model: (model.__module__, model.__name__))
    for name in model.model_fields
]
READ = names_read()


@pytest.mark.parametrize(("model", "name"), FIELDS)
def test_the_setting_is_described_and_read(model: type[ConfigModel], name: str) -> None:
    description = model.model_fields[name].description
    assert description
    assert description.strip().endswith((".", "?", ")")), "a description is a sentence"
    # Tags of unions are read by pydantic, and the frame's name only shapes paths.
    assert name == "kind" or name in READ, f"nothing in rayllm reads .{name}"
