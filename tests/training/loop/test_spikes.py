"""Loss spikes and steps that are not finite."""

import numpy as np
import pytest

from configs.training.train import SpikeConfig, StabilityConfig
from training.loop.spikes import InstabilityDetector, num_steps_remembered, spike_score

RULE = SpikeConfig(window_steps=32, threshold=8, patience_steps=3)
CONFIG = StabilityConfig(spikes=RULE, max_skipped_steps=2)


def falling(num: int, seed: int = 0) -> list[float]:
    """A loss that falls, with noise."""
    steps = np.arange(num)
    noise = np.random.default_rng(seed).normal(0, 0.2, num)
    return (3 + 6 * np.exp(-steps / 50) + noise).tolist()


def test_a_training_without_spikes_is_left_alone() -> None:
    for seed in range(20):
        detector = InstabilityDetector(CONFIG, [])
        assert [detector.check_step(loss, updated=True) for loss in falling(500, seed)] == [None] * 500


def test_a_lone_spike_is_left_alone_and_several_in_a_row_are_not() -> None:
    detector = InstabilityDetector(CONFIG, [(loss, True) for loss in falling(100)])
    assert detector.check_step(12.0, updated=True) is None
    assert detector.check_step(4.0, updated=True) is None
    assert detector.check_step(12.0, updated=True) is None
    assert detector.check_step(12.0, updated=True) is None
    instability = detector.check_step(12.0, updated=True)
    assert instability is not None
    assert instability.num_steps == 3
    assert instability.reason.startswith("the loss was 12, ")


def test_spikes_do_not_move_what_they_are_compared_with() -> None:
    detector = InstabilityDetector(StabilityConfig(spikes=RULE.model_copy(update={"patience_steps": 1000})), [])
    for loss in falling(100):
        detector.check_step(loss, updated=True)
    scores = []
    for _ in range(50):
        detector.check_step(12.0, updated=True)
        scores.append(spike_score(12.0, detector._losses, RULE))
    assert len(set(scores)) == 1


def test_there_is_no_score_before_half_a_window() -> None:
    assert spike_score(100.0, [1.0] * 15, RULE) == 0.0
    assert spike_score(100.0, [1.0] * 16, RULE) > RULE.threshold


def test_the_score_is_in_standard_deviations() -> None:
    values = np.random.default_rng(0).normal(5, 0.5, 10_001).tolist()
    assert spike_score(5 + 4 * 0.5, values, RULE) == pytest.approx(4, rel=0.05)
    assert spike_score(3.0, values, RULE) < 0, "a fall is no spike"


def test_steps_that_are_not_finite_are_counted_in_a_row() -> None:
    detector = InstabilityDetector(CONFIG, [])
    nan = float("nan")
    assert [detector.check_step(nan, updated=False) for _ in range(2)] == [None, None]
    assert detector.check_step(1.0, updated=True) is None
    assert [detector.check_step(nan, updated=False) for _ in range(2)] == [None, None]
    instability = detector.check_step(nan, updated=False)
    assert instability is not None
    assert (instability.num_steps, instability.reason) == (3, "3 steps in a row without finite loss and gradient")


def test_spikes_and_steps_that_are_not_finite_are_one_instability() -> None:
    detector = InstabilityDetector(CONFIG, [(loss, True) for loss in falling(100)])
    results = [
        detector.check_step(12.0 if updated else float("nan"), updated=updated)
        for updated in (True, False) * 2 + (True,)
    ]
    assert results[:4] == [None] * 4
    assert results[4] is not None
    assert results[4].num_steps == 5


def test_an_instability_is_never_longer_than_what_is_remembered() -> None:
    rule = SpikeConfig(window_steps=16, threshold=8, patience_steps=100)
    config = StabilityConfig(spikes=rule, max_skipped_steps=2)
    detector = InstabilityDetector(config, [(loss, True) for loss in falling(100)])
    results = [
        detector.check_step(12.0 if step % 3 == 2 else float("nan"), updated=step % 3 == 2) for step in range(300)
    ]
    (instability,) = [result for result in results[:300] if result is not None][:1]
    assert instability.num_steps == 300
    assert instability.num_steps <= num_steps_remembered(config)


def test_a_detector_resumed_from_the_last_steps_goes_on_alike() -> None:
    history = [(loss, True) for loss in falling(400)]
    whole, resumed = (
        InstabilityDetector(CONFIG, history),
        InstabilityDetector(CONFIG, history[-num_steps_remembered(CONFIG) :]),
    )
    for loss in (4.0, 12.0, 12.0, 12.0):
        assert whole.check_step(loss, updated=True) == resumed.check_step(loss, updated=True)
