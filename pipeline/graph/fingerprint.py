"""Identity of a step's output: what is made, from what. Never where, when or how fast."""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, JsonValue
from pydantic.fields import FieldInfo

from cluster.host.files import sha256_of, write_text
from configs.base import AddedLater, ByContent, Config

DIGESTS_FILE = ".digests.json"


def identity_of(config: Config, *, observed: bool = False) -> dict[str, JsonValue]:
    """Return the settings that are hashed: all keys, without those marked AddedLater that have their default.

    Where what the stage observes is hashed beside them, `observed`, also without paths marked ByContent.
    """
    identity: dict[str, JsonValue] = _hashed(config, config.model_dump(mode="json"), observed=observed)
    return identity


def _hashed(value: object, dumped: Any, *, observed: bool) -> Any:
    """Return `dumped`, which is `value` as JSON, without the keys that are not hashed, at any depth."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        left_out = {
            name
            for name, field in fields.items()
            if (_is_marked(field, AddedLater) and getattr(value, name) == field.get_default(call_default_factory=True))
            or (observed and _is_marked(field, ByContent))
        }
        return {
            name: _hashed(getattr(value, name), dumped[name], observed=observed)
            for name in dumped
            if name not in left_out
        }
    if isinstance(value, Mapping):
        pairs = zip(value.values(), dumped.items(), strict=True)
        return {key: _hashed(item, inner, observed=observed) for item, (key, inner) in pairs}
    if isinstance(value, list | tuple):
        return [_hashed(item, inner, observed=observed) for item, inner in zip(value, dumped, strict=True)]
    return dumped


def _is_marked(field: FieldInfo, mark: type) -> bool:
    return any(isinstance(one, mark) for one in field.metadata)


def fingerprint(
    stage: str, version: int, config: Mapping[str, object], inputs: Mapping[str, str | list[str]], observed: object
) -> str:
    """SHA-256, in hex, of a canonical JSON text of the arguments.

    `observed` is what the stage's sources were seen to hold. Raises TypeError on a value without one stable
    text: a float that is not finite, a set, an object, a key that is not a string.
    """
    recipe = {"stage": stage, "version": version, "config": config, "inputs": inputs, "observed": observed}
    return hashlib.sha256(json.dumps(_stable(recipe, stage), sort_keys=True).encode()).hexdigest()


def _stable(value: object, where: str) -> object:
    match value:
        case None | bool() | int() | str():
            return value
        case float() if math.isfinite(value):
            return value
        case list() | tuple():
            return [_stable(item, f"{where}[{i}]") for i, item in enumerate(value)]
        case Mapping() if all(isinstance(key, str) for key in value):
            return {key: _stable(item, f"{where}.{key}") for key, item in value.items()}
    raise TypeError(f"{where}: {value!r} of type {type(value).__name__} has no stable bytes to fingerprint")


class Digests:
    """The SHA-256 of source files by path, remembered in the store until a file's size, time or place changes."""

    def __init__(self, store: Path) -> None:
        self._path = store / DIGESTS_FILE
        self._known = self._load()
        self._changed = False

    def __call__(self, path: Path) -> str:
        stat = path.stat()
        seen = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_dev, stat.st_ino]
        key = os.path.abspath(path)
        if key not in self._known or self._known[key][:-1] != seen:
            self._known[key] = [*seen, sha256_of(path)]
            self._changed = True
        return str(self._known[key][-1])

    def save(self) -> None:
        """Write what was found to the store, if there is one and it can be written."""
        if self._changed and self._path.parent.is_dir():
            with suppress(OSError):  # only a cache: files are read again
                write_text(self._path, json.dumps(self._known))

    def _load(self) -> dict[str, list[int | str]]:
        try:
            known: dict[str, list[int | str]] = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # only a cache: it is made again
            return {}
        return known if isinstance(known, dict) else {}
