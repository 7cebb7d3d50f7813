"""The thread that ends hangs: where the file system hiccups, and how a hang of many ranks is judged."""

import errno
import faulthandler
import threading
import time
from pathlib import Path

import pytest

from cluster.executor import Rank
from training.loop.hangs import Verdict, heading, read_verdict
from training.loop.watchdog import Watchdog


def test_a_file_system_that_is_away_for_a_while_does_not_end_the_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, faulthandler's last deadline would pass, and end a healthy rank."""
    set_anew, answers = threading.Semaphore(0), iter([True] * 3)

    def exists(self: Path) -> bool:
        if next(answers, False):
            raise OSError(errno.ESTALE, "Stale file handle")
        return False

    monkeypatch.setattr(Path, "exists", exists)
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda *_, **__: set_anew.release())
    with Watchdog(tmp_path, Rank(0, 2, "cpu", 1, "127.0.0.1", 1, num_restarts=0), timeout_seconds=0.4) as watchdog:
        for _ in range(8):
            watchdog.beat("a step")
            assert set_anew.acquire(timeout=10)
        assert watchdog._thread.is_alive()


def test_the_first_rank_judges_for_all_and_the_others_read_what_it_wrote(tmp_path: Path) -> None:
    """A thousand ranks that each read what a thousand wrote would take minutes, and a network file system with them."""
    ranks = [Rank(index, 3, "cpu", 1, "127.0.0.1", 1, num_restarts=0) for index in range(3)]
    watchdogs = [Watchdog(tmp_path, rank, timeout_seconds=60) for rank in ranks]
    assert [one._make_directory() for one in watchdogs] == [True, False, False]
    directory = watchdogs[0]._directory
    for rank, stack in enumerate(("in all_reduce", "in all_reduce", "prefetch.py")):
        where = 'File "/env/torch/distributed/c10d.py", line 1 ' if "all_reduce" in stack else ""
        (directory / f"rank-{rank:05d}.txt").write_text(heading(rank, 3, f"host{rank}", "a step") + where + stack)
    assert read_verdict(directory) is None
    began = time.monotonic()
    verdict = watchdogs[0]._judge()
    assert verdict == watchdogs[1]._wait_for_verdict() == watchdogs[2]._wait_for_verdict()
    assert (verdict.suspects, verdict.host) == ((2,), "host2")
    assert time.monotonic() - began < 5.0
    assert read_verdict(directory) == Verdict((2,), "host2", verdict.text)
    (notice,) = (tmp_path / "notices.txt").read_text().splitlines()
    assert "the others wait for rank 2 on host2" in notice
