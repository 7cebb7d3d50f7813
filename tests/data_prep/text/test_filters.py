"""Which bounds hold for a language, why a text is dropped, and how bounds are learned."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from configs.base import ConfigError
from configs.data.filters import (
    ALL_LANGUAGES,
    PRESETS,
    Bounds,
    FilterConfig,
    LanguageFilter,
    LearnConfig,
    Limits,
    Thresholds,
)
from data_prep.text.filters import Dropping, Filters, Sample, learn_thresholds, load_thresholds
from data_prep.text.statistics import STATISTICS


def layer(least: float, **others: Any) -> LanguageFilter:
    return LanguageFilter(limits=Limits(num_words=Bounds(min=least), **others))


def test_of_all_places_that_bound_a_statistic_the_nearest_holds() -> None:
    """Each place but the presets gives another least number of words; they are taken away one by one."""
    places: dict[str, Any] = {
        "languages": {"sw": {"num_words": {"min": 1}}},
        "file": {"sw": layer(2)},
        "learned": {"sw": layer(3)},
        "limits": {"num_words": {"min": 4}},
        "file of all": {ALL_LANGUAGES: layer(5)},
    }
    found = []
    for number in range(len(places) + 1):
        left = dict(list(places.items())[number:])
        config = FilterConfig.model_validate(
            {"presets": ["gopher_quality"]} | {key: left[key] for key in ("languages", "limits") if key in left}
        )
        file = left.get("file", {}) | left.get("file of all", {})
        bounds = config.limits_of("sw", file=file, learned=left.get("learned", {}))
        found.append(bounds["num_words"])
    assert found == [*(Bounds(min=least) for least in (1, 2, 3, 4, 5)), Bounds(min=50, max=100_000)]


def test_what_is_said_of_one_language_holds_for_no_other() -> None:
    config = FilterConfig.model_validate(
        {"limits": {"num_words": {"min": 4}}, "languages": {"swh_Latn": {"num_words": {}}}}
    )
    places: dict[str, Mapping[str, LanguageFilter]] = {"file": {"yo": layer(2)}, "learned": {"ig": layer(3)}}
    least = {label: config.limits_of(label, **places).get("num_words") for label in ("sw", "yo", "ig", "en", "und")}
    assert least == {
        "sw": Bounds(),
        "yo": Bounds(min=2),
        "ig": Bounds(min=3),
        "en": Bounds(min=4),
        "und": Bounds(min=4),
    }


@pytest.mark.parametrize("place", ["languages", "file", "learned", "limits", "file of all"])
def test_an_empty_pair_switches_a_bound_off(place: str) -> None:
    off = LanguageFilter(limits=Limits(num_words=Bounds()))
    settings: dict[str, Any] = {"presets": ["gopher_quality"]}
    settings |= {"languages": {"sw": {"num_words": {}}}} if place == "languages" else {}
    settings |= {"limits": {"num_words": {}}} if place == "limits" else {}
    file = {"file": {"sw": off}, "file of all": {ALL_LANGUAGES: off}}.get(place, {})
    config = FilterConfig.model_validate(settings)
    bounds = config.limits_of("sw", file=file, learned={"sw": off} if place == "learned" else {})
    assert bounds["num_words"] == Bounds()
    assert bounds["mean_word_length"] == Bounds(min=3, max=10), "the others hold"


def test_a_bound_that_is_switched_off_drops_nothing_and_stays_so_in_the_file_of_what_was_applied() -> None:
    settings = {"presets": ["gopher_quality"], "languages": {"sw": {"num_words": {}}}}
    filters = Filters(FilterConfig.model_validate(settings), Thresholds())
    assert filters.find_reason("maneno mawili", "sw") is None
    assert filters.find_reason("two words", "en") == Dropping("low_num_words", 2, 50)
    dumped = filters.applied("sw").model_dump(mode="json", exclude_defaults=True)
    assert dumped["limits"]["num_words"] == {}


def test_stop_words_of_all_languages_are_those_of_one_that_has_none(tmp_path: Path) -> None:
    path = tmp_path / "thresholds.yaml"
    path.write_text("languages: {'*': {stop_words: [a, the]}, sw: {stop_words: [na]}}", encoding="utf-8")
    filters = Filters(FilterConfig(file=str(path)), Thresholds())
    assert [filters.applied(label).stop_words for label in ("sw", "en")] == [("na",), ("a", "the")]


def test_bounds_are_replaced_in_pairs() -> None:
    config = FilterConfig.model_validate({"presets": ["gopher_quality"], "limits": {"mean_word_length": {"max": 20}}})
    assert config.limits_of("sw", file={}, learned={})["mean_word_length"] == Bounds(max=20)


def test_of_two_presets_the_later_one_holds() -> None:
    both = FilterConfig(presets=("gopher_repetition", "fineweb"))
    turned = FilterConfig(presets=("fineweb", "gopher_repetition"))
    most = [own.limits_of("en", file={}, learned={})["duplicate_line_characters"].max for own in (both, turned)]
    assert most == [0.1, 0.2]


def test_presets_are_those_of_the_papers() -> None:
    """Gopher, arXiv 2112.11446, table A1 and appendix A.1.1; FineWeb, arXiv 2406.17557, section 3.6."""
    assert PRESETS["gopher_quality"] == {
        "num_words": Bounds(min=50, max=100_000),
        "mean_word_length": Bounds(min=3, max=10),
        "symbol_word_ratio": Bounds(max=0.1),
        "bullet_line_share": Bounds(max=0.9),
        "ellipsis_line_share": Bounds(max=0.3),
        "alphabetic_word_share": Bounds(min=0.8),
        "num_stop_words": Bounds(min=2),
    }
    most = {name: bounds.max for name, bounds in PRESETS["gopher_repetition"].items() if bounds.min is None}
    assert most == {
        "duplicate_line_share": 0.30,
        "duplicate_paragraph_share": 0.30,
        "duplicate_line_characters": 0.20,
        "duplicate_paragraph_characters": 0.20,
        **{f"top_{n}_gram": value for n, value in ((2, 0.20), (3, 0.18), (4, 0.16))},
        **{f"duplicate_{n}_grams": round(0.20 - n / 100, 2) for n in range(5, 11)},
    }
    assert PRESETS["fineweb"]["punctuated_line_share"] == Bounds(min=0.12)
    assert PRESETS["fineweb"]["short_line_share"] == Bounds(max=0.67)
    assert PRESETS["fineweb"]["duplicate_line_characters"] == Bounds(max=0.1)
    assert all(name in STATISTICS for bounds in PRESETS.values() for name in bounds)


def filters(learned: Thresholds | None = None, **settings: Any) -> Filters:
    return Filters(FilterConfig.model_validate(settings), learned or Thresholds())


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({"num_words": {"min": 4}}, Dropping("low_num_words", 3, 4)),
        ({"num_words": {"max": 2}}, Dropping("high_num_words", 3, 2)),
        ({"num_words": {"min": 3, "max": 3}}, None),
        ({"num_braces": {"max": 0}}, None),
        ({"letter_share": {"min": 1}, "num_words": {"max": 2}}, Dropping("high_num_words", 3, 2)),
        ({"num_stop_words": {"min": 2}}, None),
    ],
)
def test_a_reason_says_what_was_beyond_which_bound(bounds: dict[str, Any], expected: Dropping | None) -> None:
    assert filters(limits=bounds).find_reason("one two 3", "en") == expected


def test_what_has_no_value_bounds_nothing() -> None:
    own = filters(presets=["gopher_quality"], limits={"num_words": {"min": 5}, "script_share": {"min": 1}})
    assert own.find_reason("没有空格的句子", "zh") is None
    assert own.find_reason("слово", "und") == Dropping("low_num_words", 1, 5)
    assert filters(limits={"script_share": {"min": 1}}).find_reason("слово", "und") is None


def test_gopher_drops_what_repeats_itself() -> None:
    own = filters(presets=["gopher_repetition"])
    sentence = "The same thing is said once more.\n"
    assert own.find_reason(sentence, "en") is None
    assert own.find_reason(sentence * 20, "en") == Dropping("high_duplicate_line_share", 0.95, 0.3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "filters says nothing"),
        ({"learn": {"low": {"num_word": 0.1}}}, "did you mean 'num_words'"),
        ({"learn": {"high": {"duplicate_lines_share": 0.9}}}, "did you mean 'duplicate_line_share'"),
        ({"learn": {"low": {"num_words": 0}}}, "greater than 0"),
        ({"learn": {"high": {"num_words": 1}}}, "less than 1"),
        ({"learn": {"share": 0}}, "greater than 0"),
        ({"limits": {"num_words": {"min": 5, "max": 4}}}, "min, 5, is above max, 4"),
        ({"limits": {"num_word": {"min": 5}}}, "num_word"),
        ({"languages": {"sw": {}, "swh_Latn": {}}}, "names a language twice"),
        ({"presets": ["gofer"]}, "gopher_quality"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        FilterConfig.model_validate(settings)
    assert message in str(caught.value)


FILE = """
languages:
  swh_Latn:
    limits: {num_words: {min: 2}}
    stop_words: [na, ya]
  "*":
    limits: {num_words: {min: 3}}
"""


def test_a_file_of_thresholds_is_by_language(tmp_path: Path) -> None:
    path = tmp_path / "thresholds.yaml"
    path.write_text(FILE)
    learned = Thresholds(languages={label: LanguageFilter(stop_words=("x",)) for label in ("sw", "en")})
    own = filters(learned, file=str(path))
    assert own.applied("sw") == LanguageFilter(limits=Limits(num_words=Bounds(min=2)), stop_words=("na", "ya"))
    assert own.applied("en") == LanguageFilter(limits=Limits(num_words=Bounds(min=3)), stop_words=("x",))
    assert own.find_reason("one two", "sw") is None
    assert own.find_reason("one two", "yo") == Dropping("low_num_words", 2, 3)


@pytest.mark.parametrize(
    "text", ["languages: {swahili: {}}", "language: {sw: {}}", "languages: {sw: {limits: {num_word: {min: 1}}}}", "[1"]
)
def test_a_file_of_thresholds_that_is_wrong_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "thresholds.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"thresholds\.yaml"):
        load_thresholds(FilterConfig(file=str(path)))


LEARN = LearnConfig(min_documents=100, low={"num_words": 0.05}, high={"num_words": 0.9}, num_stop_words=3)


def text_of(number: int) -> str:
    return " ".join(f"w{number}x{place}" for place in range(number))


def sample_of(texts: list[str], config: LearnConfig = LEARN, language: str = "sw") -> Sample:
    sample = Sample()
    for text in texts:
        sample.add(text, language, config)
    return sample


def test_learned_bounds_are_quantiles() -> None:
    """Of texts of 1 to 200 words a twentieth has 10 at most, and nine tenths have 180."""
    learned = learn_thresholds({"sw": sample_of([text_of(n) for n in range(1, 201)])}, LEARN)
    assert learned.languages["sw"].limits.given() == {"num_words": Bounds(min=10, max=180)}
    own = filters(learned, learn=LEARN)
    reasons = [found.reason if (found := own.find_reason(text_of(n), "sw")) else "" for n in range(1, 201)]
    assert reasons.count("low_num_words") == 9 and reasons.count("high_num_words") == 20
    assert own.find_reason(text_of(1), "yo") is None, "nothing was learned of it"


def test_a_statistic_may_have_one_learned_bound() -> None:
    config = LearnConfig(min_documents=1, low={"letter_share": 0.5}, high={"num_braces": 0.5})
    learned = learn_thresholds({"sw": sample_of(["ab 12", "abcd", "{{ 1"], config)}, config)
    assert learned.languages["sw"].limits.given() == {"letter_share": Bounds(min=0.5), "num_braces": Bounds(max=0)}


def test_a_bound_that_does_not_apply_is_not_learned() -> None:
    sample = sample_of(["没有空格的句子"] * 100, language="zh")
    assert learn_thresholds({"zh": sample}, LEARN).languages["zh"] == LanguageFilter()


def test_frequent_words_become_stop_words() -> None:
    """By the documents that have them, however often; what is no word is none."""
    texts = [f"Na {'-- 1 2 ' * 5} ya katika {text_of(n + 2)} {'often ' * 9 if n < 5 else ''}" for n in range(100)]
    learned = learn_thresholds({"sw": sample_of(texts)}, LEARN)
    assert set(learned.languages["sw"].stop_words) == {"na", "ya", "katika"}


def test_no_stop_words_are_learned_if_none_are_wanted() -> None:
    config = LEARN.model_copy(update={"num_stop_words": 0})
    learned = learn_thresholds({"sw": sample_of(["na ya"] * 100, config)}, config)
    assert learned.languages["sw"].stop_words == ()


def test_languages_with_few_documents_are_not_learned() -> None:
    samples = {label: sample_of(["na ya"] * number) for label, number in (("sw", 100), ("yo", 99), ("ig", 0))}
    assert set(learn_thresholds(samples, LEARN).languages) == {"sw"}


def test_two_samples_that_are_merged_are_one_of_all() -> None:
    texts = [f"{text_of(n)} na {'ya' if n % 3 else 'la'}" for n in range(1, 41)]
    config = LEARN.model_copy(update={"min_documents": 1})
    whole = sample_of(texts, config)
    for cut in (0, 1, 20, 40):
        merged = Sample()
        for part in (texts[:cut], texts[cut:]):
            merged.merge(sample_of(part, config))
        assert merged == whole
        assert learn_thresholds({"sw": merged}, config) == learn_thresholds({"sw": whole}, config)


def test_merging_keeps_the_words_that_most_documents_have() -> None:
    """Each part has more rare words than a sample keeps."""
    config = LearnConfig(min_documents=1, num_stop_words=2)
    letters = "abcdefghijklmnopqrstuvwxyz"
    rare = [a + b + c for a in letters for b in letters for c in letters][:9000]
    merged = Sample()
    for part in range(3):
        own = sample_of(["zzza zzzb"] * 50, config)
        own.merge(sample_of([" ".join(rare[part * 3000 : (part + 1) * 3000])], config))
        merged.merge(own)
    assert len(merged.words) < 9000
    assert learn_thresholds({"sw": merged}, config).languages["sw"].stop_words == ("zzza", "zzzb")


def test_quantiles_that_cross_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"low.num_words, 0.9, is not below high.num_words, 0.1"):
        LearnConfig.model_validate({"low": {"num_words": 0.9}, "high": {"num_words": 0.1}})


def test_a_file_that_names_a_language_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="names a language twice"):
        Thresholds.model_validate({"languages": {"sw": {}, "swh_Latn": {}}})


def test_a_text_of_code_or_mathematics_alone_is_not_judged_as_prose() -> None:
    settings = {"presets": ["fineweb"], "limits": {"letter_share": {"min": 0.5}}}
    filters = Filters(FilterConfig.model_validate(settings), Thresholds())
    assert filters.find_reason("\U000f0000 \U000f0001", "en") is None
