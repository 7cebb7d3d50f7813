"""The process of one rank, as a Ray actor."""

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import ray
from ray._private.accelerators import get_accelerator_manager_for_resource

from cluster.executor import Rank
from cluster.host.limits import num_memory_kills
from cluster.host.network import free_port, interface_of
from cluster.host.processes import end_process, start_ticks
from cluster.rank_output import output_file, redirect_output
from cluster.ray.heartbeat import RANK_GIVES_UP_SECONDS, SECONDS_BETWEEN_BEATS, Heartbeat

R = TypeVar("R")
A = TypeVar("A")

NICENESS = 10
"""Priority of a spare that warms up: a tenth of a busy core."""

VISIBLE_DEVICES = (
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "ONEAPI_DEVICE_SELECTOR",
    "ZE_AFFINITY_MASK",
    "HABANA_VISIBLE_MODULES",
)
"""Variables by which a process is shown its accelerators, of all makers."""

INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Without these, gloo takes the interface of the address that the host's name resolves to: often the loopback."""


@dataclass(frozen=True)
class RankLocation:
    """Where the process of a rank runs."""

    node: str
    """Ray's id of the node."""

    host: str
    """Name of the node."""

    address: str
    port: int
    """A free port: the ranks hold their rendezvous here if this process is rank 0."""

    pid: int
    born: int
    """Clock ticks from the node's boot to the start of the process; with the pid it means this process alone."""

    devices: Mapping[str, str]
    """Those of VISIBLE_DEVICES that are set: the rank's own accelerator."""

    memory_kills: int
    """How many processes the node's OOM killer had killed when this process reported."""


class RankProcess:
    """The actor of a rank, or of a spare for one."""

    def __init__(self, driver: str | None) -> None:
        """`driver`: `host:port` of the raylet on the driver's host; None if that is this host."""
        threading.Thread(target=_exit_when_cut_off, args=(os.getppid(), driver), daemon=True).start()

    def report_location(self, previous: Sequence[RankLocation]) -> RankLocation:
        """Kill the `previous` processes of this node, since two must never write for one rank; then say where it is."""
        for old in previous:
            end_process(old.pid, old.born)
        pid = os.getpid()
        born = start_ticks(pid)
        assert born is not None
        return RankLocation(
            node=ray.get_runtime_context().get_node_id(),
            host=socket.gethostname(),
            address=_own_address(),
            port=free_port(),
            pid=pid,
            born=born,
            devices=_show_own_devices(),
            memory_kills=num_memory_kills(),
        )

    def stand_by(self, warm: Callable[[], None], rank: Rank, devices: Mapping[str, str]) -> None:
        """Get ready to take a rank's place: call `warm` in its environment, at a low priority."""
        _set_environment(rank)
        os.environ.update(devices)
        with ThreadPoolExecutor(max_workers=1) as aside:
            aside.submit(_call_at_low_priority, warm).result()

    def run(self, fn: Callable[[Rank, A], R], rank: Rank, argument: A, output: Path | None) -> R:
        """Do the rank's work. What it prints goes to its file in `output`, if that is given."""
        _set_environment(rank)
        printed = output_file(output, rank.index) if output is not None else None
        with redirect_output(printed, start=rank.num_restarts) if printed else nullcontext():
            return fn(rank, argument)


def _show_own_devices() -> dict[str, str]:
    """Return the variables that show this process its own accelerator, and set them where Ray was told not to."""
    for resource, ids in ray.get_runtime_context().get_accelerator_ids().items():
        manager = get_accelerator_manager_for_resource(resource) if ids else None
        name = manager.get_visible_accelerator_ids_env_var() if manager is not None else ""
        if os.environ.get(f"RAY_EXPERIMENTAL_NOSET_{name}", "0") not in ("", "0"):
            os.environ[name] = ",".join(ids)
    return {name: os.environ[name] for name in VISIBLE_DEVICES if name in os.environ}


def _call_at_low_priority(work: Callable[[], None]) -> None:
    # Only this thread gets it: who may not raise priorities could not take the whole process back. SCHED_IDLE would
    # never get done on a machine whose cores all train.
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
    work()


def _set_environment(rank: Rank) -> None:
    os.environ.update(rank.environment())
    interface = interface_of(_own_address())
    for name in INTERFACES if interface else ():
        os.environ.setdefault(name, str(interface))


def _own_address() -> str:
    return socket.gethostbyname(ray.util.get_node_ip_address())


def _exit_when_cut_off(raylet: int, driver: str | None) -> None:
    """End this process soon after its raylet ends, by pid, or the driver's host stops answering.

    Its run may have been started again elsewhere, and nothing else would end it.
    """
    with Heartbeat([driver] if driver else [], limit_seconds=RANK_GIVES_UP_SECONDS) as heartbeat:
        while os.getppid() == raylet and not heartbeat.silent():
            time.sleep(SECONDS_BETWEEN_BEATS / 4)
    os._exit(1)
