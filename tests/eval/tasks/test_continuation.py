"""Which text goes on this one: questions are made of documents alone, and nobody guesses better than chance."""

import random
from collections import Counter, defaultdict

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from data_prep.sources.document import Document
from eval.likelihood import Scorer, Targets
from eval.statistics import accuracy
from eval.tasks.continuation import MAX_BYTES, NUM_CHOICES, Question, make_questions
from tests.data_prep.corpora import eld_sentences

LANGUAGES = ("en", "ru", "ar", "hi", "zh", "th", "am", "ko")


def documents() -> list[Document]:
    """Make documents of five sentences."""
    texts = defaultdict(list)
    for language, text in eld_sentences(3000):
        if language in LANGUAGES:
            texts[language].append(text)
    return [
        Document(id=f"{language}/{start}", text=" ".join(own[start : start + 5]), language=language, source="eld")
        for language, own in texts.items()
        for start in range(0, len(own) - 4, 5)
    ]


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return make_questions(documents(), per_language=48)


def test_questions_have_one_real_continuation_and_three_of_others(questions: list[Question]) -> None:
    texts = {document.id: document.text for document in documents()}
    counts = Counter(question.language for question in questions)
    assert set(counts) == set(LANGUAGES) and set(counts.values()) <= set(range(32, 49))
    for question in questions:
        assert question.context + question.choices[question.answer] in texts[question.document]
        assert len(set(question.choices)) == NUM_CHOICES
        sizes = [len(choice.encode()) for choice in question.choices]
        assert max(sizes) <= MAX_BYTES and max(sizes) - min(sizes) <= 3  # a character is not cut


def test_each_choice_is_right_once_in_its_group(questions: list[Question]) -> None:
    """So what is thought of the choices without the context is right in one of four, whatever it is."""
    groups = defaultdict(list)
    for question in questions:
        groups[question.language, question.group].append(question)
    for group in groups.values():
        assert len(group) == NUM_CHOICES and len({question.choices for question in group}) == 1
        assert {question.answer for question in group} == set(range(NUM_CHOICES))
    assert len(Counter(question.answer for question in questions)) == NUM_CHOICES


def test_questions_hang_on_the_set_of_documents_alone(questions: list[Question]) -> None:
    shuffled = documents()
    random.Random(1).shuffle(shuffled)
    assert make_questions(shuffled, per_language=48) == questions
    assert all(len(make_questions(documents(), per_language=number)) == 0 for number in (0, 3))


@pytest.mark.parametrize("text", ["", "short", "一二三", " " * 200, "ab" * 11])
def test_what_is_too_short_gives_no_question(text: str) -> None:
    assert (
        make_questions([Document(id=str(i), text=text, language="en", source="s") for i in range(8)], per_language=8)
        == []
    )


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("seed", range(2))
def test_an_untrained_network_scores_chance_in_every_language(
    questions: list[Question], seed: int, is_tied: bool
) -> None:
    """With tied embeddings it finds words that were there likelier than others, which is the most it can know."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=260,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=3 * MAX_BYTES,
        tie_word_embeddings=is_tied,
    )
    scorer = Scorer(LlamaForCausalLM(config).eval())
    asked = [question for place, question in enumerate(questions) if place // NUM_CHOICES % 2 == seed % 2]
    sequences = [
        Targets([1, *question.context.encode(), *choice.encode()], 1 + len(question.context.encode()))
        for question in asked
        for choice in question.choices
    ]
    found = [one.nats / (len(two.ids) - two.first) for one, two in zip(scorer.score(sequences), sequences, strict=True)]
    right = defaultdict(list)
    for number, question in enumerate(asked):
        own = found[number * NUM_CHOICES : (number + 1) * NUM_CHOICES]
        right[question.language].append(float(own.index(min(own)) == question.answer))
    for values in (*right.values(), [value for own in right.values() for value in own]):
        interval = accuracy(values)
        assert interval.low <= 1 / NUM_CHOICES <= interval.high
