"""Which hosts still answer."""

import socket
import threading

from cluster.host.network import free_port
from cluster.ray import heartbeat
from cluster.ray.heartbeat import Heartbeat, unreachable


def test_where_nothing_listens_nothing_answers():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        there, nowhere = f"127.0.0.1:{listener.getsockname()[1]}", f"127.0.0.1:{free_port()}"
        assert unreachable([there, nowhere, there]) == {nowhere}
    assert unreachable([]) == frozenset()


def test_who_has_not_answered_within_the_limit_is_silent(monkeypatch):
    now, probed = 100.0, threading.Event()
    asked = []

    def probe(addresses):
        asked.append(set(addresses))
        probed.set()
        return frozenset({"gone:1"})

    monkeypatch.setattr(heartbeat, "SECONDS_BETWEEN_BEATS", 0.001)
    monkeypatch.setattr(heartbeat, "unreachable", probe)
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now)
    with Heartbeat(["gone:1", "there:1"], limit_seconds=5.0) as beating:
        now = 104.0
        probed.clear()
        assert probed.wait(5) and beating.silent() == frozenset()
        now = 106.0
        while "there:1" in beating.silent():
            probed.clear()
            assert probed.wait(5)
        assert beating.silent() == {"gone:1"}
    assert asked[0] == {"gone:1", "there:1"}


def test_one_that_has_slept_for_too_long_is_not_excused_by_a_late_answer(monkeypatch):
    now = 100.0
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now)
    sleeping = Heartbeat(["driver:1"], limit_seconds=5.0)
    now = 200.0
    assert sleeping.silent() == {"driver:1"}
