"""Load a YAML file, apply dotted overrides, validate. This is the only reader of files that people write."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from pydantic import ValidationError

from configs.base import Config, ConfigError
from configs.cluster import ClusterConfig
from configs.messages import Location, explain_all
from configs.secrets import find_secrets

C = TypeVar("C", bound=Config)

SHIPPED = Path(__file__).parent

_SECRET = "holds a secret, which no file may: set a variable of the environment, and name it in `pass_environment`"


@dataclass(frozen=True)
class Problem:
    """Something wrong in a config, and where."""

    location: Location
    message: str


@dataclass(frozen=True)
class Loaded(Generic[C]):
    """A validated config, with the file and line of each of its keys."""

    config: C
    origin: "_Origin"
    overrides: tuple[str, ...] = ()
    """What was applied of `--set`, in order."""

    @property
    def path(self) -> Path:
        """The file."""
        return self.origin.path

    def fail(self, problems: Iterable[Problem]) -> None:
        """Raise ConfigError with every problem and where it stands; do nothing if there is none."""
        lines = dict.fromkeys(f"{self.origin.where(problem.location)}: {problem.message}" for problem in problems)
        if lines:
            raise ConfigError("\n".join(lines))


@dataclass
class _Origin:
    path: Path
    lines: dict[Location, int] = field(default_factory=dict)
    overrides: dict[Location, str] = field(default_factory=dict)

    def where(self, location: Location) -> str:
        """Return the override or the line that gave a value, and with a line the overrides of what is in the value."""
        for end in range(len(location), -1, -1):
            if (override := self.overrides.get(location[:end])) is not None:
                return f"--set {override}"
            if (line := self.lines.get(location[:end])) is not None:
                within = [text for at, text in self.overrides.items() if at[: len(location)] == location]
                return f"{self.path}:{line}" + (f" (with --set {', '.join(within)})" if within else "")
        return str(self.path)

    def replace(self, location: Location, override: str) -> None:
        """Record that an override gave the value at `location`: nothing below it comes from the file any more."""
        depth = len(location)
        self.lines = {at: line for at, line in self.lines.items() if at[:depth] != location}
        self.overrides = {at: text for at, text in self.overrides.items() if at[:depth] != location}
        self.overrides[location] = override


class _Loader(yaml.SafeLoader):
    """Loads YAML 1.2's core schema: in YAML 1.1 the language code `no` is false, 1e-3 a string and 12:30 a number."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})\Z"), list(_first))
_BASES = {"0o": 8, "0x": 16}


def _int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    return int(text, _BASES.get(text[:2], 10))


_Loader.add_constructor("tag:yaml.org,2002:int", _int)


def load(path: Path, model: type[C], overrides: tuple[str, ...] = ()) -> Loaded[C]:
    """Read `path`, apply the overrides `a.b.c=value` in order, and validate.

    Raises ConfigError with one line for each problem: file and line, or the override; what is wrong; what is allowed.
    """
    origin = _Origin(path)
    tree = _read(path, origin)
    problems = []
    for override in overrides:
        try:
            _override(tree, override, origin)
        except ConfigError as error:
            problems.append(str(error))
    named = model is ClusterConfig  # names such as `token` are ordinary words in a recipe
    problems += [f"{origin.where(at)}: {_SECRET}" for at in find_secrets(tree, named=named)]
    try:
        config = model.model_validate(tree)
    except ValidationError as error:
        details = [dict(detail) for detail in error.errors(include_url=False)]
        found = explain_all(model, tree, [detail for detail in details if not _echoes(detail, details)])
        problems += [f"{origin.where(at)}: {text}" for at, text in found]
    if problems:
        raise ConfigError("\n".join(problems))
    return Loaded(config, origin, overrides)


def from_options(model: type[C], values: Mapping[str, Any]) -> C:
    """Return a config of values that options of a command gave. Raises ConfigError with one line for each problem."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        details = [dict(detail) for detail in error.errors(include_url=False)]
        raise ConfigError("\n".join(text for _, text in explain_all(model, values, details))) from None


def shipped(kind: str, name: str) -> Path:
    """Return `name` as a path if it looks like one or is a file, else the file of that name that ships with Concord.

    `kind` is `recipes` or `clusters`. Raises ConfigError if there is no such file.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or (path.exists() and not path.is_dir()):  # a pipe, too
        return path
    known = sorted(file.stem for file in (SHIPPED / kind).glob("*.yaml"))
    if name in known:
        return SHIPPED / kind / f"{name}.yaml"
    names = ", ".join(known)
    raise ConfigError(
        f"no {kind.removesuffix('s')} is named {name!r}; there are: {names}; or give a path to a .yaml file"
    )


def parse(text: str) -> Any:
    """Return the value of a YAML text, by the same rules as in a file."""
    loader = _Loader(text)
    return _construct(loader, loader.get_single_node(), (), {})


class _Dumper(yaml.SafeDumper):
    """Puts in quotes each string that YAML 1.1 or 1.2 would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.yaml_implicit_resolvers = {
    first: [*yaml.SafeDumper.yaml_implicit_resolvers.get(first, []), *_Loader.yaml_implicit_resolvers.get(first, [])]
    for first in {**yaml.SafeDumper.yaml_implicit_resolvers, **_Loader.yaml_implicit_resolvers}
}


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # What YAML takes for the end of a line would be read back as a space; in double quotes it is escaped.
    style = '"' if re.search(r"[\x85\u2028\u2029\ufeff]", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def dump_yaml(value: Any) -> str:
    """Return a YAML text that this module, and any reader of YAML 1.1 or 1.2, reads as the value.

    What holds no other mapping or list stands on one line, in braces or brackets.
    """
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)


def quote_yaml(value: str | Mapping[str, str]) -> str:
    """Return a text, or a mapping of texts, in YAML on one line, every text in double quotes, whatever it holds."""
    written: str = yaml.safe_dump(value, default_style='"', default_flow_style=True, width=math.inf)
    return written.strip()


def _echoes(error: dict[str, Any], errors: list[dict[str, Any]]) -> bool:
    """Return whether a list is called too short only because items in it are wrong, which has errors of its own."""
    depth = len(error["loc"])
    inner = any(other["loc"][:depth] == error["loc"] and len(other["loc"]) > depth for other in errors)
    return error["type"] == "too_short" and inner


def _read(path: Path, origin: _Origin) -> dict[str, Any]:
    origin.lines[()] = 1
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        tree = _construct(loader, node, (), origin.lines)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give the path of a YAML file, or a shipped name") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    except yaml.constructor.ConstructorError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: {error.problem}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: not YAML: {error.problem}; check the indentation and the quotes") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deep, or an alias holds itself; write it flatter") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: must hold keys and values, such as `name: my-run`")
    return tree


def _construct(loader: _Loader, node: yaml.Node | None, at: Location, lines: dict[Location, int]) -> Any:
    """Return the value of `node`, and record the line of each key and item in `lines`. Raises ConstructorError."""
    if isinstance(node, yaml.SequenceNode):
        for i, child in enumerate(node.value):
            lines[(*at, i)] = child.start_mark.line + 1
        return [_construct(loader, child, (*at, i), lines) for i, child in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return None if node is None else _scalar(loader, node)
    mapping: dict[str, Any] = {}
    for key_node, child in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise _refuse(key_node, "a key must be a single word, not a list or a mapping")
        key = str(key_node.value)
        if key == "<<":
            raise _refuse(key_node, "YAML 1.2 has no merge key `<<`; write the keys out, or alias a whole value")
        if key in mapping:
            raise _refuse(key_node, f"key {key!r} is given twice; the first is on line {lines[(*at, key)]}")
        lines[(*at, key)] = key_node.start_mark.line + 1
        mapping[key] = _construct(loader, child, (*at, key), lines)
    return mapping


def _scalar(loader: _Loader, node: yaml.Node) -> Any:
    try:
        return loader.construct_object(node)
    except yaml.YAMLError:
        raise _refuse(node, f"unknown tag {node.tag!r}; quote the value if it is text") from None
    except (ValueError, KeyError, AttributeError):  # what yaml's constructors let through
        raise _refuse(node, f"not a value of type {node.tag.rpartition(':')[2]!r}; quote it if it is text") from None


def _refuse(node: yaml.Node, problem: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark)


def _override(tree: dict[str, Any], override: str, origin: _Origin) -> None:
    dotted, equals, value = override.partition("=")
    if not equals or not all(dotted.split(".")):
        raise ConfigError(f"--set {override}: must look like key.key=value, for example steps.model.config.seed=1")
    node: Any = tree
    at: Location = ()
    *parents, leaf = dotted.split(".")
    for word in parents:
        key = _key(node, word, at, override)
        if at == ("steps",) and key not in node:
            raise ConfigError(f"--set {override}: no step is named {word!r}; there are: {', '.join(node)}")
        if isinstance(node, dict) and node.get(key) is None:
            node[key] = {}
        node, at = node[key], (*at, key)
    key = _key(node, leaf, at, override)
    try:
        node[key] = parse(value)
    except yaml.constructor.ConstructorError as error:
        raise ConfigError(f"--set {override}: {error.problem}") from None
    except (yaml.YAMLError, RecursionError):
        raise ConfigError(f"--set {override}: the value is not YAML; quote it") from None
    origin.replace((*at, key), override)


def _key(node: Any, word: str, at: Location, override: str) -> str | int:
    """Return `word` as a key of `node`, which stands at `at`. Raises ConfigError if `node` has no keys."""
    if isinstance(node, list):
        return _index(node, word, override)
    if not isinstance(node, dict):
        raise ConfigError(f"--set {override}: {'.'.join(map(str, at))} holds {node!r}, which has no keys")
    return word


def _index(node: list[Any], key: str, override: str) -> int:
    if not key.isdecimal() or int(key) >= len(node):
        raise ConfigError(f"--set {override}: {key!r} is not an item; there are items 0 to {len(node) - 1}")
    return int(key)
