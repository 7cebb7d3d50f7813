"""The part of the page with what the model writes: the beginnings of held-out documents, and how it goes on."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from cluster.host.files import inside
from configs.text import shorten

GENERATIONS = "samples/generations.jsonl"
"""In the artifact of the scores."""

_MOST_SAMPLES = 2
"""Samples of a language, at most."""

_MOST_BYTES = 350_000
"""All samples together, so that the page of 200 languages stays small."""

_LENGTHS = ((150, 300), (100, 200), (60, 120), (30, 60), (10, 20))
"""Characters of a prompt and of what follows it that are shown: the first that keep within the bytes."""


@dataclass(frozen=True)
class Generation:
    """A text of the sources that the model was given, and what it wrote after it."""

    prompt: str
    text: str


@dataclass(frozen=True)
class WritingPart:
    """What the model writes in a language."""

    language: str
    samples: Sequence[Generation]


def writing_parts(scores: Path) -> list[WritingPart] | None:
    """Return samples of each language, by label, from the directory of scores; None if it has none."""
    path = inside(scores, GENERATIONS)
    if not path.is_file():
        return None
    found = defaultdict[str, list[Generation]](list)
    with path.open("rb") as file:
        for line in file:
            row = orjson.loads(line)
            if len(found[row["language"]]) < _MOST_SAMPLES:
                found[row["language"]].append(Generation(row["prompt"], row["text"]))
    whole = [WritingPart(language, samples) for language, samples in sorted(found.items())]
    sizes = (_cut(whole, *lengths) for lengths in _LENGTHS)
    parts = next((parts for parts in sizes if _num_bytes(parts) <= _MOST_BYTES), _cut(whole, *_LENGTHS[-1]))
    return parts or None


def _cut(parts: Sequence[WritingPart], prompt: int, text: int) -> list[WritingPart]:
    """Cut prompts to their ends and texts to their beginnings."""
    return [
        WritingPart(
            part.language,
            [Generation(shorten(one.prompt[::-1], prompt)[::-1], shorten(one.text, text)) for one in part.samples],
        )
        for part in parts
    ]


def _num_bytes(parts: Sequence[WritingPart]) -> int:
    return sum(len(f"{one.prompt}{one.text}".encode()) for part in parts for one in part.samples)
