"""A stage is a function; its signature is its contract."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import JsonValue

from cluster.executor import Executor
from configs.base import Artifact, Config, Manifest
from data_prep.sources.document import Digest

Observe = Callable[[Any, Digest], JsonValue]


@dataclass(frozen=True)
class Stage:
    """What the runner knows of a stage."""

    run: Callable[..., Manifest]
    version: int
    """Bump when the code makes different output from the same config."""

    observe: Observe | None
    """What the outside world holds that the config only names, such as the bytes of source files; it is hashed."""

    config: type[Config]
    inputs: Mapping[str, type[Manifest]]
    output: type[Manifest]


def stage(run: Callable[..., Manifest], *, version: int, observe: Observe | None = None) -> Stage:
    """Read a stage's contract off its signature.

    Expects `run(config, *, <slot>: Artifact[M], ..., out: Path, executor: Executor) -> M`.
    Raises TypeError if the signature is anything else.
    """
    hints = dict(get_type_hints(run))
    output: Any = hints.pop("return", None)
    config: Any = hints.pop("config", None)
    runtime = (hints.pop("out", None), hints.pop("executor", None))
    if runtime != (Path, Executor) or not _is(config, Config) or not _is(output, Manifest):
        raise TypeError(f"{run.__module__}.{run.__name__} is not shaped like a stage")
    if stray := [slot for slot, hint in hints.items() if get_origin(hint) is not Artifact]:
        raise TypeError(f"{run.__module__}.{run.__name__}: {stray} must be Artifact[...]")
    inputs = {slot: get_args(hint)[0] for slot, hint in hints.items()}
    return Stage(run, version, observe, config, inputs, output)


def _is(value: object, kind: type) -> bool:
    return isinstance(value, type) and issubclass(value, kind)
