"""Pydantic's errors as lines that a user can act on: place, setting, what is wrong, did-you-mean."""

import difflib
import types
import typing
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from rayllm.core.config_source import Path_, Source


def describe(error: ValidationError, source: Source, schema: type[BaseModel]) -> list[str]:
    """One line for each problem, in the order of the file; nothing is called missing if a file could not be read."""
    known = field_paths(schema)
    lines = []
    for item in error.errors(include_url=False):
        if item["type"] == "missing" and not source.whole:
            continue
        path = _tree_path(item["loc"], source.tree)
        lines.append(f"{source.place(path)}: `{'.'.join(path) or 'file'}` {_text(item, path, known)}")
    return list(dict.fromkeys(lines))


def _tree_path(loc: tuple[int | str, ...], tree: Any) -> Path_:
    """The path of an error in the user's tree: pydantic's own parts (union tags, validators) are left out."""
    path: list[str] = []
    node = tree
    for position, part in enumerate(loc):
        in_mapping = isinstance(node, dict) and part in node
        in_list = isinstance(node, list) and isinstance(part, int) and part < len(node)
        if in_mapping or in_list:
            node = cast(Any, node)[part]
        elif position < len(loc) - 1 or not isinstance(node, dict) or part == "[key]":
            continue
        path.append(str(part))
    return tuple(path)


def _text(item: Any, path: Path_, known: list[str]) -> str:
    kind, given, context = item["type"], item.get("input"), item.get("ctx", {})
    if kind == "extra_forbidden":
        return "is not a setting" + suggest_path(path, known)
    if kind == "missing":
        return "is required and missing"
    if kind in ("literal_error", "enum"):
        options = [text.strip("' ") for text in str(context["expected"]).replace(" or ", ", ").split(",")]
        return f"is {given!r}; it must be one of {', '.join(options)}" + _suggest_value(given, options)
    if kind == "union_tag_invalid":
        options = [text.strip("' ") for text in str(context["expected_tags"]).split(",")]
        tag = str(context["tag"])
        return f"has kind {tag!r}; it must be one of {', '.join(options)}" + _suggest_value(tag, options)
    if kind == "union_tag_not_found":
        return "needs a `kind:`"
    message = item["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if kind in ("value_error", "assertion_error"):
        return f": {message}"
    return f"is {_short(given)}: {message[0].lower()}{message[1:]}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _suggest_value(given: Any, options: list[str]) -> str:
    close = difflib.get_close_matches(str(given), options, n=1)
    return f". Did you mean {close[0]}?" if close else ""


def suggest_path(path: Path_, known: list[str]) -> str:
    """The nearest settings by whole path: a misspelt name here, or the right name in another place."""
    here, leaf = ".".join(path[:-1]), path[-1]
    siblings = {name.rpartition(".")[2]: name for name in known if _fits(name.rpartition(".")[0], here)}
    if leaf in siblings:
        return " of this `kind`"
    close = difflib.get_close_matches(leaf, list(siblings), n=1, cutoff=0.7)
    if close:
        return f". Did you mean `{'.'.join([*path[:-1], close[0]])}`?"
    elsewhere = [name for name in known if name.rpartition(".")[2] == leaf][:2]
    if not elsewhere:
        wanted = ".".join(path)
        elsewhere = difflib.get_close_matches(wanted, known, n=1, cutoff=0.85)
        leaves = {name.rpartition(".")[2] for name in known}
        near = difflib.get_close_matches(leaf, sorted(leaves), n=1, cutoff=0.8)
        elsewhere = elsewhere or [name for name in known if near and name.rpartition(".")[2] == near[0]][:1]
    if elsewhere:
        return ". Did you mean " + " or ".join(f"`{_filled(name, path)}`" for name in elsewhere) + "?"
    options = sorted(siblings)
    return f". Settings here: {', '.join(options)}" if options and len(options) <= 12 else ""


def _filled(pattern: str, path: Path_) -> str:
    """The pattern with the user's own names where it has ``*``."""
    parts = enumerate(pattern.split("."))
    return ".".join((path[i] if i < len(path) - 1 else "NAME") if part == "*" else part for i, part in parts)


def _fits(pattern: str, path: str) -> bool:
    left, right = pattern.split("."), path.split(".")
    return len(left) == len(right) and all(a in (b, "*") for a, b in zip(left, right, strict=True))


def field_paths(schema: type[BaseModel]) -> list[str]:
    """Dotted paths of all fields; ``*`` stands for a free key or an index."""
    found: list[str] = []
    for name, field in schema.model_fields.items():
        found.append(name)
        found += [f"{name}.{rest}" for rest in _nested(field.annotation)]
    return list(dict.fromkeys(found))


def _nested(annotation: Any) -> list[str]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return field_paths(annotation)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (dict, list, tuple):
        return [f"*.{path}" for argument in arguments for path in _nested(argument)]
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        return [path for argument in arguments for path in _nested(argument)]
    return []
