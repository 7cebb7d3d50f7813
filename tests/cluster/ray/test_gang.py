"""Gangs on Ray when something goes wrong: spares, what is left over, signals."""

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster.executor import Rank
from cluster.host.processes import start_ticks
from cluster.ray import spares
from cluster.ray.executor import RayExecutor
from cluster.ray.rank import NICENESS
from configs.base import UserError
from configs.pools import PoolConfig

ROOT = Path(__file__).parents[3]
NUM_RANKS = 2


@pytest.fixture
def gang(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return RayExecutor.gang for two ranks, whose spares are started at once."""
    monkeypatch.setattr(spares, "START_AFTER_SECONDS", 0.0)
    return RayExecutor(PoolConfig(num_ranks=NUM_RANKS, cpus_per_rank=1, max_restarts=1), address="local").gang


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Make a directory with a pipe, `spares`, that each spare writes to."""
    os.mkfifo(tmp_path / "spares")
    return tmp_path


def niceness() -> int:
    """Return the niceness of this thread."""
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def get_warm(place: Path) -> None:
    """Warm up a spare: write down its environment and priority, and tell the ranks through the pipe."""
    state = os.environ["OMP_NUM_THREADS"], os.environ["RANK"], niceness() == NICENESS
    (place / f"spare-{os.getpid()}").write_text(repr(state))
    (place / "spares").write_text("here")


def get_warm_in_vain(place: Path) -> None:
    get_warm(place)
    raise ImportError("no module named nothing")


def wait_for_spares(place: Path) -> None:
    """Return once the last spare is being warmed, when the driver has noted that those before it are ready."""
    for _ in range(NUM_RANKS):
        (place / "spares").read_text()


def lose_a_rank(rank: Rank, place: Path) -> tuple[int, int, bool]:
    """Kill rank 1 once there are spares, with rank 0 stopped; after the restart return rank 0's pid, its niceness, and
    whether the old rank 0 is gone."""
    if rank.num_restarts == 0:
        (place / f"rank-{rank.index}").write_text(str(os.getpid()))
        if rank.index == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
        wait_for_spares(place)
        os.kill(os.getpid(), signal.SIGKILL)
    before = int((place / "rank-0").read_text())
    return os.getpid(), niceness(), start_ticks(before) is None


def wait_and_end(rank: Rank, place: Path) -> int:
    if rank.index == 0:
        wait_for_spares(place)
    return rank.num_restarts


def call_the_driver(rank: Rank, given: tuple[Path, int]) -> None:
    """Wait for ever; rank 0 sends the driver a signal once there are spares."""
    place, driver = given
    (place / f"rank-{rank.index}").write_text(str(os.getpid()))
    if rank.index == 0:
        wait_for_spares(place)
        os.kill(driver, signal.SIGUSR1)
    signal.pause()


def hold_still(rank: Rank, place: Path) -> None:
    if rank.index == 0:
        wait_for_spares(place)
        (place / "ready").write_text("all are there")
    signal.pause()


def spares_of(place: Path) -> dict[int, str]:
    return {int(path.name.removeprefix("spare-")): path.read_text() for path in place.glob("spare-*")}


def gone(pids: Iterable[int], *, seconds: float) -> bool:
    """Return whether all these processes end in time."""
    waiting = select.poll()
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        waiting.register(descriptor, select.POLLIN)
        if not waiting.poll(1000 * seconds):
            return False
        waiting.unregister(descriptor)
        os.close(descriptor)
    return True


def below(pid: int) -> list[int]:
    """List all descendants of a process but Ray's agents, which take a minute to notice that they are alone."""
    listing = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listing.splitlines()[1:]]
    found = [pid]
    for known in found:
        found += [int(row[0]) for row in rows if int(row[1]) == known and "Agent" not in row[2]]
    return found[1:]


def test_a_warm_spare_takes_over_and_the_old_process_is_gone_before(gang, place):
    pid, nice, old_is_gone = gang(lose_a_rank, place, label="losing", warm=partial(get_warm, place))
    spares = spares_of(place)
    assert spares[pid] == repr(("1", "0", True))
    assert nice < NICENESS and old_is_gone
    assert len(spares) == NUM_RANKS and gone(spares, seconds=20)


def test_a_spare_that_cannot_be_made_is_told_of_and_harms_nothing(gang, place, capsys):
    assert gang(wait_and_end, place, label="going on", warm=partial(get_warm_in_vain, place)) == 0
    assert "no spare process for rank 0" in capsys.readouterr().err
    assert gone(spares_of(place), seconds=20)


def test_an_error_of_the_driver_ends_all_processes(gang, place):
    def refuse(number: int, frame: object) -> None:
        raise UserError("stopped by a signal; start again")

    before = signal.signal(signal.SIGUSR1, refuse)
    try:
        with pytest.raises(UserError, match=r"^stopped by a signal; start again$"):
            gang(call_the_driver, (place, os.getpid()), label="waiting", warm=partial(get_warm, place))
    finally:
        signal.signal(signal.SIGUSR1, before)
    ranks = [int(path.read_text()) for path in place.glob("rank-*")]
    assert len(ranks) == NUM_RANKS and gone([*ranks, *spares_of(place)], seconds=20)


def test_a_killed_driver_leaves_no_process(place):
    program = (
        "import sys; from functools import partial; from pathlib import Path; from cluster.ray import spares\n"
        "from cluster.ray.executor import RayExecutor; from configs.pools import PoolConfig\n"
        "from tests.cluster.ray.test_gang import get_warm, hold_still\n"
        "spares.START_AFTER_SECONDS = 0.0\n"
        "gang = RayExecutor(PoolConfig(num_ranks=2, cpus_per_rank=1), address='local').gang\n"
        "gang(hold_still, Path(sys.argv[1]), label='holding', warm=partial(get_warm, Path(sys.argv[1])))\n"
    )
    os.mkfifo(place / "ready")
    driver = subprocess.Popen([sys.executable, "-c", program, str(place)], cwd=ROOT)
    assert (place / "ready").read_text() == "all are there"
    processes = below(driver.pid)
    assert set(spares_of(place)) <= set(processes)
    driver.kill()
    driver.wait()
    assert gone(processes, seconds=30)
