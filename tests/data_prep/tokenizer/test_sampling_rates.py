"""How much of each language a tokenizer learns from."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.data.stages import TrainTokenizerConfig
from data_prep.tokenizer.stage import sampling_rates

languages = st.dictionaries(st.text("abcdef", min_size=1), st.integers(1, 10**12), min_size=1, max_size=8)
budgets = st.integers(1, 10**13)
temperatures = st.floats(1, 20)


def config(budget: int, temperature: float) -> TrainTokenizerConfig:
    return TrainTokenizerConfig(vocab_size=300, sample_bytes=budget, temperature=temperature)


@given(languages, budgets, temperatures)
@settings(deadline=None)
def test_rates_use_the_whole_budget_or_the_whole_text(sizes: dict[str, int], budget: int, temperature: float) -> None:
    rates = sampling_rates(sizes, config(budget, temperature))
    assert rates.keys() == sizes.keys()
    assert all(0 < rate <= 1 for rate in rates.values())
    used = sum(rates[language] * size for language, size in sizes.items())
    assert used == pytest.approx(min(budget, sum(sizes.values())), rel=1e-6)


@given(languages, temperatures)
@settings(deadline=None)
def test_all_text_is_used_when_the_budget_is_larger(sizes: dict[str, int], temperature: float) -> None:
    assert set(sampling_rates(sizes, config(2 * sum(sizes.values()), temperature)).values()) == {1.0}


@given(languages, budgets, temperatures)
@settings(deadline=None)
def test_small_languages_are_favoured_but_never_overtake(
    sizes: dict[str, int], budget: int, temperature: float
) -> None:
    rates = sampling_rates(sizes, config(budget, temperature))
    ordered = sorted(sizes, key=sizes.__getitem__)
    for small, large in pairwise(ordered):
        assert rates[small] >= rates[large] * (1 - 1e-6)
        assert rates[small] * sizes[small] <= rates[large] * sizes[large] * (1 + 1e-6)


def test_shares_follow_the_temperature() -> None:
    sizes = {"en": 1_000_000, "sw": 1000}
    flat = sampling_rates(sizes, config(10_010, 1))
    assert flat == pytest.approx({"en": 0.01, "sw": 0.01})
    rooted = sampling_rates(sizes, config(11_000, 3))
    assert rooted == pytest.approx({"en": 0.01, "sw": 1.0})  # cube roots are 100 and 10
    scarce = sampling_rates(sizes, config(1100, 3))
    assert scarce == pytest.approx({"en": 0.001, "sw": 0.1})


def test_what_a_small_language_cannot_use_goes_to_the_others() -> None:
    rates = sampling_rates({"en": 10_000, "de": 10_000, "yo": 10}, config(1010, 1000))
    assert rates == pytest.approx({"en": 0.05, "de": 0.05, "yo": 1.0}, rel=1e-2)


def test_a_language_without_text_has_no_rate() -> None:
    assert sampling_rates({"en": 10, "sw": 0}, config(5, 3)) == {"en": 0.5}
