"""Tasks without their languages: chance, the worst language, scripts, coverage, and tasks that need no knowledge."""

import numpy as np
import pytest

from eval.families import Family, adjusted, beats_chance, find_families
from eval.statistics import accuracy
from tests.eval.test_manifests import scores, task


def family(**values: float) -> Family:
    return Family("xcopa", [task(f"xcopa_{name}", name, value=value, chance=0.5) for name, value in values.items()])


def test_each_language_counts_the_same_and_chance_is_taken_off() -> None:
    one = family(sw=0.75, th=0.5)
    assert (one.value, one.chance, one.above_chance) == (0.625, 0.5, 0.25)
    assert one.worst.language == "th"
    assert one.interval == pytest.approx((0.1, 0.7))  # their questions may be the same: two say no more than one
    less = Family("t", [task("t_sw", "sw", value=0.2, higher_is_better=False), task("t_th", "th", value=0.1)])
    assert (
        Family("t", [one.model_copy(update={"higher_is_better": False}) for one in less.scores]).worst.language == "sw"
    )


def test_languages_with_documents_of_their_own_are_independent() -> None:
    own = [task("continuation", name, family="continuation", value=0.4) for name in ("sw", "th")]
    low, high = Family("continuation", own).interval or (0.0, 0.0)
    assert (high - low) / 2 == pytest.approx((2 * 0.3**2) ** 0.5 / 2)  # of two intervals of 0.6


def test_the_interval_over_languages_holds_the_truth_where_all_have_the_same_questions() -> None:
    """A model that always says A, on 200 questions in 50 languages: it was in one of five, as if of 10,000."""
    generator = np.random.Generator(np.random.PCG64(0))
    held, above, tries = 0, 0, 200
    for _ in range(tries):
        rights = (generator.integers(0, 4, 200) == 0).astype(float).tolist()
        found = accuracy(rights)
        known = {"value": found.value, "low": found.low, "high": found.high, "chance": 0.25}
        one = Family("quiz", [task(f"quiz_{number}", str(number), **known) for number in range(50)])
        assert one.interval is not None
        held += one.interval[0] <= 0.25 <= one.interval[1]
        above += one.is_above_chance
    assert held / tries >= 0.92 and above / tries <= 0.05


def test_languages_that_are_as_bad_as_the_worst_are_counted() -> None:
    assert (family(sw=0.0, th=0.0, et=0.5).worst.language, family(sw=0.0, th=0.0, et=0.5).num_worst) == ("sw", 2)


def test_a_single_language_keeps_its_interval_and_none_stays_none() -> None:
    assert Family("t", [task("t", low=0.1, high=0.2)]).interval == (0.1, 0.2)
    assert Family("t", [task("t", low=None, high=None)]).interval is None
    assert Family("t", [task("t", chance=None)]).above_chance is None


def test_scripts_are_those_that_languages_are_written_in() -> None:
    assert family(sw=0.5, et=0.7, th=0.4, zh=0.6).by_script == {"Hans": 0.6, "Latn": 0.6, "Thai": 0.4}


def test_missing_languages_are_told_but_for_tasks_of_none() -> None:
    assert family(sw=0.5).missing(["sw", "th", "et"]) == ["et", "th"]
    assert Family("arc", [task("arc_easy")]).missing(["sw"]) == []


def test_a_task_that_an_untrained_network_can_do_is_not_sound() -> None:
    found = scores(task("a", value=0.5), task("b", value=0.5), task("c", value=0.5))
    controls = (task("a", value=0.27, low=0.2, high=0.34), task("b", value=0.4, low=0.36, high=0.44))
    families = {one.name: one for one in find_families(found.model_copy(update={"untrained": controls}))}
    assert families["a"].is_sound and not families["b"].is_sound
    assert families["c"].is_sound and families["c"].untrained == ()  # none was asked


@pytest.mark.parametrize(
    ("control", "is_checked"),
    [
        ({}, True),
        ({"low": None, "high": None}, False),  # of one question
        ({"chance": None}, False),
        ({"value": None, "low": None, "high": None, "failure": "no data"}, False),
        (None, False),
    ],
)
def test_a_task_is_checked_if_an_untrained_network_was_asked_with_an_interval(
    control: dict[str, object] | None, is_checked: bool
) -> None:
    untrained = () if control is None else (task("quiz", **({"value": 0.25} | control)),)
    for name, is_headline in (("quiz", is_checked), ("continuation", True)):
        own = [one.model_copy(update={"family": name}) for one in (task("quiz"), *untrained)]
        (found,) = find_families(scores(own[0]).model_copy(update={"untrained": tuple(own[1:])}))
        assert (found.is_sound, found.is_checked, found.is_headline) == (True, is_checked, is_headline)


def test_what_an_untrained_network_can_do_is_no_headline_whatever_its_name() -> None:
    assert not Family("continuation", [task("a")], [task("a", value=0.6, low=0.5, high=0.7)]).is_headline


def test_where_less_is_better_a_lower_score_is_further_from_chance() -> None:
    less = {"chance": 0.5, "higher_is_better": False}
    own = [task("pairs_en", "en", value=0.3, low=0.2, high=0.4, **less), task("pairs_fr", "fr", value=0.6, **less)]
    assert [adjusted(one) for one in own] == [pytest.approx(0.4), pytest.approx(-0.2)]
    assert Family("pairs", own).above_chance == pytest.approx(0.1)
    assert Family("pairs", own).worst.language == "fr"
    assert Family("pairs", own[:1]).is_above_chance and not Family("pairs", own[1:]).is_above_chance
    assert beats_chance(own[0]) and not beats_chance(own[0], 0.3) and beats_chance(own[0], 0.45)
    assert not beats_chance(task("pairs", value=0.8, low=0.7, high=0.9, **less))
    assert adjusted(task("pairs", value=0.3, chance=0.0, higher_is_better=False)) is None
    assert Family("pairs", own).label == "pairs (less is better)" and family(sw=0.5).label == "xcopa"
