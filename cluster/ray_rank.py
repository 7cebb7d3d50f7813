"""The process of one rank, as a Ray actor."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import ray

from cluster.executor import Rank
from cluster.network import free_port

R = TypeVar("R")
A = TypeVar("A")

SECONDS_BETWEEN_KILLS = 0.01
NICENESS = 10
"""Of a spare that gets ready: a tenth of a busy core."""

GPUS = "CUDA_VISIBLE_DEVICES"


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


class RankProcess:
    """What the process of a rank can be told to do."""

    def __init__(self) -> None:
        threading.Thread(target=_end_without, args=(os.getppid(),), daemon=True).start()

    def report(self, before: Whereabouts | None) -> Whereabouts:
        """Where this process is, once the rank's process `before` it has ended: two must never write for one rank."""
        node = ray.get_runtime_context().get_node_id()
        if before is not None and before.node == node:
            end_process(before.pid, before.born)
        address = socket.gethostbyname(ray.util.get_node_ip_address())
        me = os.getpid()
        born = birth_of(me)
        assert born is not None
        return Whereabouts(node, socket.gethostname(), address, free_port(), me, born, os.environ.get(GPUS))

    def stand_by(self, warm: Callable[[], None], rank: Rank, gpus: str | None) -> None:
        """Get ready to take a rank's place: `warm()` in its environment, mostly while the cores have little to do."""
        os.environ.update(rank.environment() | ({} if gpus is None else {GPUS: gpus}))
        with ThreadPoolExecutor(max_workers=1) as aside:
            aside.submit(_politely, warm).result()

    def run(self, fn: Callable[[Rank, A], R], rank: Rank, argument: A) -> R:
        """The rank's work."""
        os.environ.update(rank.environment())
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


def _end_without(raylet: int) -> None:
    """End this process soon after its raylet: nothing else would, and its run may have been started again."""
    while os.getppid() == raylet:
        time.sleep(1.0)
    os._exit(1)
