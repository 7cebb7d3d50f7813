"""Identity of a step's output: what is made, from what. Never where, when or how fast."""

import hashlib
import json
import math
from collections.abc import Mapping


def fingerprint(
    stage: str, version: int, config: Mapping[str, object], inputs: Mapping[str, str], observed: object
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
