"""Whole runs on unlike ranks, by the commands that a user gives: on hosts that come and go, and onto other members."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.host_cluster import MODEL, RECIPE, Cluster, Run, make_data
from tests.hosts import Host, hosts, needs_hosts, ray_head, ray_join, ray_token, ray_variables
from training.checkpoint.directory import read_record
from training.log.metrics_file import METRICS_FILE, StepMetrics, read_metrics
from training.records import CHECKPOINTS, CheckpointRecord, list_checkpoints

ROOT = Path(__file__).parents[2]
QUOTAS = (1.0, 0.6, 0.35)
"""Cores of each host."""

NUM_STEPS = 110
"""So many that a gang that lost a member has time to take it back: it grows a minute after its start."""

FEW_STEPS = 12
SHARED = re.compile(r"sequences are shared by speed, (.*?): (.*); eta [\d.]+ is predicted")
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with all steps before training."""
    return make_data(tmp_path_factory.mktemp("data"))


def write_recipe(directory: Path, data: Path, *, num_steps: int) -> Path:
    """Write a recipe whose store is a copy of the data."""
    store = directory / "store"
    subprocess.run(["cp", "-r", str(data), str(store)], check=True)
    recipe = directory / "recipe.yaml"
    recipe.write_text(RECIPE.format(store=store) + MODEL.format(steps=num_steps, every=5), encoding="utf-8")
    return recipe


def start(recipe: Path, cluster: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Start `concord run` of a recipe; what it prints goes to a file beside it."""
    file = recipe.with_name("cluster.yaml")
    file.write_text(yaml.safe_dump(cluster), encoding="utf-8")
    command = [sys.executable, "-m", "pipeline.cli", "run", str(recipe), "--cluster", str(file)]
    with recipe.with_name("printed").open("ab") as printed:
        return subprocess.Popen(command, cwd=ROOT, stdout=printed, stderr=printed)


def run(recipe: Path, cluster: dict[str, Any]) -> None:
    """Run a recipe to its end."""
    assert start(recipe, cluster).wait() == 0, recipe.with_name("printed").read_text()[-3000:]


def out_of(recipe: Path) -> Path:
    (out,) = (recipe.parent / "store").glob("train-*")
    return out


def trained_alone(directory: Path, data: Path, *, num_steps: int) -> list[StepMetrics]:
    """Train on one rank in one process; the metrics of all steps."""
    directory.mkdir()
    recipe = write_recipe(directory, data, num_steps=num_steps)
    run(
        recipe,
        {"executor": "inline", "pools": {"default": {"device": "cpu", "cpus_per_rank": 1, "micro_batch_size": 4}}},
    )
    return read_metrics(out_of(recipe) / METRICS_FILE)


def assert_same_training(found: Sequence[StepMetrics], expected: Sequence[StepMetrics]) -> None:
    """Each step read the same samples, and its loss is the same but for rounding."""
    assert [(line.step, line.first_place, line.targets) for line in found] == [
        (line.step, line.first_place, line.targets) for line in expected
    ]
    assert [line.loss for line in found] == pytest.approx([line.loss for line in expected], rel=1e-4)


def shares(out: Path) -> list[tuple[str, list[str]]]:
    """Of each start of the ranks: why the shares are as they are, and which members have some."""
    found = SHARED.findall((out / "notices.txt").read_text())
    return [(why, re.findall(r"(member \d): ", words)) for why, words in found]


def newest(out: Path) -> CheckpointRecord:
    return read_record(list_checkpoints(out / CHECKPOINTS)[0])


def wait_for(condition: Callable[[], Any], *, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


@contextmanager
def unlike_hosts(directory: Path) -> Iterator[Cluster]:
    """A Ray of three hosts, each with its name as a label and a CPU quota of its own; the first is the head."""
    with hosts(directory, len(QUOTAS)) as machines:
        token, head = ray_token(directory), machines[0]
        launcher = f'{{kind: ray, dashboard_address: "http://{head.address}:8265"}}'
        cluster = Cluster(machines, launcher, ray_variables(token))
        ray_head(head, token, dashboard=True, labels={"zone": head.name})
        for host in machines[1:]:
            join(cluster, host)
        for host, cores in zip(machines, QUOTAS, strict=True):
            host.cpu_quota(cores)
        yield cluster


def join(cluster: Cluster, host: Host) -> None:
    ray_join(host, f"{cluster.head.address}:6379", cluster.token, labels={"zone": host.name})


@needs_hosts
def test_hosts_of_unlike_speed_that_come_and_go_train_what_one_rank_trains(tmp_path, data):
    expected = trained_alone(tmp_path / "alone", data, num_steps=NUM_STEPS)
    with unlike_hosts(tmp_path) as cluster:
        kinds = [{"num_ranks": 1, "labels": {"zone": host.name}} for host in cluster.hosts]
        pool = f"members: {kinds}, min_ranks: 1, emulated_seconds_per_sequence: 0.1, warm_spares: false"
        job = Run(cluster, tmp_path, "unlike")
        job.prepare(NUM_STEPS, data, ranks=pool)
        job.submit()
        job.wait_for(lambda: job.last_step() >= 12)
        speeds = newest(job.out).speeds
        cluster.hosts[2].power_off()
        job.wait_for(lambda: [one.world_size for one in job.gang_starts()] == [3, 2])
        cluster.hosts[2].cpu_quota(1.0)  # else Ray's own start takes longer there than Ray waits for it
        join(cluster, cluster.hosts[2])
        cluster.hosts[2].cpu_quota(QUOTAS[2])
        job.wait_for(lambda: [one.world_size for one in job.gang_starts()] == [3, 2, 3])
        job.wait_for(job.finished)
    assert speeds is not None and speeds.device_of_rank == (0, 1, 2)
    largest = min(len(device.pass_seconds) for device in speeds.devices)
    took = [device.pass_seconds[largest - 1] for device in speeds.devices]
    assert largest > 1 and took[2] > took[0] + 0.05, "the quotas are felt, as they are not where a pass is short"
    lines = read_metrics(job.out / METRICS_FILE)
    assert_same_training(lines, expected)
    assert all(0 < (line.eta or 0) <= 1 for line in lines[1:10])
    everyone = ["member 1", "member 2", "member 3"]
    assert shares(job.out) == [
        ("measured at the start", everyone),
        ("measured before, and kept in the store", everyone[:2]),
        ("measured before, and kept in the store", everyone),
    ]
    assert [start.hosts for start in job.gang_starts()][1] == ("host1", "host2")
    after = newest(job.out).speeds
    assert after is not None and after.version >= 3


def test_a_killed_run_goes_on_when_it_is_given_again_with_other_members(tmp_path, data):
    expected = trained_alone(tmp_path / "alone", data, num_steps=FEW_STEPS)
    recipe = write_recipe(tmp_path, data, num_steps=FEW_STEPS)

    def members(*seconds: float) -> dict[str, Any]:
        kinds = [{"num_ranks": 1, "emulated_seconds_per_sequence": one} for one in seconds]
        shared = {"device": "cpu", "oversubscribe": True, "cpus_per_rank": 1, "micro_batch_size": 4}
        return {"pools": {"default": {**shared, "warm_spares": False, "members": kinds}}}

    killed = start(recipe, members(0.05, 0.1))
    wait_for(lambda: list((tmp_path / "store").glob("train-*/checkpoints/step-*/checkpoint.json")))
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    out = out_of(recipe)
    before = newest(out)
    run(recipe, members(0.03, 0.06, 0.12))
    lines = read_metrics(out_of(recipe) / METRICS_FILE)
    assert out_of(recipe) == out and before.step < FEW_STEPS
    assert_same_training(lines, expected)
    assert [(why, len(names)) for why, names in shares(out)] == [("measured at the start", n) for n in (2, 3)]
    found = [before.speeds, newest(out).speeds]
    assert [one and (len(one.device_of_rank), one.version) for one in found] == [(2, 1), (3, 2)]
