"""What a driver says when its Ray is gone."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

DRIVER = """
import sys
from cluster.ray import ray_watch
ray_watch.SECONDS_BETWEEN_CALLS = 0.2
ray_watch.GCS_SILENT_SECONDS, ray_watch.RAYLET_SILENT_SECONDS, ray_watch.EXIT_AFTER_SECONDS = 2.0, 1.0, 3.0

import time
import ray
from cluster.ray.connection import connect
from cluster.ray.executor import RayExecutor
from configs.base import UserError
from configs.pools import PoolConfig

def work(rank, argument):
    time.sleep(1000)

if sys.argv[1] == "waits":
    executor = RayExecutor(PoolConfig(num_ranks=1, cpus_per_rank=1, max_restarts=3), address="local")
    executor.placement()
else:
    connect("local")
print("ready", flush=True)
try:
    if sys.argv[1] == "waits":
        executor.gang(work, None, label="training")
    else:
        time.sleep(1000)  # stands in for a call to Ray that never returns
except UserError as error:
    print(f"concord: {error}", file=sys.stderr, flush=True)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize(
    ("killed", "way", "says"),
    [
        ("gcs_server", "waits", r"concord: training: Ray itself has died: the GCS of its head node at \S+ has not"),
        ("raylet", "waits", r"concord: training: Ray itself has died: the raylet of this node at \S+ has not answered"),
        ("gcs_server", "never returns", r"concord: Ray itself has died: the GCS of its head node at \S+ has not"),
    ],
)
@pytest.mark.long
def test_a_driver_whose_ray_is_gone_ends_soon_with_one_sentence(
    tmp_path: Path, killed: str, way: str, says: str
) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(script), way]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert driver.stdout is not None and driver.stdout.readline() == "ready\n"
    time.sleep(5 if way == "waits" else 0)  # until the rank works
    children = psutil.Process(driver.pid).children(recursive=True)
    (victim,) = [child for child in children if child.name() == killed]
    victim.send_signal(signal.SIGKILL)
    _, said = driver.communicate(timeout=40)
    assert driver.returncode == 71, said
    assert re.match(says, said) and len(said.splitlines()) == 1, said
    _, left = psutil.wait_procs(children, timeout=20)
    assert not left, "a private Ray ends with its driver"
