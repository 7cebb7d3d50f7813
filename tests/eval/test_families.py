"""Tasks without their languages: chance, the worst language, scripts, coverage, and tasks that need no knowledge."""

import pytest

from eval.families import Family, find_families
from tests.eval.test_manifests import scores, task


def family(**values: float) -> Family:
    return Family("xcopa", [task(f"xcopa_{name}", name, value=value, chance=0.5) for name, value in values.items()])


def test_each_language_counts_the_same_and_chance_is_taken_off() -> None:
    one = family(sw=0.75, th=0.5)
    assert (one.value, one.chance, one.above_chance) == (0.625, 0.5, 0.25)
    assert one.worst.language == "th"
    low, high = one.interval or (0.0, 0.0)
    assert (high - low) / 2 == pytest.approx((2 * 0.3**2) ** 0.5 / 2)  # of two intervals of 0.6
    less = Family("t", [task("t_sw", "sw", value=0.2, higher_is_better=False), task("t_th", "th", value=0.1)])
    assert (
        Family("t", [one.model_copy(update={"higher_is_better": False}) for one in less.scores]).worst.language == "sw"
    )


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
