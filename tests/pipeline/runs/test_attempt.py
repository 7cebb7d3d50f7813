"""An attempt's process as its driver sees it."""

import subprocess
import sys

DRIVER = """
import sys
from pipeline.runs.attempt import AttemptProcess

work = "for n in range(20_000): print('line', n)\\nprint('concord: a sentence; mend it')\\nexit(1)"
child = [sys.executable, "-c", work]
with AttemptProcess(child, grace_seconds=1) as process:
    ended = process.wait(60)
print(ended, process.exit_code, process.reason(), file=sys.stderr)
"""


def test_a_log_that_cannot_be_written_does_not_hold_the_attempt_up() -> None:
    """What it prints is more than the pipe holds; the driver's own output goes to a full disk."""
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", DRIVER]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=90)
    assert done.stderr.splitlines()[0] == "True 1 a sentence; mend it"
