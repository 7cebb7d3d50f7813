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
from configs.base import Artifact, Config, Manifest, Unfinished
from data_prep.sources.document import Digest

Observe = Callable[[Any, Digest], JsonValue]


@dataclass(frozen=True)
class Slot:
    """An input of a stage."""

    kind: type[Manifest]
    is_list: bool
    """Whether it takes any number of artifacts."""

    is_optional: bool
    """Whether a recipe may leave it out. One that is left out is no part of the step's identity."""

    may_be_unfinished: bool = False
    """Whether the stage can take it while it is being made."""


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

    slots: Mapping[str, Slot]
    """Its inputs by name."""

    before: Mapping[str, str]
    """Slot that takes a list -> slot of which it is given, if a recipe does not say, the artifacts before this one."""

    own_before: Mapping[str, Callable[[Any], bool]]
    """Slot that takes a list of what the stage makes -> whether a step with this config is given there what it made
    for the artifacts before this one, where a recipe names none of these."""

    output: type[Manifest]

    progress_file: str
    """File in its directory that grows once it has all that it takes to go on: what follows it begins then."""

    follows: Callable[[Any], bool]
    """Whether a step with this config takes what it can take unfinished while it is made, where its pool is another."""


def stage(
    run: Callable[..., Manifest],
    *,
    version: int,
    observe: Observe | None = None,
    reads_to_the_end: bool = False,
    check: Callable[[Any], None] | None = None,
    file_digests: Callable[[Path], Mapping[str, FileEntry]] | None = None,
    before: Mapping[str, str] | None = None,
    own_before: Mapping[str, Callable[[Any], bool]] | None = None,
    progress_file: str = "",
    follows: Callable[[Any], bool] = lambda config: False,
) -> Stage:
    """Read a stage's contract off its signature. Raises TypeError if that is not as follows.

    Expects `run(config, *, <slot>: Artifact[M], ..., out: Path, executor: Executor) -> M`. An input that a recipe may
    leave out is `<slot>: Artifact[M] | None = None`; one that may be unfinished `<slot>: Artifact[M] | Unfinished[M]`;
    one of several artifacts `<slot>: tuple[Artifact[M], ...]`, with
    the default `()` if it may be left out. `cadence: C`, of a Config, may be there as well.
    """
    hints = dict(get_type_hints(run))
    output: Any = hints.pop("return", None)
    config, cadence = hints.pop("config", None), hints.pop("cadence", None)
    runtime = (hints.pop("out", None), hints.pop("executor", None))
    configs = [config] if cadence is None else [config, cadence]
    if runtime != (Path, Executor) or not all(_is(one, Config) for one in configs) or not _is(output, Manifest):
        raise TypeError(f"{run.__module__}.{run.__name__} is not shaped like a stage")
    defaults = {name: parameter.default for name, parameter in inspect.signature(run).parameters.items()}
    slots = {slot: _slot(hint, defaults[slot]) for slot, hint in hints.items()}
    if stray := [slot for slot, read in slots.items() if read is None]:
        raise TypeError(
            f"{run.__module__}.{run.__name__}: {stray} must be Artifact[...], Artifact[...] | None = None, or a tuple "
            "of any number of them, with the default () or none"
        )
    return Stage(
        run,
        version,
        observe,
        reads_to_the_end,
        check,
        file_digests,
        config,
        cadence is not None,
        {slot: read for slot, read in slots.items() if read is not None},
        before or {},
        own_before or {},
        output,
        progress_file,
        follows,
    )


def _slot(hint: object, default: object) -> Slot | None:
    """Return what an annotation and a default say of an input; None if they do not go together."""
    required = default is inspect.Parameter.empty
    if get_origin(hint) is Artifact:
        return Slot(get_args(hint)[0], False, False) if required else None
    if get_origin(hint) is tuple and len(get_args(hint)) == 2 and get_args(hint)[1] is Ellipsis:
        inner = get_args(hint)[0]
        fits = get_origin(inner) is Artifact and (required or default == ())
        return Slot(get_args(inner)[0], True, not required) if fits else None
    if get_origin(hint) in (Union, UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not NoneType]
        if [get_origin(kind) for kind in kinds] == [Artifact, Unfinished]:
            one, other = (get_args(kind)[0] for kind in kinds)
            return Slot(one, False, False, may_be_unfinished=True) if required and one is other else None
        fits = len(kinds) == 1 and NoneType in get_args(hint) and get_origin(kinds[0]) is Artifact and default is None
        return Slot(get_args(kinds[0])[0], False, True) if fits else None
    return None


def _is(value: object, kind: type) -> bool:
    return isinstance(value, type) and issubclass(value, kind)
