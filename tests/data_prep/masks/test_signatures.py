"""Signatures estimate how similar texts are, and the index finds what is similar."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.masks.signatures import PLACES, SignatureIndex, sign, sign_all, stack
from tests.data_prep.corpora import eld_sentences


def shingles(text: str, length: int) -> set[str]:
    letters = "".join(character for character in text.casefold() if character.isalnum())
    return {letters[i : i + length] for i in range(len(letters) - length + 1)}


def jaccard(one: str, other: str, length: int = 10) -> float:
    left, right = shingles(one, length), shingles(other, length)
    return len(left & right) / len(left | right)


def estimated(one: str, other: str) -> float:
    return float((sign(one) == sign(other)).mean())


@pytest.mark.parametrize("words", [15, 60, 400])
def test_equal_places_estimate_the_similarity(words: int) -> None:
    chosen, errors = random.Random(words), []
    for _ in range(150):
        text = [f"word{chosen.randrange(5000)}" for _ in range(words)]
        changed = list(text)
        for _ in range(chosen.randrange(words // 4)):
            changed[chosen.randrange(words)] = "other"
        pair = " ".join(text), " ".join(changed)
        errors.append(estimated(*pair) - jaccard(*pair))
    assert abs(np.mean(errors)) < 0.01
    assert np.std(errors) < 0.05


def test_case_spaces_and_punctuation_do_not_matter_and_letters_do() -> None:
    text = "The quick brown fox jumps over the lazy dog, and then it sleeps."
    assert estimated(text, text.upper().replace(" ", "   ").replace(",", " -- ")) == 1
    assert estimated(text, text.translate(str.maketrans("aeiou", "eioua"))) < 0.1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Question: how much is 407 + 121, in words?", "Question: how much is 407 * 121, in words?"),
        ("How much is 407 - 121, in words, please?", "How much is 407 / 121, in words, please?"),
        ("वह बाज़ार गया और किताब लाया", "वह बाज़ार गयी और किताब लायी"),
    ],
)
def test_sums_and_words_with_other_vowels_are_not_the_same(one: str, other: str) -> None:
    assert (sign(one) != sign(other)).any()


@given(st.text(max_size=60))
@settings(deadline=None)
def test_any_text_has_a_signature_equal_to_itself(text: str) -> None:
    assert sign(text).shape == (PLACES,) and (sign(text) == sign(text)).all()


def test_short_texts_of_ideographs_are_told_apart() -> None:
    assert estimated("今天天气很好我们去公园散步", "今天天气很好我们去公园散步。") == 1
    assert estimated("今天天气很好我们去公园散步", "昨天下雨我们在家里看书睡觉") < 0.1


def test_the_index_finds_what_a_search_through_all_finds() -> None:
    pytest.importorskip("eld")
    texts = [text for _, text in eld_sentences(30)]
    chosen = random.Random(3)
    queries = [text if chosen.random() < 0.5 else text[: len(text) * 9 // 10] for text in texts]
    signatures, asked = sign_all(texts[::5]), sign_all(queries)
    found = SignatureIndex.build(signatures).find_similar(asked, 0.8)
    every = np.array([(one == signatures).mean(axis=1).max() >= 0.8 for one in asked])
    assert (found == every).mean() > 0.999
    assert 0.1 < every.mean() < 0.5


def test_an_empty_index_finds_nothing() -> None:
    assert not SignatureIndex.build(stack([])).find_similar(sign_all(["a text", "another"]), 0.5).any()
