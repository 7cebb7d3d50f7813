"""The copy of unfinished work: what is in the store when, and what comes back."""

import re
import shutil
import threading
from pathlib import Path

import pytest

from cluster.storage import mirror as mirrors
from cluster.storage.mirror import Mirror, UnfinishedLayout, mirrored
from cluster.storage.objects import ObjectStore, open_store
from configs.base import InfrastructureError, LeaseLost

SHAPE = UnfinishedLayout(
    units="checkpoints",
    is_unit=lambda name: re.fullmatch(r"step-\d", name) is not None,
    last="checkpoint.json",
    growing=("metrics.jsonl", "rollbacks.jsonl"),
)


def mirror_of(store: ObjectStore, directory: Path, shape: UnfinishedLayout = SHAPE) -> Mirror:
    return Mirror(store, ".unfinished/train-1", directory, shape, 2)


def save(directory: Path, step: int, weights: str = "weights") -> Path:
    """A checkpoint, and the metrics up to it."""
    with (directory / "metrics.jsonl").open("a") as file:
        file.write(f"step {step}\n")
    unit = directory / "checkpoints" / f"step-{step}"
    unit.mkdir(parents=True)
    (unit / "rank-0.bin").write_text(f"{weights} {step}")
    (unit / "config.json").write_text("{}")
    (unit / "checkpoint.json").write_text(f"{step} of {weights}")
    return unit


def units(store: ObjectStore) -> list[str]:
    return [name.split("/")[3] for name in store.list_names(".unfinished/") if name.endswith("/checkpoint.json")]


def tree_of(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


@pytest.fixture
def work(tmp_path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def restored(store: ObjectStore, tmp_path: Path, notify=print) -> Path:
    """What a machine that has nothing gets."""
    home = tmp_path / "elsewhere"
    mirror_of(store, home).restore(staging=tmp_path / "staging", damaged=tmp_path / "damaged", notify=notify)
    assert not (tmp_path / "staging").exists()
    return home


def test_checkpoints_and_metrics_come_back_as_they_were(any_store, work, tmp_path):
    store = open_store(any_store)
    save(work, 1), save(work, 2)
    (work / "checkpoints" / ".step-3.partial").mkdir()
    (work / "other.bin").write_bytes(b"of no use without its checkpoint")
    mirror = mirror_of(store, work)
    mirror.update()
    assert (units(store), mirror.newest()) == (["step-1", "step-2"], "step-2")
    (work / "other.bin").unlink()
    assert tree_of(restored(store, tmp_path)) == tree_of(work)
    mirror.delete()
    assert store.list_names() == []


def test_a_checkpoint_that_is_there_is_not_sent_again_and_one_that_is_gone_is_deleted(work, tmp_path, monkeypatch):
    store = open_store(tmp_path / "store")
    sent = []
    send = store.upload
    monkeypatch.setattr(store, "upload", lambda name, file: sent.append(name) or send(name, file))
    save(work, 1)
    mirror = mirror_of(store, work)
    mirror.update()
    assert len(sent) == 2
    save(work, 2)
    shutil.rmtree(work / "checkpoints/step-1")
    mirror.update()
    assert len(sent) == 4
    assert units(store) == ["step-2"]
    assert not store.list_names(".unfinished/train-1/checkpoints/step-1/")


def test_what_another_machine_has_sent_is_not_deleted(work, tmp_path):
    store = open_store(tmp_path / "store")
    other = tmp_path / "other"
    other.mkdir()
    save(other, 2)
    mirror_of(store, other).update()
    save(work, 1)
    mirror_of(store, work).update()
    assert units(store) == ["step-1", "step-2"]


def test_another_checkpoint_of_the_same_step_takes_the_place_of_the_first(any_store, work, tmp_path):
    store = open_store(any_store)
    save(work, 1, "wrong")
    mirror_of(store, work).update()
    shutil.rmtree(work / "checkpoints/step-1")
    save(work, 1, "right")
    mirror_of(store, work).update()
    assert tree_of(restored(store, tmp_path)) == tree_of(work)


def test_at_every_moment_what_is_in_the_store_is_whole_and_its_metrics_reach_as_far(work, tmp_path, monkeypatch):
    """Each write is the last before the machine dies."""
    store = open_store(tmp_path / "store")
    save(work, 1)
    mirror_of(store, work).update()
    shutil.rmtree(work / "checkpoints/step-1")
    save(work, 1, "other"), save(work, 2)
    moments = []

    def look() -> None:
        found = {}
        for unit in units(store):
            prefix = f".unfinished/train-1/checkpoints/{unit}"
            step, _, weights = store.read(f"{prefix}/checkpoint.json").decode().partition(" of ")
            assert store.read(f"{prefix}/rank-0.bin").decode() == f"{weights} {step}"
            assert f"step {step}\n" in store.read(".unfinished/train-1/metrics.jsonl").decode()
            found[unit] = weights
        moments.append(found)

    for name in ("write", "upload", "delete"):
        monkeypatch.setattr(store, name, looking(getattr(store, name), look))
    mirror_of(store, work).update()
    assert moments[0] == {"step-1": "weights"}
    assert {"step-1": "weights", "step-2": "weights"} in moments
    assert moments[-1] == {"step-1": "other", "step-2": "weights"}


def looking(call, look):
    def then_look(*args):
        call(*args)
        look()

    return then_look


def test_a_damaged_checkpoint_is_told_of_and_the_others_come(work, tmp_path):
    store, told = open_store(tmp_path / "store"), []
    save(work, 1), save(work, 2)
    mirror_of(store, work).update()
    store.write(".unfinished/train-1/checkpoints/step-2/rank-0.bin", b"changed 2")
    home = restored(store, tmp_path, told.append)
    assert [path.name for path in (home / "checkpoints").iterdir()] == ["step-1"]
    assert len(told) == 1
    assert told[0].startswith("step-2 is left out: ")


def test_a_disk_that_is_gone_empties_no_store(work, tmp_path):
    store = open_store(tmp_path / "store")
    save(work, 1)
    mirror_of(store, work).update()
    shutil.rmtree(work)
    mirror_of(store, work).update()
    assert units(store) == ["step-1"]


def test_a_checkpoint_that_is_deleted_while_it_is_sent_is_none(work, tmp_path, monkeypatch):
    store = open_store(tmp_path / "store")
    unit = save(work, 1)
    send = store.upload

    def deleting(name, file):
        if unit.exists():
            shutil.rmtree(unit)
        send(name, file)

    monkeypatch.setattr(store, "upload", deleting)
    mirror_of(store, work).update()
    assert units(store) == []


def test_a_checkpoint_is_held_while_it_is_read(work, tmp_path):
    from contextlib import contextmanager

    held = []

    @contextmanager
    def hold(directory):
        held.append(directory.name)
        yield

    save(work, 1)
    shape = UnfinishedLayout(SHAPE.units, SHAPE.is_unit, SHAPE.last, SHAPE.growing, hold)
    mirror_of(open_store(tmp_path / "store"), work, shape).update()
    assert held == ["step-1"]


def test_who_may_not_commit_sends_no_more(work, tmp_path):
    store = open_store(tmp_path / "store")
    save(work, 1)

    def lost() -> None:
        raise InfrastructureError("it was taken over")

    with pytest.raises(InfrastructureError, match="taken over"):
        mirror_of(store, work).update(lost)
    assert store.list_names() == []


class Lease:
    """One that can be lost."""

    def __init__(self) -> None:
        self.lost = threading.Event()

    def check(self) -> None:
        """Raise LeaseLost once it is lost."""
        if self.lost.is_set():
            raise LeaseLost("it was taken over")


def test_who_loses_the_lease_while_the_files_are_sent_leaves_the_checksums_of_the_successor(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, mine = open_store(tmp_path / "store"), Lease()
    sent: list[str] = []
    sums = ".unfinished/train-1/checkpoints/step-1/.files.json"
    send = store.upload

    def losing(name: str, file: Path) -> None:
        send(name, file)
        sent.append(name)
        if len(sent) == 2:  # the last: both were allowed
            store.write(sums, b"of the successor")
            mine.lost.set()

    monkeypatch.setattr(store, "upload", losing)
    save(work, 1)
    with pytest.raises(LeaseLost):
        mirror_of(store, work).update(mine.check)
    assert store.read(sums) == b"of the successor"


def test_who_loses_the_lease_while_a_file_is_sent_does_not_send_it_over_that_of_the_successor(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, mine = open_store(tmp_path / "store"), Lease()
    weights = ".unfinished/train-1/checkpoints/step-1/rank-0.bin"
    send = store.upload

    def losing(name: str, file: Path) -> None:
        send(name, file)
        if name == weights and not mine.lost.is_set():
            store.write(weights, b"of the successor")
            mine.lost.set()

    monkeypatch.setattr(store, "upload", losing)
    save(work, 1)
    with pytest.raises(LeaseLost):
        mirror_of(store, work).update(mine.check)
    assert store.read(weights) == b"of the successor"


def test_who_loses_the_lease_while_a_checkpoint_is_deleted_leaves_that_of_the_successor(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, mine = open_store(tmp_path / "store"), Lease()
    save(work, 1)
    mirror = mirror_of(store, work)
    mirror.update()
    save(work, 2)
    shutil.rmtree(work / "checkpoints/step-1")
    whole, delete = store.list_names(".unfinished/train-1/checkpoints/step-1/"), store.delete

    def losing(name: str) -> None:
        delete(name)
        if not mine.lost.is_set():
            store.write(name, b"of the successor")
            mine.lost.set()

    monkeypatch.setattr(store, "delete", losing)
    with pytest.raises(LeaseLost):
        mirror.update(mine.check)
    assert store.list_names(".unfinished/train-1/checkpoints/step-1/") == whole


def test_the_thread_sends_what_is_saved_while_the_work_goes_on(work, tmp_path, monkeypatch):
    monkeypatch.setattr(mirrors, "SECONDS_BETWEEN_UPDATES", 0.01)
    store, arrived = open_store(tmp_path / "store"), threading.Event()
    write = store.write

    def noting(name, data):
        write(name, data)
        if name.endswith("checkpoint.json"):
            arrived.set()

    monkeypatch.setattr(store, "write", noting)
    with mirrored(mirror_of(store, work), check=lambda: None, notify=print):
        save(work, 1)
        assert arrived.wait(30)
    assert units(store) == ["step-1"]
    assert "mirror" not in [thread.name for thread in threading.enumerate()]


def test_when_the_work_ends_in_an_error_the_last_checkpoint_is_sent_and_when_it_ends_well_no_more(
    work, tmp_path, monkeypatch
):
    monkeypatch.setattr(mirrors, "SECONDS_BETWEEN_UPDATES", 1000)
    store = open_store(tmp_path / "store")
    with mirrored(mirror_of(store, work), check=lambda: None, notify=print):
        save(work, 1)
    assert units(store) == []
    with pytest.raises(InfrastructureError), mirrored(mirror_of(store, work), check=lambda: None, notify=print):
        save(work, 2)
        raise InfrastructureError("stopped")
    assert units(store) == ["step-1", "step-2"]
    shutil.rmtree(work / "checkpoints")
    mirror_of(store, work).delete()
    with pytest.raises(InfrastructureError), mirrored(mirror_of(store, work), check=lambda: None, notify=print):
        raise InfrastructureError("before there was a checkpoint")
    assert store.list_names() == []


def test_after_an_outage_checkpoints_are_sent_again_and_after_a_lost_lease_no_more(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors, "SECONDS_BETWEEN_UPDATES", 0.01)
    monkeypatch.setattr(mirrors, "SECONDS_AFTER_FAILURE", 0.01)
    told: list[str] = []
    arrived, heard = threading.Event(), threading.Event()
    store = open_store(tmp_path / "store")
    outage = [InfrastructureError("away"), InfrastructureError("away")]

    def check() -> None:  # several transfers call this at once
        if arrived.is_set():
            raise LeaseLost("another has it")

    def notify(text: str) -> None:
        told.append(text.rpartition(": ")[2])
        if told[-1] == "another has it":
            heard.set()

    names, write = store.list_names, store.write

    def answering(prefix: str) -> list[str]:  # each update begins with this, in the mirror's own thread
        if outage:
            raise outage.pop()
        return names(prefix)

    def noting(name: str, data: bytes) -> None:
        write(name, data)
        if name.endswith("checkpoint.json"):
            arrived.set()

    monkeypatch.setattr(store, "list_names", answering)
    monkeypatch.setattr(store, "write", noting)
    with mirrored(mirror_of(store, work), check=check, notify=notify):
        save(work, 1)
        assert arrived.wait(30)
        save(work, 2)
        assert heard.wait(30)  # not only found: once the block has ended it may go untold
    assert told == ["away", "another has it"]
    assert units(store) == ["step-1"]
    assert not [name for name in names(".unfinished/") if "step-2" in name]
    assert store.read(".unfinished/train-1/metrics.jsonl") == b"step 1\n"


def test_a_store_that_refuses_stops_no_work(work, tmp_path, monkeypatch):
    monkeypatch.setattr(mirrors, "SECONDS_BETWEEN_UPDATES", 0.01)
    monkeypatch.setattr(mirrors, "SECONDS_AFTER_FAILURE", 0.01)
    (tmp_path / "store").write_text("a file")
    told, heard = [], threading.Event()

    def notify(text: str) -> None:
        told.append(text)
        heard.set()

    with mirrored(mirror_of(open_store(tmp_path / "store"), work), check=lambda: None, notify=notify):
        save(work, 1)
        assert heard.wait(30)
    assert told[0].startswith("checkpoints are not copied to the store for now: ")
