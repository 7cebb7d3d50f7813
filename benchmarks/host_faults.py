"""Train on real hosts, once left alone and once for each fault: are the weights bit for bit the same?

    python benchmarks/host_faults.py [--steps 60] [--faults "rank killed,link cut for ever"] [--directory DIR]

Three hosts of one core (tests/hosts.py: it takes root) form a Ray cluster with a token; `concord submit` sends a small
training of two ranks to it over Ray's Jobs API, and for the last fault to a Slurm of two such hosts. Each fault comes
when training is some steps past its second checkpoint. Where the driver has died, `concord resume` follows as soon as
`concord status` says that the run has ended, as a user would give it; the cluster itself is mended by its operator.

One JSON line a fault: at which step; seconds until the last rank that worked then, and can be reached, has ended
(`detection`; null: none had to); seconds until the next step was done (`recovery`); steps that had to be taken again;
how often ranks were started again; whether the weights equal those of the undisturbed run. Exit code 1 if any differ.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.host_cluster import CHECKPOINT_EVERY_STEPS, Cluster, Run, Trouble, make_data, ray_cluster, slurm_cluster
from tests.hosts import Host, hosts
from tests.slurm import slurm
from training.manifests import TrainedModel

CUT_SECONDS = 20.0
FULL_SECONDS = 15.0
DISK_MEBIBYTES = 400
PREEMPTED = "pre-empted by Slurm"
DRIVER = r"pipeline\.cli drive"


@dataclass(frozen=True)
class Fault:
    """What is done to the hosts."""

    do: Callable[[Cluster, Host], object]
    """It is given a host, other than the head, on which a rank works; returns when the fault is over, if it ends."""

    mend: Callable[[Cluster, Host], object] = lambda cluster, host: None
    """What the cluster's operator does, at the end."""

    ends_driver: bool = False
    saves: bool = False
    """Whether steps are still taken until a checkpoint is saved: the next step is then one of a new start."""

    unreachable: bool = False
    """Whether the host is out of reach from then on."""


def cut_for_a_while(cluster: Cluster, host: Host) -> None:
    """Cut a host off, and mend its link again."""
    host.cut()
    time.sleep(CUT_SECONDS)
    host.mend()


def fill_disk(cluster: Cluster, host: Host) -> None:
    """Leave no space on a host's own disk, where Ray has its files, for a while."""
    host.fill_disk()
    time.sleep(FULL_SECONDS)
    host.empty_disk()


def lose_head(cluster: Cluster, host: Host) -> None:
    """Switch the head off, and start the cluster again."""
    cluster.head.power_off()
    cluster.start()


FAULTS = {
    "rank killed": Fault(lambda cluster, host: _kill(cluster.ranks(host))),
    "raylet killed": Fault(lambda cluster, host: _some(host.kill(r"/raylet/raylet ")), mend=Cluster.renew),
    "host switched off": Fault(lambda cluster, host: host.power_off(), mend=Cluster.renew),
    "link cut for 20 s": Fault(cut_for_a_while),
    "link cut for ever": Fault(lambda cluster, host: host.cut(), mend=Cluster.renew, unreachable=True),
    "host's disk full": Fault(fill_disk),
    "driver killed": Fault(lambda cluster, host: _some(cluster.head.kill(DRIVER)), ends_driver=True),
    "driver terminated": Fault(
        lambda cluster, host: _some(cluster.head.kill(DRIVER, signal.SIGTERM)), ends_driver=True, saves=True
    ),
    "head killed and started again": Fault(lose_head, ends_driver=True),
}


def _kill(pids: list[int]) -> None:
    for pid in _some(pids):
        psutil.Process(pid).kill()


def _some(pids: list[int]) -> list[int]:
    assert pids, "there is no such process"
    return pids


def strike(run: Run, fault: Fault) -> dict[str, Any]:
    """Let a fault befall a run that has begun, and wait until it has finished."""
    cluster = run.cluster
    run.wait_for(lambda: run.step() >= 2 * CHECKPOINT_EVERY_STEPS + 2)
    victim = cluster.with_rank()
    away = [victim] if fault.unreachable else []
    old = [psutil.Process(pid) for host in cluster.hosts if host not in away for pid in cluster.ranks(host)]
    before, step, began = len(run.attempts()), run.step(), time.time()
    gone = Gone(old)
    gone.start()
    fault.do(cluster, victim)
    over = time.time() if fault.do in (cut_for_a_while, fill_disk) else began
    if fault.ends_driver:
        run.resume()

    def next_step() -> Any:
        fresh = run.attempts()[before:]
        return None if fault.saves and not fresh else run.first_after(fresh[-1].time if fresh else over)

    line = run.wait_for(next_step)
    run.wait_for(run.finished)
    fresh = run.attempts()[before:]
    return {
        "at_step": step,
        "detection_seconds": round(gone.when - began, 1) if fresh and gone.when else None,
        "recovery_seconds": round(line.time - began, 1),
        "lost_steps": sum(attempt.lost_steps for attempt in fresh),
        "restarts": len(fresh),
        "victim": victim.name,
    }


class Gone(Thread):
    """Notes when the last of some processes has ended."""

    def __init__(self, processes: list[psutil.Process]) -> None:
        super().__init__(daemon=True)
        self._processes = processes
        self.when: float | None = None

    def run(self) -> None:
        """Wait for that."""
        psutil.wait_procs(self._processes)
        self.when = time.time()


def weights(run: Run) -> dict[str, Any]:
    """Of the model that was made."""
    from training.checkpoint.directory import load_weights

    record = json.loads((run.out / "record.json").read_text())
    return load_weights(run.out / TrainedModel.model_validate(record["manifest"]).checkpoint)


def equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two models are the same, bit for bit."""
    return first.keys() == second.keys() and all(bool((second[name] == value).all()) for name, value in first.items())


def show(directory: Path, *, steps: int, names: list[str]) -> bool:
    """The undisturbed run, then all faults; whether all was as it must be."""
    data, well = make_data(directory), True

    def begin(cluster: Cluster, name: str) -> Run:
        run = Run(cluster, directory, name.translate({ord(" "): "-", ord("'"): None}))
        run.prepare(steps, data)
        run.submit()
        return run

    with hosts(directory, 3, disk_mib=DISK_MEBIBYTES) as machines:
        cluster = ray_cluster(machines, directory)
        expected = undisturbed(lambda: begin(cluster, "undisturbed"))
        for name in names:
            if (fault := FAULTS.get(name)) is not None:
                well &= try_one(begin(cluster, name), name, fault, expected)
    if PREEMPTED in names:
        with slurm(directory, 2, grace_seconds=60) as slurms:
            fault = Fault(lambda cluster, host: _some([int(slurms.preempt())]), saves=True)
            well &= try_one(begin(slurm_cluster(slurms), PREEMPTED), PREEMPTED, fault, expected)
    return well


def undisturbed(begin: Callable[[], Run]) -> dict[str, Any]:
    """The weights of a run that is left alone."""
    started = time.time()
    run = begin()
    first = run.wait_for(lambda: run.first_after(started))
    run.wait_for(run.finished)
    seconds = {"submit_to_first_step_seconds": first.time - started, "seconds": time.time() - started}
    print(json.dumps({"fault": None, **{key: round(value, 1) for key, value in seconds.items()}}), flush=True)
    return weights(run)


def try_one(run: Run, name: str, fault: Fault, expected: dict[str, Any]) -> bool:
    """Strike a run; whether it ends with the weights that are expected."""
    try:
        row = strike(run, fault)
        row["equal_weights"] = equal(expected, weights(run))
    except Trouble as trouble:
        print(trouble, file=sys.stderr)
        row = {"equal_weights": False, "trouble": str(trouble).strip().rpartition("\n")[2]}
    print(json.dumps({"fault": name, **row}), flush=True)
    for host in run.cluster.hosts[1:]:
        if host.name == row.get("victim", host.name):
            fault.mend(run.cluster, host)
    return bool(row["equal_weights"])


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--faults", default=",".join([*FAULTS, PREEMPTED]), help="names, with commas between them")
    parser.add_argument("--directory", type=Path, help="where stores and logs stay; left out, they go")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all is ended
    with ExitStack() as stack:
        directory = options.directory or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        directory.mkdir(parents=True, exist_ok=True)
        sys.exit(not show(directory.resolve(), steps=options.steps, names=options.faults.split(",")))


if __name__ == "__main__":
    main()
