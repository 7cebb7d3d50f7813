"""Leases on what lies behind a URL, which are held in the working copy and in the store."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from time import monotonic
from types import SimpleNamespace
from uuid import uuid4

import pytest

from cluster.leases import object_lease
from cluster.leases.fence import LEASES, Fence
from cluster.leases.lease import LeaseHeld, holder, store_holder, store_lease
from cluster.leases.object_lease import ObjectLeaseRecord
from cluster.storage.objects import ObjectStore, open_store
from configs.base import InfrastructureError, LeaseLost
from tests.cluster.leases.test_lease import ARTIFACT, ROOT
from tests.pipeline.store.test_remote import run_on
from tests.pipeline.toys import instead_of, planned, repeat

STEP = "step 'model'"
THERE = f"{LEASES}/{ARTIFACT}.json"
DIE = """
import os, signal, sys
from pathlib import Path
from cluster.storage.objects import open_store
from cluster.leases.lease import store_lease
with store_lease(open_store(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], what="step 'model'"):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def store() -> ObjectStore:
    return open_store(f"memory://{uuid4().hex}")


@pytest.fixture
def quick(monkeypatch) -> None:
    """Beats, looks and waits of next to no time."""
    monkeypatch.setattr(object_lease, "HEARTBEAT_SECONDS", 0.01)
    monkeypatch.setattr(object_lease, "_POLL_SECONDS", 0.05)
    monkeypatch.setattr(object_lease, "SETTLE_SECONDS", 0.1)


def held(store: ObjectStore, home: Path, *, take_over: bool = False):
    return store_lease(store, home, ARTIFACT, what=STEP, take_over=take_over)


def test_without_a_store_it_is_the_lease_of_a_directory(tmp_path):
    with store_lease(None, tmp_path, ARTIFACT, what=STEP) as mine:
        assert type(mine) is Fence
        assert store_holder(None, tmp_path, ARTIFACT) == holder(tmp_path, ARTIFACT) is not None


def test_another_machine_is_refused_while_the_holder_lives_and_not_after(store, tmp_path, quick):
    with held(store, tmp_path / "one") as mine:
        who = f"process {os.getpid()} on "
        with pytest.raises(LeaseHeld, match=f"^step 'model' is being made by {who}"), held(store, tmp_path / "two"):
            pass
        mine.check()
        assert store_holder(store, tmp_path / "two", ARTIFACT).startswith(who)
    assert store_holder(store, tmp_path / "two", ARTIFACT) is None
    assert store.list_names() == []
    with held(store, tmp_path / "two"):
        pass


def test_a_lease_ends_with_its_block_also_when_that_fails(store, tmp_path):
    with pytest.raises(ZeroDivisionError), held(store, tmp_path):
        raise ZeroDivisionError
    assert store.list_names() == []


def test_a_lease_that_is_lost_in_the_store_is_lost_here_too(store, tmp_path, quick, monkeypatch):
    """Ranks look at the file here only."""
    with held(store, tmp_path / "one") as mine:
        ranks, seen = Fence(mine.path, mine.token), Event()
        beat = object_lease.ObjectLease.beat

        def noting(self):
            try:
                beat(self)
            except LeaseLost:
                seen.set()
                raise

        monkeypatch.setattr(object_lease.ObjectLease, "beat", noting)
        with held(store, tmp_path / "two", take_over=True) as theirs:
            assert seen.wait(30)
            deadline = monotonic() + 30
            while '"token": ""' not in ranks.path.read_text():
                assert monotonic() < deadline
            for fence in (mine, ranks):
                with pytest.raises(LeaseLost, match=rf"is being made by process {os.getpid()} on .*, who took it over"):
                    fence.check()
                with pytest.raises(LeaseLost):
                    fence.check_remote()
            theirs.check_remote()
    assert store.list_names() == []


def test_a_killed_holder_is_not_waited_for_in_its_own_working_copy(tmp_path, monkeypatch):
    url, home = (tmp_path / "store").as_uri(), tmp_path / "work"
    subprocess.run([sys.executable, "-c", DIE, url, str(home), ARTIFACT], cwd=ROOT, timeout=60)
    store = open_store(url)
    assert store.list_names() == [THERE]
    assert store_holder(store, home, ARTIFACT) is None
    assert store_holder(store, tmp_path / "elsewhere", ARTIFACT) is not None

    def never(seconds):
        raise AssertionError("it waits")

    monkeypatch.setattr(object_lease, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=never))
    with held(store, home):
        pass
    assert store.list_names() == []


def test_a_holder_whose_last_beat_is_old_is_none(store, tmp_path):
    record = ObjectLeaseRecord(token="t", host="b", pid=7, since="now", time=datetime.now(UTC))
    store.write(THERE, record.model_dump_json().encode())
    assert store_holder(store, tmp_path, ARTIFACT) == "process 7 on b since now"
    old = record.model_copy(update={"time": datetime.now(UTC) - timedelta(seconds=61)})
    store.write(THERE, old.model_dump_json().encode())
    assert store_holder(store, tmp_path, ARTIFACT) is None


def test_a_store_that_is_away_when_the_work_ends_ends_no_work(store, tmp_path, monkeypatch):
    def away(name):
        raise InfrastructureError("away")

    with held(store, tmp_path):
        monkeypatch.setattr(store, "read", away)


def test_during_an_outage_a_holder_works_on_and_writes_nothing_there(store, tmp_path, quick, monkeypatch):
    asked = Event()

    def away(name):
        asked.set()
        raise InfrastructureError("away")

    with held(store, tmp_path) as mine:
        with monkeypatch.context() as outage:
            outage.setattr(object_lease, "SURE_SECONDS", 0.0)
            outage.setattr(store, "read", away)
            assert asked.wait(30)
            mine.check()
            with pytest.raises(InfrastructureError, match="has not answered"):
                mine.check_remote()
        mine.check_remote()


def test_of_two_machines_one_makes_a_step(tmp_path, quick):
    url, stages = f"memory://{uuid4().hex}", {}

    def meanwhile(config, *, text, out, executor):
        with pytest.raises(LeaseHeld, match=r"^step 'twice' is being made by process"):
            run_on(url, tmp_path / "two", stages)
        return repeat(config, text=text, out=out, executor=executor)

    stages = instead_of("repeat", meanwhile)
    assert "twice" in run_on(url, tmp_path / "one", stages).made
    assert not [name for name in open_store(url).list_names() if name.startswith(LEASES)]


def test_what_another_machine_made_while_this_one_waited_is_fetched(tmp_path, monkeypatch):
    url = f"memory://{uuid4().hex}"
    take = object_lease.ObjectLease.take
    waited = []

    def late(self, **how):
        if not waited:
            waited.append(self)
            run_on(url, tmp_path / "one")
        take(self, **how)

    monkeypatch.setattr(object_lease.ObjectLease, "take", late)
    outcome = run_on(url, tmp_path / "two")
    assert outcome.made == []
    assert planned().steps["book"].artifact in {artifact.dir.name for artifact in outcome.artifacts.values()}
