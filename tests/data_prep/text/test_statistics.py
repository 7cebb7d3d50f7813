"""Statistics of prose: by hand on small texts, and runs of words against a plain implementation."""

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.data.filters import Limits
from data_prep.text.spans import find_spans
from data_prep.text.statistics import STATISTICS, Prose


def measure(name: str, text: str, *, language: str = "en", stop_words: Sequence[str] = ()) -> float | None:
    return STATISTICS[name](Prose(text, language=language, stop_words=frozenset(stop_words)))


def test_every_statistic_has_a_bound_of_its_name() -> None:
    assert set(STATISTICS) == set(Limits.model_fields)


LINES = "A first line.\nAnother one\nA first line.\n\nA first line.\nLast"
"""Five lines in two paragraphs, 59 characters."""

PARAGRAPHS = "one two\n\nthree\n \n\none two\n\n\none two"
"""Four paragraphs of 7, 5, 7 and 7 characters in 35."""


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("num_words", "one two  three\nfour", 4),
        ("num_words", "слово и ещё", 3),
        ("num_words", "word, 12 - x", 4),
        ("mean_word_length", "one three", 4),
        ("mean_word_length", "a, bb", 2),
        ("alphabetic_word_share", "word 12 x1 - ...", 2 / 5),
        ("alphabetic_word_share", "यह हिन्दी में है।", 1),
        ("alphabetic_word_share", "கி.மீ 5 தமிழ்", 2 / 3),
        ("alphabetic_word_share", "123 456", 0),
        ("symbol_word_ratio", "#tag and # more... or … not. four", 4 / 8),
        ("symbol_word_ratio", "no symbols. here", 0),
        ("letter_share", "ab 12", 0.5),
        ("letter_share", "слово", 1),
        ("letter_share", "한국어 123", 0.5),
        ("letter_share", "1 2 3", 0),
        ("script_share", "word слово", 4 / 9),
        ("script_share", "word 123", 1),
        ("bullet_line_share", "- a\n* b\n  • c\nd\n\ne", 3 / 5),
        ("ellipsis_line_share", "a...\nb…\nc\nd....\n\n", 3 / 4),
        ("short_line_share", "short\n" + "x" * 30 + "\n" + "x" * 31, 2 / 3),
        ("punctuated_line_share", "One.\nTwo!\nThree?\n“Four.”\n(Five.)\nSix\nSeven,\nEight…", 6 / 8),
        ("punctuated_line_share", "一。\n二？\n三\n«Четыре».\nएक है।\nهل؟", 5 / 6),
        ("line_word_ratio", "a b\nc d\n\ne", 3 / 5),
        ("num_braces", "function { if (a) { b } }", 2),
        ("num_placeholders", "Lorem ipsum, LOREM IPSUM, lorem  ipsum", 2),
        ("duplicate_line_share", LINES, 2 / 5),
        ("duplicate_line_characters", LINES, 2 * 13 / 59),
        ("duplicate_paragraph_share", PARAGRAPHS, 2 / 4),
        ("duplicate_paragraph_characters", PARAGRAPHS, 2 * 7 / 35),
        ("duplicate_line_share", "a\nb\nc", 0),
        ("duplicate_line_characters", "a\nb\nc", 0),
        ("top_2_gram", "to be or not to be", 2 * 4 / 13),
        ("top_2_gram", "one two three four", 0),
        ("top_2_gram", "ab cd ab cd eeeeee ff eeeeee ff", 2 * 8 / 24),
        ("top_3_gram", "to be or x to be or y to be z", 2 * 6 / 19),
        ("top_4_gram", "a b c d e a b c d f", 2 * 4 / 10),
        ("top_4_gram", "a b c d", 0),
        ("duplicate_5_grams", "a b c d e x a b c d e", 5 / 11),
        ("duplicate_5_grams", "a b c d e f x a b c d e f", 6 / 13),
        ("duplicate_6_grams", "a b c d e x a b c d e", 0),
        ("duplicate_10_grams", "1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0", 10 / 20),
        ("duplicate_5_grams", "a b c", 0),
    ],
)
def test_statistics_by_hand(name: str, text: str, expected: float) -> None:
    assert measure(name, text) == pytest.approx(expected)


def test_the_lengths_that_the_table_names() -> None:
    assert (len(LINES), len(PARAGRAPHS)) == (59, 35)


def test_stop_words_are_counted_in_small_letters() -> None:
    assert measure("num_stop_words", "The cat and the dog, andy", stop_words=["the", "and"]) == 3
    assert measure("num_stop_words", "The cat", stop_words=["of"]) == 0
    assert measure("num_stop_words", "The cat") is None, "no stop words are known"


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("sr", "слово reč", 1),
        ("ru", "слово reč", 5 / 8),
        ("ja", "日本語のコトバ", 1),
        ("zh-Hant", "這是中文", 1),
        ("ko", "한국어 漢字", 1),
        ("uz", "сўз soʻz", 1),
        ("en", "слово", 0),
        ("und", "слово", None),
        ("und-Cyrl", "слово", None),
        ("x-mine", "слово", None),
        ("en", "12", None),
        ("azb", "کلمه", 1),
        ("grc", "λόγος", 1),
    ],
)
def test_script_share_is_of_the_scripts_of_the_language(language: str, text: str, expected: float | None) -> None:
    share = measure("script_share", text, language=language)
    assert share == (None if expected is None else pytest.approx(expected))


OF_WORDS = (
    *("num_words", "mean_word_length", "alphabetic_word_share", "symbol_word_ratio", "num_stop_words"),
    *("line_word_ratio", "top_2_gram", "top_3_gram", "top_4_gram"),
)


@pytest.mark.parametrize(
    "text",
    [
        "这是一句没有空格的话。",
        "これはことばです。",
        "นี่คือประโยค",
        "ນີ້ແມ່ນປະໂຫຍກ",
        "នេះជាប្រយោគ",
        "ဒါက စာကြောင်း",
        "འདི་ཚིག་རེད།",
    ],
)
def test_a_script_without_spaces_has_no_words(text: str) -> None:
    values = {name: measure(name, text, language="zh", stop_words=["的"]) for name in STATISTICS}
    assert {name for name, value in values.items() if value is None} == set(OF_WORDS)


def test_a_run_in_a_script_without_spaces_is_of_twice_as_many_letters() -> None:
    numbers = "一二三四五六七八九十"
    text = f"{numbers}人 {numbers[:4]}\n{numbers[4:]}"
    assert measure("duplicate_5_grams", text) == pytest.approx(10 / 21)
    assert measure("duplicate_6_grams", text) == 0
    assert measure("duplicate_5_grams", "甲乙丙丁戊己庚辛壬癸子甲乙丙丁戊己庚辛壬") == 0, "nine letters again"


@pytest.mark.parametrize("text", ["", " ", "\n\n", "\0", "\ud800", "a", "文", "123", "- \n- ", "\u0301", "# #"])
@pytest.mark.parametrize("language", ["en", "zh", "und", "x-mine"])
def test_texts_of_hardly_anything_have_statistics(text: str, language: str) -> None:
    for name in STATISTICS:
        value = measure(name, text, language=language, stop_words=["a"])
        assert value is None or value >= 0, name


def repeats_by_definition(units: Sequence[str], n: int) -> tuple[float, float]:
    """Return what takes most characters of the runs that are there most often, and what is in a run that was there."""
    total = sum(map(len, units))
    runs = [tuple(units[place : place + n]) for place in range(len(units) - n + 1)]
    counts = Counter(runs)
    most = max(counts.values(), default=0)
    top = max((sum(map(len, run)) for run, count in counts.items() if count == most), default=0) if most > 1 else 0
    seen: set[tuple[str, ...]] = set()
    again: set[int] = set()
    for place, run in enumerate(runs):
        if run in seen:
            again.update(range(place, place + n))
        seen.add(run)
    return most * top / total if total else 0.0, sum(len(units[place]) for place in again) / total if total else 0.0


def check_repeats(text: str) -> None:
    prose = Prose(text, language="en")
    if prose.has_words:
        units: Sequence[str] = text.split()
        sizes = {n: n for n in range(2, 11)}
    else:
        units, sizes = "".join(text.split()), {n: 2 * n for n in range(5, 11)}
    assert set(prose.repeats) == set(sizes)
    for n, size in sizes.items():
        top, again = repeats_by_definition(units, size)
        assert prose.repeats[n].again == pytest.approx(again), (n, text)
        assert prose.repeats[n].top == pytest.approx(min(1.0, top)), (n, text)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(["a", "bb", "ccc", "dddd"]), max_size=40))
def test_repeats_of_words_are_those_of_the_definition(words: list[str]) -> None:
    check_repeats(" ".join(words))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from("人山水"), max_size=80))
def test_repeats_of_letters_are_those_of_the_definition(letters: list[str]) -> None:
    check_repeats("".join(letters))


@pytest.mark.parametrize("seed", range(6))
def test_repeats_of_texts_with_planted_copies(seed: int) -> None:
    chance = random.Random(seed)
    words = [f"w{chance.randrange(200)}" for _ in range(300)]
    for _ in range(6):
        start, place = chance.randrange(280), chance.randrange(280)
        words[place:place] = words[start : start + chance.randrange(2, 15)]
    check_repeats(" ".join(words))
    check_repeats("".join(chr(0x4E00 + int(word[1:])) for word in words))


@pytest.mark.parametrize("text", ["a b b a", "a a b b c c", "no no yes yes", "x y z y x", "a b c b a c"])
def test_runs_of_other_words_or_in_another_order_are_no_repeats(text: str) -> None:
    assert measure("top_2_gram", text) == 0
    check_repeats(text)


def test_one_word_many_times() -> None:
    check_repeats("word " * 30)
    check_repeats("字" * 30)


def test_formulas_tell_lines_and_runs_of_words_apart_and_are_no_words() -> None:
    lines = [f"Let $x_{i}$ be a point of the space and $y_{i}$ another" for i in range(8)]
    text = "\n".join(lines)
    prose = Prose(find_spans(text).marked(text), language="en")
    assert STATISTICS["duplicate_line_share"](prose) == 0
    assert STATISTICS["duplicate_line_characters"](prose) == 0
    assert STATISTICS["num_words"](prose) == 8 * 9
    assert STATISTICS["alphabetic_word_share"](prose) == 1
    assert STATISTICS["letter_share"](prose) == 1
    assert STATISTICS["duplicate_10_grams"](prose) == 0, "no run of ten words is without a formula"
    bare = Prose(find_spans(text).prose(text), language="en")
    assert STATISTICS["duplicate_10_grams"](bare) > 0.8, "which is what the marks are for"


def test_marks_are_unique_for_tens_of_thousands_of_formulas_and_may_come_again_after() -> None:
    text = " ".join(f"$a$ word{i}" for i in range(70_000))
    marked = find_spans(text).marked(text)
    prose = Prose(marked, language="en")
    assert len(prose.words) == 70_000 and len(marked.split()) == 140_000
