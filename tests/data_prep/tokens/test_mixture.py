"""The weights of streams: sources, languages, temperature, caps by epochs, phases."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from configs.base import UserError
from configs.training.mixture import MixtureConfig
from data_prep.tokens.mixture import fill, plan_phases
from data_prep.tokens.sample_order import Order, Phase, Stream

STREAMS = [Stream("web", "de", 800), Stream("web", "sw", 100), Stream("science", "en", 100)]


def phases_of(streams: list[Stream] = STREAMS, *, length: int = 10, **mixture: Any) -> tuple[Phase, ...]:
    return plan_phases(streams, MixtureConfig.model_validate(mixture), sequence_length=length)


def weights_of(streams: list[Stream] = STREAMS, **mixture: Any) -> tuple[float, ...]:
    (phase,) = phases_of(streams, **mixture)
    return phase.weights


def test_weights_without_a_mixture_follow_the_text() -> None:
    assert weights_of() == pytest.approx((0.8, 0.1, 0.1))


def test_temperature_evens_out_languages_within_a_source_only() -> None:
    assert weights_of(temperature=3) == pytest.approx((0.9 * 2 / 3, 0.9 / 3, 0.1))  # cube roots of 8 and 1


def test_source_weights_are_relative_and_shared_out_by_language() -> None:
    assert weights_of(source_weights={"web": 1, "science": 3}) == pytest.approx((0.25 * 8 / 9, 0.25 / 9, 0.75))


def test_language_weights_divide_each_source() -> None:
    weights = {"de": 1, "sw": 3, "en": 5}
    assert weights_of(language_weights=weights) == pytest.approx((0.9 / 4, 0.9 * 3 / 4, 0.1))
    assert weights_of(language_weights=weights | {"en": 0}) == pytest.approx((1 / 4, 3 / 4, 0))


def test_a_source_of_no_weight_is_left_out() -> None:
    assert weights_of(source_weights={"web": 1, "science": 0}) == pytest.approx((8 / 9, 1 / 9, 0))


@pytest.mark.parametrize(
    ("mixture", "says"),
    [
        ({"source_weights": {"web": 1}}, "mixture.source_weights must name each source once.* in science "),
        ({"language_weights": {"de": 1, "sw": 1, "en": 1, "fr": 1}}, "must name each language once; .* in fr "),
        (
            {"phases": [{"budget_tokens": 9}, {"source_weights": {"web": 1, "books": 2, "science": 1}}]},
            "mixture.phases.1.source_weights .* in books ",
        ),
        (
            {"source_weights": {"web": 1, "science": 0}, "language_weights": {"de": 0, "sw": 0, "en": 1}},
            "mixture gives no text a weight",
        ),
        (
            {"budget_tokens": 20_000, "max_epochs": 1},
            "mixture.budget_tokens is 20,000 and its max_epochs leaves 10,000 tokens; lower the one",
        ),
        (
            {"phases": [{"budget_tokens": 9_000}, {"budget_tokens": 2_000, "max_epochs": 1}]},
            "mixture.phases.1.budget_tokens is 2,000 and its max_epochs leaves 1,000 tokens",
        ),
    ],
)
def test_a_mixture_that_the_text_does_not_allow_is_refused(mixture: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        phases_of(**mixture)


@pytest.mark.parametrize(
    ("mixture", "says"),
    [
        ({"max_epochs": 4}, "max_epochs needs budget_tokens"),
        ({"phases": [{}, {"budget_tokens": 9}]}, "phases.0 has no budget_tokens"),
        ({"phases": [{}], "temperature": 2}, "temperature stands beside phases"),
        ({"source_weights": {"web": 0}}, "source_weights are all 0"),
        ({"language_weights": {"sw": 0}}, "language_weights are all 0"),
    ],
)
def test_a_mixture_that_makes_no_sense_is_refused(mixture: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        MixtureConfig.model_validate(mixture)


def test_what_a_capped_language_leaves_goes_to_its_source_first() -> None:
    """Evenly, web/sw would be read 18 times: 0.45 of 4,000 samples."""
    streams = [*STREAMS, Stream("science", "de", 100_000)]
    even = {"temperature": 1e9, "source_weights": {"web": 9, "science": 1}}
    weights = weights_of(streams, budget_tokens=40_000, max_epochs=4, **even)
    assert weights == pytest.approx((3200 / 4000, 400 / 4000, 0.05, 0.05))
    alone = weights_of(streams, budget_tokens=40_000, **even)
    assert alone == pytest.approx((0.45, 0.45, 0.05, 0.05))


def test_what_a_capped_source_leaves_goes_to_the_others() -> None:
    weights = weights_of(budget_tokens=5_000, max_epochs=2, source_weights={"web": 1, "science": 9})
    assert weights == pytest.approx((300 / 500 * 8 / 9, 300 / 500 / 9, 200 / 500))


def test_epochs_count_what_phases_before_have_read() -> None:
    first, second = phases_of(
        phases=[
            {"budget_tokens": 1_500, "source_weights": {"web": 0, "science": 1}},
            {"budget_tokens": 4_000, "max_epochs": 2, "temperature": 1e9},
        ]
    )
    assert (first.num_samples, first.weights) == (150, pytest.approx((0, 0, 1)))
    assert second.weights[2] * 400 == pytest.approx(40), "science has its tenth, of the 50 that are left of 2 epochs"
    tight = phases_of(
        phases=[
            {"budget_tokens": 1_900, "source_weights": {"web": 0, "science": 1}},
            {"budget_tokens": 4_000, "max_epochs": 2},
        ]
    )
    assert tight[1].weights[2] * 400 == pytest.approx(10)


@pytest.mark.parametrize("max_epochs", [0.5, 1, 4])
def test_no_stream_is_read_more_often_than_max_epochs(max_epochs: float) -> None:
    streams = [Stream("web", f"l{i}", 3**i + 2) for i in range(9)]
    tokens = int(10 * max_epochs * sum(stream.num_samples for stream in streams) * 0.9)
    phases = phases_of(streams, budget_tokens=tokens, max_epochs=max_epochs, temperature=5)
    counts = Order(streams, phases, seed=0).count_by_stream(tokens // 10)
    epochs = [count / stream.num_samples for count, stream in zip(counts.tolist(), streams, strict=True)]
    slack = [4 / stream.num_samples for stream in streams]
    assert all(epoch <= max_epochs + more for epoch, more in zip(epochs, slack, strict=True))
    assert epochs[0] == pytest.approx(max_epochs, abs=slack[0]), "the smallest is read as often as it may be"


def test_a_budget_decides_the_weights_and_not_the_length_of_training() -> None:
    config = {"budget_tokens": 40_000, "max_epochs": 6, "temperature": 4}
    alone, longer = phases_of(**config), phases_of(phases=[config, {}])
    assert longer[0] == alone[0]
    one, other = Order(STREAMS, alone, seed=1), Order(STREAMS, longer, seed=1)
    assert one.samples(0, 4_000).index.tolist() == other.samples(0, 4_000).index.tolist()


@given(
    st.lists(st.tuples(st.just(0.0) | st.floats(1e-6, 1e6), st.floats(0, 50)), min_size=1, max_size=7),
    st.floats(0.1, 100),
)
@settings(max_examples=200, deadline=None)
def test_filling_keeps_caps_and_proportions(parts: list[tuple[float, float]], budget: float) -> None:
    weights, caps = [weight for weight, _ in parts], [cap for _, cap in parts]
    given_to = fill(budget, weights, caps)
    most = sum(cap for weight, cap in parts if weight > 0)
    assert sum(given_to) == pytest.approx(min(budget, most), rel=1e-6, abs=1e-9)
    assert all(got <= cap * (1 + 1e-9) for got, cap in zip(given_to, caps, strict=True))
    assert all(got == 0 for got, weight in zip(given_to, weights, strict=True) if weight == 0)
    free = [
        got / weight
        for got, (weight, cap) in zip(given_to, parts, strict=True)
        if weight > 0 and got < cap * (1 - 1e-6)
    ]
    assert free == pytest.approx([free[0]] * len(free), rel=1e-3) if free else True


def test_phases_are_read_again_from_all_keys() -> None:
    """As a run's record holds them."""
    mixture = MixtureConfig.model_validate({"phases": [{"budget_tokens": 9, "max_epochs": 2}, {"temperature": 3}]})
    assert MixtureConfig.model_validate(mixture.model_dump(mode="json")) == mixture
