"""The one flattening of nested configs to dotted keys, and the one comparison of two configs by those keys.

A config is here what `model_dump(mode="json")` gives. Callers put changes into words.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final


class Absent:
    """The type of ABSENT."""

    def __str__(self) -> str:
        return "absent"


ABSENT: Final = Absent()
"""Stands for the value of a key that a config does not have."""


@dataclass(frozen=True)
class Change:
    """A key whose values differ; one of them may be ABSENT."""

    key: str
    """Dotted, as `--set` takes it: `steps.corpus.config.sources.0.language`."""

    before: object
    after: object


def flatten(config: object) -> Iterator[tuple[str, object]]:
    """Yield every value that holds no other values, with its dotted key, in the order of the config.

    Mappings are gone into, and so are lists that hold mappings, by number. Other lists are values as they are, and so
    is an empty mapping.
    """
    return _flatten(config, config, "")


def diff(before: object, after: object, *, whole: bool = False) -> list[Change]:
    """Return what differs between two configs: in the order of `after`, then what only `before` has.

    What only one of them has is listed value by value; with `whole` a mapping or list that has no counterpart is one
    change.
    """
    old = dict(_flatten(before, after if whole else before, ""))
    new = dict(_flatten(after, before if whole else after, ""))
    keys = [*new, *(key for key in old if key not in new)]
    changes = (Change(key, old.get(key, ABSENT), new.get(key, ABSENT)) for key in keys)
    return [change for change in changes if change.before != change.after]


def _flatten(value: object, counterpart: object, key: str) -> Iterator[tuple[str, object]]:
    """Go into a value as far as its counterpart can be gone into."""
    items, others = _items(value), _items(counterpart)
    if items is None or others is None or (key and not items and not others):
        yield key, value
        return
    for name, item in items.items():
        yield from _flatten(item, others.get(name, ABSENT), f"{key}.{name}" if key else name)


def _items(value: object) -> Mapping[str, object] | None:
    """Return what a value holds, by key or by number; None if it is not gone into."""
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        return {str(number): item for number, item in enumerate(value)}
    return None
