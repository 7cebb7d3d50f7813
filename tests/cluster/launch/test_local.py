import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.launch.launcher import DriverStatus, launcher_for
from cluster.launch.local import LocalProcess
from configs.base import UserError
from configs.cluster import ClusterConfig
from configs.launchers import LocalLauncher
from tests.cluster.launch.submissions import ROOT, submission

WAITS = """
import os, signal, sys, time
def save(*_):
    print("saved", flush=True)
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
print(os.environ.get("SECRET_KEY"), os.getcwd(), flush=True)
time.sleep(60)
"""


@pytest.fixture
def launcher() -> LocalProcess:
    made = launcher_for(ClusterConfig())
    assert isinstance(made, LocalProcess)
    return made


@pytest.fixture
def reap() -> Iterator[list[str]]:
    """Handles of processes that must be gone after the test."""
    handles: list[str] = []
    yield handles
    local = LocalProcess(LocalLauncher())
    for handle in handles:
        local.kill(handle)
        until(lambda handle=handle: local.status(handle).state == "ended")


def until(happened: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def group_of(status: Path) -> int | None:
    """The process group of a process that lives, from its /proc/<pid>/stat."""
    try:
        state, _, group, *_ = status.read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(group)


def test_a_local_driver_runs_apart_in_the_directory_it_was_submitted_from(tmp_path, launcher, reap):
    sent = submission(tmp_path, "-c", WAITS, SECRET_KEY="sesame")
    launcher.check()
    handle = launcher.submit(sent)
    reap.append(handle)
    pid = json.loads(handle)["pid"]
    until(lambda: "sesame" in sent.log.read_text())
    assert str(sent.directory) in sent.log.read_text()
    assert os.getsid(pid) == pid != os.getsid(0)
    assert launcher.status(handle) == DriverStatus("running", f"process {pid}")
    launcher.stop(handle)
    until(lambda: launcher.status(handle).state == "ended")
    assert launcher.last_output(handle).endswith("saved")
    launcher.stop(handle)
    assert "sesame" not in handle + launcher.render(sent) + "".join(
        path.read_text() for path in sent.log.parent.iterdir() if path != sent.log
    )


def test_submitting_again_gives_the_same_process_and_a_new_number_another(tmp_path, launcher, reap):
    sent = submission(tmp_path, "-c", "print('once')")
    first = launcher.submit(sent)
    reap.append(first)
    until(lambda: launcher.status(first).state == "ended")
    assert launcher.submit(sent) == first
    reap.append(launcher.submit(submission(tmp_path, "-c", "print('twice')", number=2)))
    until(lambda: "twice" in sent.log.read_text())
    assert sent.log.read_text().split() == ["once", "twice"]


def test_of_many_that_submit_at_once_one_starts_the_driver(tmp_path, reap):
    program = f"""
import sys
from pathlib import Path
from cluster.launch.local import LocalProcess
from configs.launchers import LocalLauncher
from tests.cluster.launch.submissions import submission
print(LocalProcess(LocalLauncher()).submit(submission(Path({str(tmp_path)!r}), "-c", "print('started')")))
"""
    racers = [
        subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    handles = {racer.communicate(timeout=60)[0].strip() for racer in racers}
    assert [racer.returncode for racer in racers] == [0, 0, 0] and len(handles) == 1
    log = submission(tmp_path).log
    until(lambda: "started" in log.read_text())
    assert log.read_text().split() == ["started"]


def test_the_packages_of_the_submitted_code_win_over_those_in_the_directory(tmp_path, launcher, reap):
    sent = submission(tmp_path, "-c", "import cluster; print(cluster.__file__)")
    (sent.directory / "cluster").mkdir()
    (sent.directory / "cluster" / "__init__.py").touch()
    reap.append(launcher.submit(sent))
    until(lambda: "__init__" in sent.log.read_text())
    assert Path(sent.log.read_text().strip()) == ROOT / "cluster" / "__init__.py"


def test_killing_ends_all_processes_of_the_driver(tmp_path, launcher):
    sent = submission(tmp_path, "-c", "import subprocess; print('up', flush=True); subprocess.run(['sleep', '60'])")
    handle = launcher.submit(sent)
    pid = json.loads(handle)["pid"]
    until(lambda: "up" in sent.log.read_text())
    launcher.kill(handle)
    until(lambda: launcher.status(handle).state == "ended")
    until(lambda: not [status for status in Path("/proc").glob("[0-9]*/stat") if group_of(status) == pid])
    launcher.kill(handle)


def test_a_run_whose_directory_is_not_here_is_not_started(tmp_path, launcher):
    sent = submission(tmp_path, "-c", "print('never')")
    sent.directory.rmdir()
    with pytest.raises(UserError, match="is not on this machine"):
        launcher.submit(sent)
    assert not sent.log.exists()


def test_a_driver_of_another_machine_is_unknown_here(tmp_path, launcher):
    handle = json.dumps({"host": "elsewhere", "pid": os.getpid(), "born": 1, "log": "log.txt"})
    assert launcher.status(handle) == DriverStatus("unknown", "a process of elsewhere")
    with pytest.raises(UserError, match="elsewhere"):
        launcher.stop(handle)
