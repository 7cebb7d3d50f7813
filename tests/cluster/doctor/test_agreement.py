"""Whether nodes agree."""

import pytest

from cluster.doctor.agreement import clock_finding, version_finding

HERE = {"python": "3.11.7", "code": "abc", "ray": "2.60.0", "wandb": "0.31"}


@pytest.mark.parametrize(
    ("changed", "level", "words"),
    [
        ({}, "OK", "2 packages and code abc"),
        ({"ray": "2.59.0"}, "FAIL", "ray 2.59.0 (here 2.60.0)"),
        ({"code": "def"}, "FAIL", "code def (here abc)"),
        ({"wandb": "0.30"}, "WARN", "wandb 0.30 (here 0.31)"),
        ({"torch": "2.13"}, "FAIL", "torch 2.13 (here missing)"),
    ],
)
def test_a_node_must_have_the_versions_that_decide(changed, level, words):
    finding = version_finding(HERE, HERE | changed)
    assert finding.level == level
    assert words in finding.seen


@pytest.mark.parametrize(
    ("skew", "within", "level"), [(0.1, 0.01, "OK"), (-2, 0.01, "WARN"), (2, 1.5, "OK"), (-100, 1, "FAIL")]
)
def test_a_clock_counts_as_wrong_only_as_far_as_the_round_trip_lets_one_know(skew, within, level):
    assert clock_finding(skew, within).level == level
