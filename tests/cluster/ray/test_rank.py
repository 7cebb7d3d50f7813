"""A rank that has nobody left to work for."""

import os
import subprocess
import sys
from pathlib import Path

from cluster.host.network import free_port, interface_of

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


def test_the_interface_is_that_which_holds_the_address():
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.255") is None
