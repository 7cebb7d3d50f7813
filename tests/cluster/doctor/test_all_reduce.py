"""Two processes that add up tensors."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from cluster.doctor.all_reduce import measure
from cluster.host.network import free_port


def test_two_processes_measure_a_speed():
    port = free_port()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        calls = [pool.submit(measure, r, "127.0.0.1", port, here="127.0.0.1", backend="gloo") for r in (0, 1)]
        speeds = [call.result(timeout=120) for call in calls]
    assert all(0 < speed.latency_seconds < 1 and speed.gigabits_per_second > 0.01 for speed in speeds)
