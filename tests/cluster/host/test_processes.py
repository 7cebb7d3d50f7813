import os
import signal
import subprocess

from cluster.host.processes import birth_of, signal_process


def test_a_process_is_told_from_a_later_one_of_the_same_number():
    process = subprocess.Popen(["sleep", "60"])
    born = birth_of(process.pid)
    assert born is not None and born == birth_of(process.pid) and born >= birth_of(os.getpid())
    signal_process(process.pid, born + 1, signal.SIGKILL)
    assert process.poll() is None
    signal_process(process.pid, born, signal.SIGKILL)
    assert process.wait(timeout=10) == -signal.SIGKILL
    assert birth_of(process.pid) is None
    signal_process(process.pid, born, signal.SIGKILL)  # whoever has ended is left alone
