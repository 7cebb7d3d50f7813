"""Leases in a store without locks: who gets one, who loses it, and what an outage does. The clock is a toy."""

from collections.abc import Callable
from types import SimpleNamespace
from uuid import uuid4

import pytest

from cluster.leases import object_lease
from cluster.leases.object_lease import SETTLE_SECONDS, SILENT_AFTER_SECONDS, SURE_SECONDS, ObjectLease, ObjectLeaseHeld
from cluster.storage.objects import ObjectStore, open_store
from configs.base import InfrastructureError, LeaseLost

NAME = ".leases/run-x.json"


class Clock:
    """A clock that goes on when somebody sleeps; `meanwhile` is called for each second of it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.meanwhile: Callable[[], None] = lambda: None

    def sleep(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.now += 1
            self.meanwhile()


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(object_lease, "time", SimpleNamespace(monotonic=lambda: made.now, sleep=made.sleep))
    return made


@pytest.fixture
def store() -> ObjectStore:
    return open_store(f"memory://{uuid4().hex}", num_tries=1)


def object_lease_of(store: ObjectStore, who: str) -> ObjectLease:
    return ObjectLease(store, "run-x", {"token": who, "host": who, "pid": 7, "since": "now"})


def taken(store: ObjectStore, who: str, *, former: str | None = None, take_over: bool = False) -> ObjectLease:
    mine = object_lease_of(store, who)
    mine.take(former_token=former, take_over=take_over)
    return mine


def every(clock: Clock, seconds: int, call: Callable[[], None]) -> None:
    clock.meanwhile = lambda: call() if clock.now % seconds == 0 else None


def test_who_finds_a_holder_that_lives_is_refused_once_that_is_seen(store, clock):
    one = taken(store, "one")
    every(clock, 5, one.beat)
    with pytest.raises(ObjectLeaseHeld, match=r"^process 7 on one since now$"):
        taken(store, "two")
    assert clock.now <= 1000 + 6
    one.check()


def test_a_holder_that_is_silent_is_fenced_off_within_a_minute(store, clock):
    one = taken(store, "one")
    two = taken(store, "two")
    assert SILENT_AFTER_SECONDS + SETTLE_SECONDS <= clock.now - 1000 <= 60
    with pytest.raises(LeaseLost, match="held by process 7 on two since now"):
        one.beat()
    with pytest.raises(LeaseLost):
        one.check()
    assert one.winner() == {"host": "two", "pid": 7, "since": "now"}
    two.beat()
    two.check()
    one.give_up()
    two.beat()


def test_a_holder_cannot_write_any_more_when_its_successor_begins(store, clock):
    """It has read its own last before the successor wrote, and has hung since."""
    one = taken(store, "one")
    one.beat()
    taken(store, "two", take_over=True)
    assert clock.now - 1000 > SURE_SECONDS
    with pytest.raises(InfrastructureError, match="has not answered for 15 s"):
        one.check()


def test_a_holder_that_died_in_this_working_copy_is_not_waited_for(store, clock):
    taken(store, "one")
    taken(store, "two", former="one").check()
    assert clock.now == 1000


def test_what_was_given_up_is_free_at_once(any_store, clock):
    store = open_store(any_store)
    one = taken(store, "one")
    one.beat()
    one.give_up()
    assert store.list_names() == []
    taken(store, "two")
    assert clock.now == 1000


def test_of_two_who_write_over_a_dead_holder_at_once_the_last_gets_it(store, clock, monkeypatch):
    taken(store, "one")
    three = object_lease_of(store, "three")
    write = store.write

    def both_write(name: str, data: bytes) -> None:
        monkeypatch.setattr(store, "write", write)
        write(name, data)
        three._write()

    monkeypatch.setattr(store, "write", both_write)
    with pytest.raises(ObjectLeaseHeld, match="process 7 on three"):
        taken(store, "two")
    three.beat()


def test_a_beat_that_was_under_way_does_not_undo_a_take_over(store, clock):
    one = taken(store, "one")
    late = [one]

    def overwrite() -> None:
        if late:
            late.pop()._write()

    clock.meanwhile = overwrite
    two = taken(store, "two", take_over=True)
    two.beat()
    with pytest.raises(LeaseLost):
        one.beat()


def test_an_answer_that_was_lost_leaves_the_lease_to_its_maker(store, clock, monkeypatch):
    create = store.create
    monkeypatch.setattr(store, "create", lambda name, data: create(name, data) and False)
    taken(store, "one").check()
    assert clock.now == 1000


def test_after_an_outage_a_holder_goes_on_if_nobody_took_over(store, clock, monkeypatch):
    one = taken(store, "one")
    with monkeypatch.context() as outage:
        outage.setattr(store, "read", lambda name: (_ for _ in ()).throw(InfrastructureError("away")))
        clock.sleep(10)
        with pytest.raises(InfrastructureError, match="away"):
            one.beat()
        one.check()
        clock.sleep(600)
        with pytest.raises(InfrastructureError, match="has not answered for 610 s") as caught:
            one.check()
        assert not isinstance(caught.value, LeaseLost)
    one.beat()
    one.check()


def test_a_lease_that_nobody_can_read_is_one_that_is_silent(store, clock):
    store.write(NAME, b"{")
    taken(store, "one").check()


def test_a_lease_that_was_deleted_is_lost(store, clock):
    one = taken(store, "one")
    store.delete(NAME)
    with pytest.raises(LeaseLost, match="another process"):
        one.beat()
