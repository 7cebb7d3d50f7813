"""The word-order task is made from any language, the same everywhere, and gives nothing away."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.evaluation import MultipleChoiceConfig
from data_prep.sources.document import Document
from eval.word_order import MAX_UNITS, MIN_UNITS, Question, make_questions
from tests.data_prep.corpora import eld_sentences

CONFIG = MultipleChoiceConfig(questions_per_language=1000)


def document(text: str, *, name: str = "web/1", language: str = "en") -> Document:
    return Document(name, text, language, "web")


def documents(per_language: int = 20) -> list[Document]:
    rows = enumerate(eld_sentences(per_language))
    return [document(text, name=f"eld/{i}", language=language) for i, (language, text) in rows]


def units(text: str, *, spaced: bool) -> Counter[str]:
    return Counter(text.split() if spaced else text)


def question(text: str, config: MultipleChoiceConfig = CONFIG) -> Question:
    (made,) = make_questions([document(text)], config)
    return made


def test_every_language_has_questions() -> None:
    assert len({made.language for made in make_questions(documents(), CONFIG)}) >= 59  # Lao has single words


def test_choices_have_the_same_words_and_exactly_one_is_the_text() -> None:
    texts = {made.id: made.text for made in documents()}
    for made in make_questions(documents(), CONFIG):
        words = texts[made.document].split()
        spaced = len(words) >= 10  # else characters are shuffled, the spaces among them
        first = units(made.choices[0], spaced=spaced)
        assert all(units(choice, spaced=spaced) == first for choice in made.choices)
        assert len({len(choice) for choice in made.choices}) == 1
        assert len(set(made.choices)) == len(made.choices) == 4
        whole = " ".join(words)
        assert [made.context + choice in whole for choice in made.choices].index(True) == made.answer
        assert sum(made.context + choice in whole for choice in made.choices) == 1


def test_places_of_the_answer_are_even() -> None:
    places = Counter(made.answer for made in make_questions(documents(), CONFIG))
    total = sum(places.values())
    assert total > 800
    assert all(places[i] == pytest.approx(total / 4, rel=0.2) for i in range(4))


def test_questions_depend_on_the_document_and_the_seed_alone() -> None:
    some = documents(5)
    made = {made.document: made for made in make_questions(some, CONFIG)}
    assert {made.document: made for made in make_questions(some[::-1], CONFIG)} == made
    other = make_questions(some, CONFIG.model_copy(update={"seed": 1}))
    assert sum(made[question.document] == question for question in other) < len(other) / 10


def test_questions_are_limited_by_language_and_in_the_order_of_the_documents() -> None:
    some = documents(20)
    made = make_questions(some, MultipleChoiceConfig(questions_per_language=3))
    assert max(Counter(question.language for question in made).values()) == 3
    places = [[d.id for d in some].index(question.document) for question in made]
    assert places == sorted(places)
    assert set(made) <= set(make_questions(some, CONFIG))


@pytest.mark.parametrize("number", [2, 3, 10])
def test_number_of_choices_is_that_of_the_config(number: int) -> None:
    made = question("one two three four five six seven eight nine ten", MultipleChoiceConfig(num_choices=number))
    assert len(made.choices) == number


def test_long_texts_are_cut_around_the_middle() -> None:
    words = [f"w{i}" for i in range(1000)]
    made = question(" ".join(words))
    assert made.context.split() == words[500 - MAX_UNITS : 500]
    assert made.choices[made.answer].split() == words[500 : 500 + MAX_UNITS]


def test_text_without_spaces_is_shuffled_by_character() -> None:
    made = question("天地玄黄宇宙洪荒日月盈昃")
    assert made.context == "天地玄黄宇宙"
    assert made.choices[made.answer] == "洪荒日月盈昃"


@pytest.mark.parametrize("text", ["short", "a b c d", "x" * 40, "no no no no no no no no no no no no", ""])
def test_texts_without_enough_orders_give_no_question(text: str) -> None:
    assert make_questions([document(text)], CONFIG) == []


@given(st.text(max_size=120))
@settings(max_examples=50, deadline=None)
def test_any_text_gives_a_sound_question_or_none(text: str) -> None:
    for made in make_questions([document(text)], CONFIG):
        assert len(set(made.choices)) == 4
        assert len(made.choices[0].split()) >= MIN_UNITS or len(made.choices[0]) >= MIN_UNITS
