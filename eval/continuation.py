"""The multiple-choice task: which text goes on here? Made from held-out documents alone, for any language. Pure."""

import hashlib
import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from configs.evaluation import MultipleChoiceConfig
from data_prep.document import Document

MIN_CHARACTERS = 20
"""Of each half of a document."""

MAX_CHARACTERS = 400
"""Of each half, counted from the cut: enough to tell, and cheap."""


@dataclass(frozen=True)
class Question:
    """A context and the ways it may go on; `answer` is the index of the true one."""

    document: str
    language: str
    context: str
    choices: tuple[str, ...]
    answer: int


def make_questions(documents: Iterable[Document], config: MultipleChoiceConfig) -> list[Question]:
    """Questions by language, in the order of the languages' names; deterministic in the documents and the seed.

    Wrong continuations are second halves of other documents of the language. All choices of a question are cut to
    one length, so that none wins by being short. A language with too few documents has no questions.
    """
    halves: defaultdict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for document in documents:
        if (cut := _cut(document.text)) is not None:
            halves[document.language].append((document.id, *cut))
    return [question for language in sorted(halves) for question in _of_language(language, halves[language], config)]


def _of_language(language: str, halves: list[tuple[str, str, str]], config: MultipleChoiceConfig) -> list[Question]:
    if len(halves) < config.num_choices:
        return []
    questions = []
    for number, (document, context, true) in enumerate(halves[: config.questions_per_language]):
        chance = random.Random(_seed(config.seed, document))
        others = [second for other, (_, _, second) in enumerate(halves) if other != number and second != true]
        if len(others) < config.num_choices - 1:
            continue
        choices = [true, *chance.sample(others, config.num_choices - 1)]
        length = min(len(choice) for choice in choices)
        order = chance.sample(range(len(choices)), len(choices))
        cut = tuple(choices[i][:length] for i in order)
        questions.append(Question(document, language, context, cut, order.index(0)))
    return questions


def _cut(text: str) -> tuple[str, str] | None:
    """The text before and after a cut near its middle, at a space if there is one there."""
    middle = len(text) // 2
    space = text.find(" ", middle, middle + MIN_CHARACTERS)
    at = space if space >= 0 else middle
    first, second = text[max(0, at - MAX_CHARACTERS) : at], text[at : at + MAX_CHARACTERS]
    return (first, second) if min(len(first), len(second)) >= MIN_CHARACTERS else None


def _seed(seed: int, document: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{document}".encode(), digest_size=8).digest(), "little")
