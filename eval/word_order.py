"""The word-order task: which of these continuations is the real text? Questions come from held-out documents alone.

The second half of a document is one choice; the others are the same words in other orders, so that all choices have
the same words and the same length. It works in any language. Even a small model can do better than chance, which makes
the task an early signal. All functions are pure.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from configs.evaluation import MultipleChoiceConfig
from data_prep.sources.document import Document

MIN_UNITS = 5
"""Least number of units in the half that is shuffled: words, or characters where words are few or not separated."""

MAX_UNITS = 40
"""Most units in the context and in each choice."""


@dataclass(frozen=True)
class Question:
    """A context and its possible continuations; `answer` is the index of the real one."""

    document: str
    language: str
    context: str
    choices: tuple[str, ...]
    answer: int


def make_questions(documents: Iterable[Document], config: MultipleChoiceConfig) -> list[Question]:
    """Make at most `questions_per_language` questions a language, in the order of the documents.

    The result is deterministic in the documents and the seed. A document that is too short, or whose words have too
    few orders, gives no question.
    """
    made: Counter[str] = Counter()
    questions = []
    for document in documents:
        if made[document.language] == config.questions_per_language:
            continue
        if (question := _make_question(document, config)) is not None:
            made[document.language] += 1
            questions.append(question)
    return questions


def _make_question(document: Document, config: MultipleChoiceConfig) -> Question | None:
    words = document.text.split()
    glue = " " if len(words) >= 2 * MIN_UNITS else ""
    units = words if glue else list(" ".join(words))
    half = len(units) // 2
    second = units[half : half + MAX_UNITS]
    if len(second) < MIN_UNITS:
        return None
    generator = random.Random(_hash_seed(config.seed, document.id))
    wrong: list[str] = []
    for _ in range(10 * config.num_choices):
        shuffled = glue.join(generator.sample(second, len(second)))
        if shuffled != glue.join(second) and shuffled not in wrong and len(wrong) < config.num_choices - 1:
            wrong.append(shuffled)
    if len(wrong) < config.num_choices - 1:
        return None
    answer = generator.randrange(config.num_choices)
    choices = [glue + choice for choice in (*wrong[:answer], glue.join(second), *wrong[answer:])]
    context = glue.join(units[max(0, half - MAX_UNITS) : half])
    return Question(document.id, document.language, context, tuple(choices), answer)


def _hash_seed(seed: int, document: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{document}".encode(), digest_size=8).digest(), "little")
