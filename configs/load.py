"""YAML file + dotted overrides -> a checked config. The only reader of files that people write."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from pydantic import ValidationError

from configs.base import Config, ConfigError
from configs.messages import Location, explain

C = TypeVar("C", bound=Config)

SHIPPED = Path(__file__).parent


@dataclass(frozen=True)
class Problem:
    """Something wrong in a config, and where."""

    location: Location
    message: str


@dataclass(frozen=True)
class Loaded(Generic[C]):
    """A checked config that remembers the file and line of each of its keys."""

    config: C
    origin: "_Origin"

    def fail(self, problems: Iterable[Problem]) -> None:
        """Raise ConfigError with every problem and where it stands; do nothing if there are none."""
        lines = [f"{self.origin.where(problem.location)}: {problem.message}" for problem in problems]
        if lines:
            raise ConfigError("\n".join(lines))


@dataclass
class _Origin:
    path: Path
    lines: dict[Location, int] = field(default_factory=dict)
    overrides: dict[Location, str] = field(default_factory=dict)

    def where(self, location: Location) -> str:
        for end in range(len(location), -1, -1):
            if (override := self.overrides.get(location[:end])) is not None:
                return f"--set {override}"
            if (line := self.lines.get(location[:end])) is not None:
                return f"{self.path}:{line}"
        return str(self.path)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema: in YAML 1.1 the language code `no` is false, 1e-3 a string and 12:30 a number."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|false", "tf"),
    ("null", r"null|~|", ["n", "~", ""]),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node)))


def load(path: Path, model: type[C], overrides: tuple[str, ...] = ()) -> Loaded[C]:
    """Read `path`, apply `a.b.c=value` overrides in order, validate.

    Raises ConfigError with one line a problem: file and line, or the override; what is wrong; what is allowed.
    """
    origin = _Origin(path)
    tree = _read(path, origin)
    for override in overrides:
        _override(tree, override, origin)
    try:
        return Loaded(model.model_validate(tree), origin)
    except ValidationError as error:
        details = [dict(detail) for detail in error.errors(include_url=False)]
        problems = [explain(model, tree, detail) for detail in details if not _echoes(detail, details)]
        raise ConfigError("\n".join(f"{origin.where(at)}: {text}" for at, text in problems)) from None


def shipped(kind: str, name: str) -> Path:
    """`name` as a path if it looks like one or exists, else the file of that name which ships with Concord."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.exists():
        return path
    known = sorted(file.stem for file in (SHIPPED / kind).glob("*.yaml"))
    if name in known:
        return SHIPPED / kind / f"{name}.yaml"
    raise ConfigError(f"no {kind} file is named {name!r}; there are: {', '.join(known)}; or give a path to a .yaml file")


def parse(text: str) -> Any:
    """The value of a YAML text, by the same rules as in a file."""
    loader = _Loader(text)
    node = loader.get_single_node()
    return None if node is None else _construct(loader, node, (), {})


def _echoes(error: dict[str, Any], errors: list[dict[str, Any]]) -> bool:
    """Whether a list counts as too short only because items in it are wrong, which is said already."""
    depth = len(error["loc"])
    inner = any(other["loc"][:depth] == error["loc"] and len(other["loc"]) > depth for other in errors)
    return error["type"] == "too_short" and inner


def _read(path: Path, origin: _Origin) -> dict[str, Any]:
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give the path of a YAML file, or a shipped name") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: not YAML: {error.problem}; check the indentation and the quotes") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}: must hold keys and values, such as `name: my-run`")
    origin.lines[()] = 1
    tree: dict[str, Any] = _construct(loader, node, (), origin.lines, str(path))
    return tree


def _construct(
    loader: _Loader, node: yaml.Node, at: Location, lines: dict[Location, int], path: str = "--set"
) -> Any:
    """The value of `node`, noting the line of each key and item. Raises ConfigError on a key given twice."""
    if isinstance(node, yaml.SequenceNode):
        for i, child in enumerate(node.value):
            lines[(*at, i)] = child.start_mark.line + 1
        return [_construct(loader, child, (*at, i), lines, path) for i, child in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    mapping: dict[str, Any] = {}
    for key_node, child in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key in mapping:
            raise ConfigError(f"{path}:{line}: key {key!r} is given twice; the first is on line {lines[(*at, key)]}")
        lines[(*at, key)] = line
        mapping[key] = _construct(loader, child, (*at, key), lines, path)
    return mapping


def _override(tree: dict[str, Any], override: str, origin: _Origin) -> None:
    dotted, equals, value = override.partition("=")
    if not equals or not all(dotted.split(".")):
        raise ConfigError(f"--set {override}: must look like key.key=value, for example steps.model.config.seed=1")
    *parents, leaf = dotted.split(".")
    node: Any = tree
    for depth, key in enumerate(parents):
        node = _child(node, key, ".".join(parents[:depth]), override)
    if not isinstance(node, (dict, list)):
        raise ConfigError(f"--set {override}: {'.'.join(parents)} holds {node!r}, which has no keys")
    try:
        node[_index(node, leaf, override) if isinstance(node, list) else leaf] = parse(value)
    except yaml.YAMLError:
        raise ConfigError(f"--set {override}: the value is not YAML; quote it") from None
    origin.overrides[tuple(int(key) if key.isdigit() else key for key in (*parents, leaf))] = override


def _child(node: Any, key: str, at: str, override: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, key, override)]
    if not isinstance(node, dict):
        raise ConfigError(f"--set {override}: {at} holds {node!r}, which has no keys")
    if at == "steps" and key not in node:
        raise ConfigError(f"--set {override}: no step is named {key!r}; there are: {', '.join(node)}")
    if node.get(key) is None:
        node[key] = {}
    return node[key]


def _index(node: list[Any], key: str, override: str) -> int:
    if not key.isdigit() or int(key) >= len(node):
        raise ConfigError(f"--set {override}: {key!r} is not an item; there are items 0 to {len(node) - 1}")
    return int(key)
