"""Watches that the Ray of this driver still answers: its GCS on the head node, and the raylet of this node.

Without its GCS nothing new can be started, and a call to Ray may never return. Ray itself ends a process that has not
reached it for 60 seconds, from C++ and with exit code 1, which says neither what happened nor what to do. So a thread
tries their ports, which needs no call to Ray:

1. Once one has been silent for too long, `check_ray` raises InfrastructureError where the driver waits for Ray
   (connection.py).
2. Nothing asks that Ray for anything any more (`is_ray_gone`): its actors end themselves when their raylet ends.
3. A driver that does not get there, in a call that never returns, is ended with the same sentence and exit code, before
   Ray would.
"""

import atexit
import os
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

import psutil
import ray
from ray._private import worker

from cluster.host.network import answers
from configs.base import InfrastructureError

SECONDS_BETWEEN_CALLS = 2.0
GCS_SILENT_SECONDS, RAYLET_SILENT_SECONDS = 25.0, 10.0
EXIT_AFTER_SECONDS = 15.0
"""How long a driver may take to end after that. Ray would end it 60 seconds after its GCS
(RAY_gcs_rpc_server_reconnect_timeout_s)."""


@dataclass
class _Part:
    """A process of Ray."""

    what: str
    address: str
    limit_seconds: float
    answered: float = field(default_factory=time.monotonic)

    def is_silent(self) -> bool:
        """Ask it; return whether it has been silent for too long."""
        if answers(self.address, timeout_seconds=SECONDS_BETWEEN_CALLS):
            self.answered = time.monotonic()
        return time.monotonic() - self.answered > self.limit_seconds

    def sentence(self) -> str:
        return (
            f"Ray itself has died: {self.what} at {self.address} has not answered for {self.limit_seconds:g} s; run "
            "the same command to go on"
        )


class RayWatch:
    """The thread that asks the Ray that this process has joined or started."""

    def __init__(self) -> None:
        context = ray.get_runtime_context()
        own = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
        raylet = f"{own['NodeManagerAddress']}:{own['NodeManagerPort']}"
        self._parts = [
            _Part("the GCS of its head node", context.gcs_address, GCS_SILENT_SECONDS),
            _Part("the raylet of this node", raylet, RAYLET_SILENT_SECONDS),
        ]
        self.gone: _Part | None = None
        """What has not answered for so long that it counts as gone, for good."""
        self._is_told = False
        threading.Thread(target=self._watch, name="ray-watch", daemon=True).start()

    def check(self, label: str) -> None:
        """Raise InfrastructureError if Ray is gone."""
        if self.gone is not None:
            self._is_told = True
            raise InfrastructureError(f"{label}: {self.gone.sentence()}")

    def _watch(self) -> None:
        while self.gone is None:
            time.sleep(SECONDS_BETWEEN_CALLS)
            self.gone = next((part for part in self._parts if part.is_silent()), None)
            if not ray.is_initialized():  # it was left
                return
        atexit.unregister(worker.shutdown)
        atexit.register(self._leave)  # runs before what is registered already
        time.sleep(EXIT_AFTER_SECONDS)
        self._leave()

    def _leave(self) -> None:
        """End the process at once: the threads of a Ray that is gone would wait for it, or crash."""
        assert self.gone is not None
        if not self._is_told:
            print(f"concord: {self.gone.sentence()}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        # A private Ray is this process's own, its workers and agents too: agents outlive a raylet without a GCS.
        started = psutil.Process().children(recursive=True)
        if (node := worker._global_node) is not None:
            node.kill_all_processes(check_alive=False, allow_graceful=False)
        for process in started:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        os._exit(InfrastructureError.exit_code)


_watch: RayWatch | None = None


def watch_ray() -> None:
    """Begin to watch the Ray that this process has just joined or started."""
    global _watch
    _watch = RayWatch()


def check_ray(label: str) -> None:
    """Raise InfrastructureError if Ray is gone."""
    if _watch is not None:
        _watch.check(label)


def is_ray_gone() -> bool:
    """Return whether nothing is to be asked of Ray any more."""
    return _watch is not None and _watch.gone is not None
