"""A stage is a function; its signature is its contract."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import JsonValue

from cluster.executor import Executor
from cluster.host.files import FileEntry
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

    reads_to_the_end: bool
    """Whether it reads what it observes for as long as it runs, so that a change meanwhile spoils what it has made.
    Else it reads it once, at its beginning."""

    check: Callable[[Any], None] | None
    """Raises UserError if a step with this config cannot be made here, such as for want of a package."""

    file_digests: Callable[[Path], Mapping[str, FileEntry]] | None
    """Sizes and checksums of files in the artifact's directory that the stage computed while it wrote them, by relative
    path. The files it does not name are read once when the artifact is committed."""

    config: type[Config]
    has_cadence: bool
    """Whether it takes `cadence`, a mapping beside the step's `config:` that is no part of its identity."""

    inputs: Mapping[str, type[Manifest]]
    """By slot, optional ones included."""

    optional_inputs: frozenset[str]
    """Slots that a recipe may leave out. A slot that is left out is no part of the step's identity."""

    output: type[Manifest]


def stage(
    run: Callable[..., Manifest],
    *,
    version: int,
    observe: Observe | None = None,
    reads_to_the_end: bool = False,
    check: Callable[[Any], None] | None = None,
    file_digests: Callable[[Path], Mapping[str, FileEntry]] | None = None,
) -> Stage:
    """Read a stage's contract off its signature.

    Expects `run(config, *, <slot>: Artifact[M], ..., out: Path, executor: Executor) -> M`; an input that a recipe may
    leave out is `<slot>: Artifact[M] | None = None`, and `cadence: C`, of a Config, may be there as well. Raises
    TypeError if the signature is anything else.
    """
    hints = dict(get_type_hints(run))
    output: Any = hints.pop("return", None)
    config, cadence = hints.pop("config", None), hints.pop("cadence", None)
    runtime = (hints.pop("out", None), hints.pop("executor", None))
    configs = [config] if cadence is None else [config, cadence]
    if runtime != (Path, Executor) or not all(_is(one, Config) for one in configs) or not _is(output, Manifest):
        raise TypeError(f"{run.__module__}.{run.__name__} is not shaped like a stage")
    artifacts = {slot: _artifact_in(hint) for slot, hint in hints.items()}
    if stray := [slot for slot, artifact in artifacts.items() if artifact is None]:
        raise TypeError(f"{run.__module__}.{run.__name__}: {stray} must be Artifact[...], or Artifact[...] | None")
    optional = frozenset(slot for slot, hint in hints.items() if artifacts[slot] is not hint)
    defaults = {name: parameter.default for name, parameter in inspect.signature(run).parameters.items()}
    if wrong := [s for s in hints if defaults[s] is not (None if s in optional else inspect.Parameter.empty)]:
        raise TypeError(f"{run.__module__}.{run.__name__}: {wrong} must have the default None exactly if optional")
    inputs = {slot: get_args(artifact)[0] for slot, artifact in artifacts.items()}
    return Stage(
        run,
        version,
        observe,
        reads_to_the_end,
        check,
        file_digests,
        config,
        cadence is not None,
        inputs,
        optional,
        output,
    )


def _artifact_in(hint: object) -> object | None:
    """Return the Artifact[M] of a hint that is one, or one or None; else None."""
    if get_origin(hint) in (Union, UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not NoneType]
        hint = kinds[0] if len(kinds) == 1 and NoneType in get_args(hint) else None
    return hint if get_origin(hint) is Artifact else None


def _is(value: object, kind: type) -> bool:
    return isinstance(value, type) and issubclass(value, kind)
