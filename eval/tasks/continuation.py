"""The task `continuation`: which of four texts goes on this one? Questions are made of held-out documents alone.

The questions of a group of documents in one language have the same choices, the second halves of all of them, cut to
one size. So whatever a model thinks of the choices without the context, it picks the same one in each question of the
group, and is right in one of four: a network that does not use the context scores chance, in any language and with any
tokenizer, by construction. All functions are pure.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from data_prep.sources.document import Document

NUM_CHOICES = 4
MIN_BYTES, MAX_BYTES = 24, 200
"""UTF-8 bytes of a choice at least, and at most; a context has at most twice as many."""


@dataclass(frozen=True)
class Question:
    """A context and its possible continuations; `answer` is the index of the real one."""

    document: str
    language: str
    group: str
    """The documents whose questions have the same choices: they are no independent observations."""

    context: str
    choices: tuple[str, ...]
    answer: int


def make_questions(documents: Iterable[Document], *, per_language: int) -> list[Question]:
    """Make at most `per_language` questions a language, rounded down to whole groups.

    They depend on the set of documents alone: groups are made in the order of digests, of documents whose halves are
    about equally long. Documents that are too short give none.
    """
    by_language: defaultdict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for document in documents:
        if (halves := _cut(document.text)) is not None:
            by_language[document.language].append((document.id, *halves))
    return [
        question
        for language in sorted(by_language)
        for question in _questions(language, by_language[language], per_language)
    ]


def _questions(language: str, halves: list[tuple[str, str, str]], most: int) -> Iterator[Question]:
    ordered = sorted(halves, key=lambda one: hashlib.sha256(f"{one[0]}\n{one[1]}".encode()).digest())
    chosen = ordered[: most // NUM_CHOICES * NUM_CHOICES]
    alike = sorted(chosen, key=lambda one: (len(one[2].encode()), one[0]))
    for start in range(0, len(alike) - NUM_CHOICES + 1, NUM_CHOICES):
        group = alike[start : start + NUM_CHOICES]
        size = min(MAX_BYTES, *(len(second.encode()) for _, _, second in group))
        choices = tuple(_first_bytes(second, size) for _, _, second in group)
        if len(set(choices)) < NUM_CHOICES:
            continue
        order = sorted(range(NUM_CHOICES), key=lambda place: hashlib.sha256(choices[place].encode()).digest())
        for place, (document, first, _) in enumerate(group):
            yield Question(
                document=document,
                language=language,
                group=group[0][0],
                context=_last_bytes(first, 2 * MAX_BYTES),
                choices=tuple(choices[one] for one in order),
                answer=order.index(place),
            )


def _cut(text: str) -> tuple[str, str] | None:
    """Return the halves of a text, cut between words where there are any; None if it is too short."""
    middle = len(text) // 2
    space = text.find(" ", middle)
    place = space if 0 <= space < middle + len(text) // 8 else middle
    first, second = text[:place], text[place:]
    return (first, second) if min(len(first.encode()), len(second.encode())) >= MIN_BYTES else None


def _first_bytes(text: str, size: int) -> str:
    return text.encode()[:size].decode(errors="ignore")


def _last_bytes(text: str, size: int) -> str:
    return text.encode()[-size:].decode(errors="ignore")
