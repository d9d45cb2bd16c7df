"""YAML with memory: every value knows the file and line it came from.

In: a YAML file and overrides. Out: one merged tree, the place of every path in it, and the problems met on the way
(duplicate keys, missing ``base:`` files, malformed overrides). ``base:`` at the top of the file or of any section
names another file, relative to the one that names it; the section's own values win. A mapping is merged key by key,
unless its ``kind`` differs from the base's; ``null`` over an inherited mapping removes it; anything else replaces.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Path_ = tuple[str, ...]
#: What PyYAML raises for an explicit tag that does not fit its value, such as ``!!int abc``, or that it does not know.
_BAD_SCALAR = (yaml.YAMLError, ValueError, AttributeError)
_NUMBER = re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)[eE][-+]?[0-9]+$")


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but ``3e-4`` is a number and dates, ``on`` and ``yes`` stay text."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:bool", "tag:yaml.org,2002:value")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+0123456789."))


@dataclass
class Source:
    """A merged tree of settings, the place of each path, and the problems met while reading.

    ``whole`` is false where a file could not be read: what then seems to be missing may stand in it.
    """

    tree: dict[str, Any] = field(default_factory=dict)
    places: dict[Path_, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    whole: bool = True

    def place(self, path: Path_) -> str:
        """File and line of a path, or of the nearest parent that has one."""
        for length in range(len(path), -1, -1):
            if found := self.places.get(path[:length]):
                return found
        return "config"


def read_source(path: str, overrides: Sequence[str] = ()) -> Source:
    """Read a file with its bases and overrides; problems are collected, not raised."""
    source = Source()
    tree = _read_file(Path(path), source, (), ())
    source.tree = tree if isinstance(tree, dict) else {}
    for override in overrides:
        _apply_override(source, override)
    return source


def _read_file(path: Path, source: Source, prefix: Path_, trail: tuple[Path, ...]) -> Any:
    resolved = path.resolve()
    if resolved in trail:
        source.problems.append(f"{path}: `base:` goes in a circle: {' -> '.join(p.name for p in (*trail, resolved))}")
        return {}
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        named_by = f" (named as base by {trail[-1]})" if trail and isinstance(error, OSError) else ""
        source.problems.append(_unreadable(path, error) + named_by)
        source.whole = False
        return {}
    source.places.setdefault(prefix, f"{path}:1")
    if node is None:
        return {}
    if not prefix and not isinstance(node, yaml.MappingNode):
        source.problems.append(f"{path}:1: a config is a mapping of settings, not {node.id}")
        return {}
    try:
        return _build(node, path, source, prefix, (*trail, resolved))
    except RecursionError:
        source.problems.append(f"{path}: is nested too deeply, or an alias contains itself")
        return {}


def _unreadable(path: Path, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{path}: cannot be read: {error.strerror}"
    if isinstance(error, UnicodeDecodeError):
        return f"{path}: is not UTF-8 text"
    if isinstance(error, yaml.MarkedYAMLError):
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        return f"{path}:{line}: not valid YAML: {error.problem or error.context}"
    return f"{path}: not valid YAML: {str(error).splitlines()[0]}"


def _build(node: yaml.Node, path: Path, source: Source, prefix: Path_, trail: tuple[Path, ...]) -> Any:
    place = f"{path}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.SequenceNode):
        source.places[prefix] = place
        return [_build(item, path, source, (*prefix, str(i)), trail) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        source.places[prefix] = place
        try:
            return _scalar(node)
        except _BAD_SCALAR:
            source.problems.append(f"{place}: `{'.'.join(prefix)}` is {node.value!r}, which {node.tag} cannot read")
            return node.value
    base: Any = {}
    own: dict[str, Any] = {}
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        key, line = _key(key_node), key_node.start_mark.line + 1
        if key in seen:
            dotted = ".".join((*prefix, key))
            source.problems.append(f"{path}:{line}: `{dotted}` is set twice (first on line {seen[key]})")
            continue
        seen[key] = line
        if key == "base":
            base = _read_file(path.parent / str(_scalar(value_node)), source, prefix, trail)
    source.places[prefix] = place
    for key_node, value_node in node.value:
        key = _key(key_node)
        if key != "base" and key not in own:
            own[key] = _build(value_node, path, source, (*prefix, key), trail)
            source.places[(*prefix, key)] = f"{path}:{key_node.start_mark.line + 1}"
    return merge(base, own)


def _key(node: yaml.Node) -> str:
    try:
        return str(_scalar(node))
    except _BAD_SCALAR:
        return str(node.value)


def _scalar(node: yaml.Node) -> Any:
    loader = _Loader("")
    try:
        return loader.construct_object(node, deep=True)
    finally:
        loader.dispose()


def merge(base: Any, own: Any) -> Any:
    """Lay one value over another; see the module's docstring for the rules."""
    if not (isinstance(base, dict) and isinstance(own, dict)):
        return own
    if "kind" in base and "kind" in own and base["kind"] != own["kind"]:
        return own
    merged = dict(base)
    for key, value in own.items():
        if value is None and isinstance(base.get(key), dict):
            del merged[key]
        else:
            merged[key] = merge(base[key], value) if key in base else value
    return merged


def _apply_override(source: Source, override: str) -> None:
    dotted, equals, text = override.partition("=")
    path = tuple(dotted.strip().split("."))
    if not equals or not all(path):
        source.problems.append(f"command line: `{override}` is not of the form path.to.setting=value")
        return
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except _BAD_SCALAR:
        value = text
    source.tree = set_path(source.tree, path, value)
    source.places[path] = f"command line ({override})"


def set_path(tree: dict[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """Return the tree with the value laid at a dotted path; list items are named by their index."""

    def lay(node: Any, rest: Sequence[str]) -> Any:
        if not rest:
            return merge(node, value)
        if isinstance(node, list) and rest[0].isdigit() and int(rest[0]) < len(node):
            return [lay(item, rest[1:]) if i == int(rest[0]) else item for i, item in enumerate(node)]
        base = node if isinstance(node, dict) else {}
        return {**base, rest[0]: lay(base.get(rest[0]), rest[1:])}

    return lay(tree, list(path))
