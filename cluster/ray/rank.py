"""The process of one rank, as a Ray actor."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import ray

from cluster.executor import Rank
from cluster.host.limits import num_memory_kills
from cluster.host.network import free_port, interface_of
from cluster.ray.heartbeat import RANK_GIVES_UP_SECONDS, SECONDS_BETWEEN_LOOKS, Pulse

R = TypeVar("R")
A = TypeVar("A")

SECONDS_BETWEEN_KILLS = 0.01
NICENESS = 10
"""Of a spare that gets ready: a tenth of a busy core."""

GPUS = "CUDA_VISIBLE_DEVICES"
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Else gloo takes the interface of whatever the host's name resolves to, which may be the loopback."""


@dataclass(frozen=True)
class Whereabouts:
    """Where the process of a rank is."""

    node: str
    """Ray's id of the node."""

    host: str
    """Name of the node."""

    address: str
    port: int
    """A free one: the ranks meet here if this process is rank 0."""

    pid: int
    born: int
    """Clock ticks from the node's boot to the start of the process; with the pid it means this process alone."""

    gpus: str | None
    """CUDA_VISIBLE_DEVICES, if it is set."""

    memory_kills: int
    """Processes that the node's kernel has ended for want of memory so far."""


class RankProcess:
    """What the process of a rank can be told to do."""

    def __init__(self, driver: str | None) -> None:
        """`driver`: where the driver's host answers, `host:port`; None if it is this host."""
        threading.Thread(target=_end_without, args=(os.getppid(), driver), daemon=True).start()

    def report(self, before: Sequence[Whereabouts]) -> Whereabouts:
        """Where this process is, once those of this node `before` it have ended: two must never write for one rank."""
        for old in before:
            end_process(old.pid, old.born)
        node = ray.get_runtime_context().get_node_id()
        address = socket.gethostbyname(ray.util.get_node_ip_address())
        me = os.getpid()
        born = birth_of(me)
        assert born is not None
        name, port, gpus = socket.gethostname(), free_port(), os.environ.get(GPUS)
        return Whereabouts(node, name, address, port, me, born, gpus, num_memory_kills())

    def stand_by(self, warm: Callable[[], None], rank: Rank, gpus: str | None) -> None:
        """Get ready to take a rank's place: `warm()` in its environment, mostly while the cores have little to do."""
        _set_environment(rank)
        os.environ.update({} if gpus is None else {GPUS: gpus})
        with ThreadPoolExecutor(max_workers=1) as aside:
            aside.submit(_politely, warm).result()

    def run(self, fn: Callable[[Rank, A], R], rank: Rank, argument: A) -> R:
        """The rank's work."""
        _set_environment(rank)
        return fn(rank, argument)


def end_process(pid: int, born: int) -> None:
    """Kill a process of this node and wait until it is gone, unless its pid means another one by now."""
    while birth_of(pid) == born:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        time.sleep(SECONDS_BETWEEN_KILLS)


def birth_of(pid: int) -> int | None:
    """Clock ticks from boot to the start of a process (proc(5)); None if it has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else int(fields[18])


def _politely(work: Callable[[], None]) -> None:
    # Of this thread alone: who may not raise priorities could not take the whole process back. SCHED_IDLE would never
    # get done on a machine whose cores all train.
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
    work()


def _set_environment(rank: Rank) -> None:
    os.environ.update(rank.environment())
    interface = interface_of(socket.gethostbyname(ray.util.get_node_ip_address()))
    for name in INTERFACES if interface else ():
        os.environ.setdefault(name, str(interface))


def _end_without(raylet: int, driver: str | None) -> None:
    """End this process soon after its raylet or the way to its driver: its run may have been started again elsewhere,
    and nothing else would end it."""
    with Pulse([driver] if driver else [], limit_seconds=RANK_GIVES_UP_SECONDS) as pulse:
        while os.getppid() == raylet and not pulse.silent():
            time.sleep(SECONDS_BETWEEN_LOOKS / 4)
    os._exit(1)
