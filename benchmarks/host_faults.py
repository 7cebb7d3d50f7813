"""Train on several hosts, once undisturbed and once with each fault, and compare the weights bit for bit.

    python benchmarks/host_faults.py [--steps 60] [--faults "rank killed,link cut for ever"] [--directory DIR]

Three hosts of one core (tests/hosts.py, which needs root) form a Ray cluster with a token; `concord submit` sends a
small training of two ranks to it over Ray's Jobs API, for one fault to a host with a private Ray (launcher `local`),
and for the last to a Slurm cluster of two such hosts. Faults that hosts do not have come from injections.py. Each comes
when training is some steps past its second checkpoint. If the driver has died, `concord resume` follows as soon as
`concord status` says that the run has ended, as from a user; the cluster itself is repaired as by its operator.

It prints one JSON line for each fault: at which step it came; seconds until the last rank that ran then, and can be
reached, has ended (`detection`; null: none had to); seconds until the next step was done (`recovery`); steps that had
to be taken again; how often ranks were started again; whether the weights equal those of the undisturbed run. The exit
code is 1 if any differ.
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

from benchmarks.host_cluster import (
    CHECKPOINT_EVERY_STEPS,
    Cluster,
    Run,
    RunStuck,
    local_cluster,
    make_data,
    ray_cluster,
    slurm_cluster,
)
from benchmarks.injections import fail_device, fill, prepared, small_disk, stale
from tests.hosts import Host, hosts
from tests.slurm import slurm
from training.manifests import TrainedModel

CUT_SECONDS = 20.0
FULL_SECONDS = 15.0
HANG_SECONDS = 20.0
DISK_MEBIBYTES = 400
INJECTIONS = "injections"
PREEMPTED = "pre-empted by Slurm"
DRIVER = r"pipeline\.cli drive"


@dataclass(frozen=True)
class Fault:
    """What is done to the hosts, and what follows from it."""

    do: Callable[[Run, Host], object]
    """Injects the fault into a host, other than the head, with a rank; returns when the fault is over, if it ends."""

    mend: Callable[[Cluster, Host], object] = lambda cluster, host: None
    """Repairs the cluster at the end, as its operator would."""

    ends_driver: bool = False
    """Whether the driver dies, so that the run has to be resumed."""

    saves: bool = False
    """Whether steps are still taken until a checkpoint is saved: the next step is then one of a new start."""

    hang_seconds: float = 120
    """The pool's hang_timeout_seconds."""

    unreachable: bool = False
    """Whether the host is out of reach from then on."""


def cut_for_a_while(run: Run, host: Host) -> None:
    """Cut a host off the network for CUT_SECONDS."""
    host.cut()
    time.sleep(CUT_SECONDS)
    host.mend()


def fill_disk(run: Run, host: Host) -> None:
    """Fill a host's own disk, which has Ray's files, for FULL_SECONDS."""
    host.fill_disk()
    time.sleep(FULL_SECONDS)
    host.empty_disk()


def fill_store(run: Run, host: Host) -> None:
    """Fill the disk that the store is on for FULL_SECONDS."""
    fill(run.directory, seconds=FULL_SECONDS)


def make_store_stale(run: Run, host: Host) -> None:
    """Have the files of the store fail with ESTALE for CUT_SECONDS, for all processes."""
    stale(run.directory / INJECTIONS, run.store, seconds=CUT_SECONDS)


def fail_a_device(run: Run, host: Host) -> None:
    """Have a rank raise what PyTorch raises of a GPU with a memory error."""
    (pid,) = _require_some(run.cluster.rank_pids(host))
    fail_device(pid)


def lose_head(run: Run, host: Host) -> None:
    """Switch the head off and start the cluster again."""
    run.cluster.head.power_off()
    run.cluster.start()


FAULTS = {
    "rank killed": Fault(lambda run, host: _signal(run.cluster.rank_pids(host), signal.SIGKILL)),
    "device failure": Fault(fail_a_device),
    "process stuck": Fault(
        lambda run, host: _signal(run.cluster.rank_pids(host), signal.SIGSTOP), hang_seconds=HANG_SECONDS
    ),
    "raylet killed": Fault(lambda run, host: _require_some(host.kill(r"/raylet/raylet ")), mend=Cluster.rejoin),
    "host switched off": Fault(lambda run, host: host.power_off(), mend=Cluster.rejoin),
    "link cut for 20 s": Fault(cut_for_a_while),
    "link cut for ever": Fault(lambda run, host: host.cut(), mend=Cluster.rejoin, unreachable=True),
    "host's disk full": Fault(fill_disk),
    "store stale for 20 s": Fault(make_store_stale),
    "store full": Fault(fill_store),
    "driver killed": Fault(lambda run, host: _require_some(run.cluster.head.kill(DRIVER)), ends_driver=True),
    "driver terminated": Fault(
        lambda run, host: _require_some(run.cluster.head.kill(DRIVER, signal.SIGTERM)), ends_driver=True, saves=True
    ),
    "head killed and started again": Fault(lose_head, ends_driver=True),
}
ON_ONE_HOST = {
    "GCS of a private Ray killed": Fault(lambda run, host: _require_some(host.kill(r"/gcs/gcs_server ")), saves=True),
}
"""Faults of a run on one host (launcher `local`). Its next step is one of a new start."""


FAULTS_THAT_END = (cut_for_a_while, fill_disk, fill_store, make_store_stale)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in _require_some(pids):
        psutil.Process(pid).send_signal(number)


def _require_some(pids: list[int]) -> list[int]:
    assert pids, "there is no such process"
    return pids


def inject_fault(run: Run, fault: Fault) -> dict[str, Any]:
    """Inject a fault into a run, wait until the run has finished, and return what was measured."""
    cluster = run.cluster
    run.wait_for(lambda: run.last_step() >= 2 * CHECKPOINT_EVERY_STEPS + 2)
    victim = cluster.find_host_with_rank()
    unreachable = [victim] if fault.unreachable else []
    old = [psutil.Process(pid) for host in cluster.hosts if host not in unreachable for pid in cluster.rank_pids(host)]
    before, step, began = len(run.gang_starts()), run.last_step(), time.time()
    watcher = ExitWatcher(old)
    watcher.start()
    fault.do(run, victim)
    over = time.time() if fault.do in FAULTS_THAT_END else began
    if fault.ends_driver:
        run.resume()

    def next_step() -> Any:
        fresh = run.gang_starts()[before:]
        return None if fault.saves and not fresh else run.first_step_after(fresh[-1].time if fresh else over)

    line = run.wait_for(lambda: next_step() or run.finished())  # its end, if a fault that it rode out outlasted it
    run.wait_for(run.finished)
    fresh = run.gang_starts()[before:]
    return {
        "at_step": step,
        "detection_seconds": round(watcher.ended - began, 1) if fresh and watcher.ended else None,
        "recovery_seconds": None if line is True else round(line.time - began, 1),
        "lost_steps": sum(start.lost_steps for start in fresh),
        "restarts": len(fresh),
        "victim": victim.name,
    }


class ExitWatcher(Thread):
    """Records when the last of some processes has ended."""

    def __init__(self, processes: list[psutil.Process]) -> None:
        super().__init__(daemon=True)
        self._processes = processes
        self.ended: float | None = None
        """Unix time of the end of the last one."""

    def run(self) -> None:
        """Wait for the end of all processes."""
        psutil.wait_procs(self._processes)
        self.ended = time.time()


def load_final_weights(run: Run) -> dict[str, Any]:
    """Load the weights of the trained model."""
    from training.checkpoint.directory import load_weights

    record = json.loads((run.out / "record.json").read_text())
    return load_weights(run.out / TrainedModel.model_validate(record["manifest"]).checkpoint)


def weights_are_equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Return whether two models are equal, bit for bit."""
    return first.keys() == second.keys() and all(bool((second[name] == value).all()) for name, value in first.items())


def run_all(directory: Path, *, steps: int, names: list[str]) -> bool:
    """Do the undisturbed run, then one run for each fault; return whether all have equal weights."""
    data, well = make_data(directory), True

    small = directory / "small"

    def begin(cluster: Cluster, name: str, *, hang_seconds: float = 120) -> Run:
        place = small if name == "store full" else directory
        run = Run(cluster, place, name.translate({ord(" "): "-", ord("'"): None}))
        run.prepare(steps, data, hang_seconds=hang_seconds)
        run.submit()
        return run

    with ExitStack() as stack:
        stack.enter_context(small_disk(small, mebibytes=DISK_MEBIBYTES))
        machines = stack.enter_context(hosts(directory, 3, disk_mib=DISK_MEBIBYTES))
        stack.enter_context(prepared(directory / INJECTIONS))  # for what is started on them
        cluster = ray_cluster(machines, directory)
        expected = run_undisturbed(lambda: begin(cluster, "undisturbed"))
        for name in names:
            if (fault := FAULTS.get(name)) is not None:
                run = begin(cluster, name, hang_seconds=fault.hang_seconds)
                well &= run_with_fault(run, name, fault, expected)
    for name in names:
        if (fault := ON_ONE_HOST.get(name)) is not None:
            with hosts(directory, 1) as (host,):
                well &= run_with_fault(begin(local_cluster(host), name), name, fault, expected)
    if PREEMPTED in names:
        with slurm(directory, 2, grace_seconds=60) as slurms:
            fault = Fault(lambda run, host: _require_some([int(slurms.preempt())]), saves=True)
            well &= run_with_fault(begin(slurm_cluster(slurms), PREEMPTED), PREEMPTED, fault, expected)
    return well


def run_undisturbed(begin: Callable[[], Run]) -> dict[str, Any]:
    """Run undisturbed and return the final weights."""
    started = time.time()
    run = begin()
    first = run.wait_for(lambda: run.first_step_after(started))
    run.wait_for(run.finished)
    seconds = {"submit_to_first_step_seconds": first.time - started, "seconds": time.time() - started}
    print(json.dumps({"fault": None, **{key: round(value, 1) for key, value in seconds.items()}}), flush=True)
    return load_final_weights(run)


def run_with_fault(run: Run, name: str, fault: Fault, expected: dict[str, Any]) -> bool:
    """Inject a fault into a run; return whether it ends with the expected weights."""
    try:
        row = inject_fault(run, fault)
        row["equal_weights"] = weights_are_equal(expected, load_final_weights(run))
    except RunStuck as error:
        print(error, file=sys.stderr)
        row = {"equal_weights": False, "trouble": str(error).strip().rpartition("\n")[2]}
    print(json.dumps({"fault": name, **row}), flush=True)
    for host in run.cluster.hosts[1:]:
        if host.name == row.get("victim", host.name):
            fault.mend(run.cluster, host)
    return bool(row["equal_weights"])


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument(
        "--faults", default=",".join([*FAULTS, *ON_ONE_HOST, PREEMPTED]), help="names, with commas between them"
    )
    parser.add_argument("--directory", type=Path, help="where to keep stores and logs; else they are deleted")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all is ended
    with ExitStack() as stack:
        directory = options.directory or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        directory.mkdir(parents=True, exist_ok=True)
        sys.exit(not run_all(directory.resolve(), steps=options.steps, names=options.faults.split(",")))


if __name__ == "__main__":
    main()
