"""A task gives signal if it rises above chance by more than it wavers."""

import random

import pytest

from configs.base import UserError
from eval.manifests import CheckpointScores
from eval.screen import screen
from tests.eval.test_manifests import scores, task


def curve(values: list[float]) -> tuple[CheckpointScores, ...]:
    return tuple(
        CheckpointScores(step=10 * i, num_tokens=i, bits_per_byte={}, tasks={"quiz": value}, failure="")
        for i, value in enumerate(values, 1)
    )


@pytest.mark.parametrize(
    ("values", "low", "is_signal"),
    [
        ([0.25, 0.29, 0.34, 0.38, 0.45, 0.5], 0.4, True),
        ([0.25, 0.29, 0.34, 0.38, 0.45, 0.5], 0.2, False),  # not above chance at the end
        ([0.5, 0.45, 0.38, 0.34, 0.29, 0.3], 0.27, False),  # falls
        ([0.25, 0.5, 0.26, 0.49, 0.27, 0.5], 0.4, False),  # wavers
        ([0.3] * 6, 0.27, False),
    ],
)
def test_a_task_that_rises_above_chance_steadily_gives_signal(values: list[float], low: float, is_signal: bool) -> None:
    given = scores(task("quiz", value=values[-1], low=low), en=1.0).model_copy(update={"curve": curve(values)})
    (found,) = screen(given)
    assert found.is_signal == is_signal and found.num_checkpoints == 6


def test_noise_alone_gives_none() -> None:
    chosen = random.Random(0)
    found = 0
    for _ in range(200):
        values = [0.25 + chosen.gauss(0, 0.02) for _ in range(10)]
        low = values[-1] - 0.05
        given = scores(task("quiz", value=values[-1], low=low), en=1.0).model_copy(update={"curve": curve(values)})
        found += screen(given)[0].is_signal
    assert found / 200 < 0.03


def test_few_checkpoints_tell_no_trend() -> None:
    with pytest.raises(UserError, match="3 checkpoints were scored, and it takes 4"):
        screen(scores(task("quiz"), en=1.0).model_copy(update={"curve": curve([0.3, 0.4, 0.5])}))


def test_a_task_of_few_checkpoints_or_languages_gives_none() -> None:
    rising = curve([0.25, 0.29, 0.34, 0.38, 0.45, 0.5])
    fewer = [one.model_copy(update={"tasks": {} if one.step < 50 else one.tasks}) for one in rising]
    found = scores(task("quiz", low=0.4, chance=0.25)).model_copy(update={"curve": tuple(fewer)})
    assert (screen(found)[0].num_checkpoints, screen(found)[0].is_signal) == (2, False)
    mixed = [one.model_copy(update={"num_languages": {"quiz": 2 if one.step > 20 else 1}}) for one in rising]
    found = scores(task("quiz", low=0.4, chance=0.25)).model_copy(update={"curve": tuple(mixed)})
    assert screen(found)[0].num_checkpoints == 4


def test_what_an_untrained_network_can_do_is_no_signal() -> None:
    rising = curve([0.25, 0.29, 0.34, 0.38, 0.45, 0.5])
    found = scores(task("quiz", low=0.4, chance=0.25)).model_copy(update={"curve": rising})
    assert screen(found)[0].is_signal
    control = found.model_copy(update={"untrained": (task("quiz", value=0.45),)})
    assert screen(control)[0].num_above_chance == 0 and not screen(control)[0].is_signal


def test_where_less_is_better_signal_is_below_chance_and_what_an_untrained_network_scored() -> None:
    falling = curve([0.5, 0.46, 0.41, 0.37, 0.3, 0.25])
    less = {"chance": 0.5, "higher_is_better": False}
    given = scores(task("quiz", value=0.25, low=0.15, high=0.35, **less)).model_copy(update={"curve": falling})
    assert screen(given)[0].is_signal and screen(given)[0].num_above_chance == 1
    control = given.model_copy(update={"untrained": (task("quiz", value=0.3, **less),)})
    assert screen(control)[0].num_above_chance == 0
    worse = scores(task("quiz", value=0.75, low=0.65, high=0.85, **less)).model_copy(update={"curve": falling})
    assert screen(worse)[0].num_above_chance == 0


def test_a_task_without_chance_is_compared_with_an_untrained_network_or_with_nothing_right_at_all() -> None:
    rising = curve([0.0, 0.1, 0.22, 0.3, 0.45, 0.6])
    written = task("quiz", kind="generation", value=0.6, low=0.56, high=0.64, chance=None)
    given = scores(written).model_copy(update={"curve": rising})
    (found,) = screen(given)
    assert (found.is_signal, found.num_above_chance, found.compared_with) == (True, 1, "0")
    control = given.model_copy(update={"untrained": (task("quiz", value=0.58, chance=None),)})
    (found,) = screen(control)
    assert (found.is_signal, found.num_above_chance, found.compared_with) == (False, 0, "an untrained network")
    less = given.model_copy(update={"tasks": (written.model_copy(update={"higher_is_better": False}),)})
    assert (screen(less)[0].num_above_chance, screen(less)[0].compared_with) == (0, "")
    choice = given.model_copy(update={"tasks": (task("quiz", low=0.4),), "untrained": (task("quiz", value=0.3),)})
    assert screen(choice)[0].compared_with == "chance and an untrained network"
