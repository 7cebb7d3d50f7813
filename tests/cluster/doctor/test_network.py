"""Which pairs of nodes are measured, how fast two processes are, and what is found."""

from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from cluster.doctor.network import Speed, choose_pairs, measure_speed, pair_findings, split_into_rounds
from cluster.host.network import free_port


@pytest.mark.parametrize("num_nodes", [0, 1, 2, 3, 4, 5, 6, 7, 100, 1000])
def test_every_node_is_in_a_pair_and_there_are_few_pairs_and_rounds(num_nodes):
    pairs = choose_pairs(num_nodes)
    assert len(set(pairs)) == len(pairs) <= max(10, 1.5 * num_nodes)
    assert all(first < second for first, second in pairs)
    if num_nodes > 1:
        assert {node for pair in pairs for node in pair} == set(range(num_nodes))
    rounds = split_into_rounds(pairs)
    assert sorted(pair for turn in rounds for pair in turn) == sorted(pairs)
    assert all(max(Counter(node for pair in turn for node in pair).values()) == 1 for turn in rounds)
    assert len(rounds) <= 6


def test_slow_and_failed_pairs_are_named():
    good, slow = Speed(10.0, 0.0001), Speed(2.0, 0.0001)
    speeds = {(0, 1): good, (0, 2): slow, (1, 2): good, (0, 3): "Connection refused"}
    summary, outlier, failure = pair_findings("abcd", speeds, expected_gigabits=None)
    assert (summary.level, outlier.check, outlier.level) == ("OK", "all-reduce a - c", "WARN")
    assert (failure.check, failure.level, failure.seen) == ("all-reduce a - d", "FAIL", "Connection refused")


def test_pairs_whose_gpus_are_in_use_are_no_failure():
    (finding,) = pair_findings("ab", {(0, 1): None}, expected_gigabits=None)
    assert (finding.level, "in use" in finding.seen) == ("WARN", True)


def test_the_network_that_the_cluster_file_tells_of_is_the_measure():
    speeds = {(0, 1): Speed(10.0, 0.0001)}
    assert [f.level for f in pair_findings("ab", speeds, expected_gigabits=100)] == ["WARN"]
    assert [f.level for f in pair_findings("ab", speeds, expected_gigabits=15)] == ["OK"]
    assert pair_findings("ab", {}, expected_gigabits=100) == []


def test_two_processes_measure_a_speed():
    port = free_port()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        calls = [
            pool.submit(measure_speed, r, "127.0.0.1", port, own_address="127.0.0.1", backend="gloo") for r in (0, 1)
        ]
        speeds = [call.result(timeout=120) for call in calls]
    assert all(0 < speed.latency_seconds < 1 and speed.gigabits_per_second > 0.01 for speed in speeds)
