import os
import signal
import subprocess
import sys
from pathlib import Path

from cluster.launch.entry import entry_command
from tests.cluster.launch.submissions import ROOT, submission

PROGRAM = """
import os, signal, sys
def save(*_):
    print("saved", flush=True)
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
print(sys.argv[1:], os.getcwd(), flush=True)
signal.pause()
"""


def start(command: str) -> subprocess.Popen[str]:
    """Begin a driver as Ray does: by a shell, in a session of its own, with the address of the Ray."""
    env = os.environ | {"RAY_ADDRESS": "10.0.0.1:6379", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.Popen(
        f"exec {command}", shell=True, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, start_new_session=True,
        stderr=subprocess.STDOUT,
    )  # fmt: skip


def test_what_a_driver_says_while_it_saves_is_in_the_log_and_in_rays_and_its_exit_code_is_passed_on(tmp_path):
    sent = submission(tmp_path, "-c", PROGRAM)
    sent.log.parent.mkdir()
    driver = start(entry_command(sent, expect=["A_KEY"]))
    assert driver.stdout is not None
    note = driver.stdout.readline() + driver.stdout.readline()
    assert "A_KEY" in note and "not set here" in note
    assert driver.stdout.readline().strip() == f"['--ray-address', '10.0.0.1:6379'] {sent.directory}"
    os.killpg(driver.pid, signal.SIGTERM)  # as Ray stops a job
    assert driver.stdout.read().strip() == "saved"
    assert driver.wait(timeout=10) == 75
    assert sent.log.read_text().splitlines()[-1] == "saved" and note in sent.log.read_text()


def test_a_head_node_without_the_runs_directory_says_so(tmp_path):
    sent = submission(tmp_path, "-c", PROGRAM)
    sent.log.parent.mkdir()
    sent.directory.rmdir()
    driver = start(entry_command(sent))
    said = driver.communicate(timeout=60)[0]
    assert driver.returncode == 1 and said.startswith(f"concord: {sent.directory}, where the run was submitted from")


def test_a_head_node_without_the_store_says_so(tmp_path):
    driver = start(entry_command(submission(tmp_path, "-c", PROGRAM)))
    said = driver.communicate(timeout=60)[0]
    assert driver.returncode == 1 and f"cannot write {tmp_path / 'run'}" in said and "Traceback" not in said
