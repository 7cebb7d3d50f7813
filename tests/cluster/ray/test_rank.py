"""A rank that has nobody left to work for."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.executor import Rank
from cluster.host.network import free_port, interface_of
from cluster.ray import rank

ROOT = Path(__file__).parents[3]
PROGRAM = """
import sys, threading
from cluster.ray import rank
rank.RANK_GIVES_UP_SECONDS, rank.SECONDS_BETWEEN_BEATS = 0.5, 0.1
threading.Thread(target=rank._exit_when_cut_off, args=(int(sys.argv[1]), sys.argv[2] or None)).start()
"""


def rank_with(raylet: int, driver: str) -> int:
    """Return the exit code of a process that watches this raylet and this driver."""
    return subprocess.run([sys.executable, "-c", PROGRAM, str(raylet), driver], cwd=ROOT, timeout=60).returncode


def test_a_rank_ends_when_it_no_longer_reaches_its_driver():
    assert rank_with(os.getpid(), f"127.0.0.1:{free_port()}") == 1


def test_a_rank_ends_without_its_raylet():
    assert rank_with(1, "") == 1


@pytest.mark.parametrize("name", ["HIP_VISIBLE_DEVICES", "ONEAPI_DEVICE_SELECTOR", "HABANA_VISIBLE_MODULES"])
def test_a_spare_is_shown_the_device_of_its_rank_whoever_made_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spare has no accelerator of its own, and would see all of them."""
    for other in rank.VISIBLE_DEVICES:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "3")
    context = SimpleNamespace(get_accelerator_ids=lambda: {"GPU": ["3"], "HPU": []})
    monkeypatch.setattr(rank.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(rank, "_own_address", lambda: "127.0.0.1")
    shown = rank._show_own_devices()
    assert shown == {name: "3"}
    monkeypatch.delenv(name)
    seen: list[str | None] = []
    one = Rank(0, 1, "cpu", 1, "127.0.0.1", 1, num_restarts=0)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    rank.RankProcess.stand_by(SimpleNamespace(), lambda: seen.append(os.environ.get(name)), one, shown)  # type: ignore[arg-type]
    assert seen == ["3"]


def test_the_interface_is_that_which_holds_the_address():
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.255") is None
