import os
import signal
import subprocess
from pathlib import Path

import pytest

from cluster.host import processes
from cluster.host.processes import StuckProcess, end_process, signal_process, start_ticks


def test_a_process_is_told_from_a_later_one_of_the_same_number():
    process = subprocess.Popen(["sleep", "60"])
    born = start_ticks(process.pid)
    assert born is not None and born == start_ticks(process.pid) and born >= start_ticks(os.getpid())
    signal_process(process.pid, born + 1, signal.SIGKILL)
    assert process.poll() is None
    signal_process(process.pid, born, signal.SIGKILL)
    assert process.wait(timeout=10) == -signal.SIGKILL
    assert start_ticks(process.pid) is None
    signal_process(process.pid, born, signal.SIGKILL)  # whoever has ended is left alone


def test_the_birth_is_in_clock_ticks_as_handles_on_disk_hold_it():
    field_22 = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[22 - 3]
    assert start_ticks(os.getpid()) == int(field_22)


def test_an_ended_process_is_gone_and_a_later_one_of_its_number_is_left_alone():
    process = subprocess.Popen(["sleep", "60"])
    born = start_ticks(process.pid)
    assert born is not None
    end_process(process.pid, born + 1)
    assert process.poll() is None
    end_process(process.pid, born)
    assert start_ticks(process.pid) is None and process.wait(timeout=10) == -signal.SIGKILL


def test_a_process_that_no_kill_ends_is_waited_for_in_vain_for_a_while_only(monkeypatch):
    """As one in state D, which no test can make and take away again."""
    process = subprocess.Popen(["sleep", "60"])
    born = start_ticks(process.pid)
    assert born is not None
    monkeypatch.setattr(processes, "signal_process", lambda *arguments: None)
    with pytest.raises(StuckProcess, match=rf"^process {process.pid} was killed 0.2 s ago and is still there"):
        end_process(process.pid, born, timeout_seconds=0.2)
    process.kill()
    process.wait()
