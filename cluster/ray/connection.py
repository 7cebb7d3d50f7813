"""Starting a private Ray, or joining one that runs."""

import os
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
from ray._private import services, utils
from ray.exceptions import LocalRayletDiedError, RaySystemError

from cluster.host.network import answers
from configs.base import ConfigError, InfrastructureError, StartUpError

SECONDS_BETWEEN_CHECKS = 5.0
"""How often, while waiting for Ray, to look whether it lives."""

OBJECT_STORE_BYTES = 256 * 2**20
"""Of a private Ray. Stages pass files, not objects, so little is enough, and /dev/shm is small in containers."""


def connect(address: str) -> None:
    """Start a private Ray, or join the one at `address`; once in a process."""
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False, "configure_logging": True}
    if address == "local":
        if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # else Ray wants to keep one in the home directory
        os.environ.setdefault("RAY_worker_niceness", "0")  # or all of our work would give way to anybody's, at nice 15
        with own_signals(), _groups_of_their_own():
            ray.init(address="local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **quiet)
        return
    check_answers(address)
    try:
        with own_signals():
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError) as error:
        raise ConfigError(
            f"cannot join the Ray at {address!r} ({first_line(error)}); its version must be {ray.__version__}; if it "
            "wants a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN) here as there"
        ) from error


@contextmanager
def own_signals() -> Iterator[None]:
    """Keep SIGTERM and SIGUSR1 for after the block, and this process's way with them.

    Ray 2.60 would put a SIGTERM handler in its place that ends the process at once, and swallows what ours raises
    while it starts.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept: list[int] = []
    before = {n: signal.signal(n, lambda n, _: kept.append(n)) for n in (signal.SIGTERM, signal.SIGUSR1)}
    honest, utils.set_sigterm_handler = utils.set_sigterm_handler, lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = honest
        for number, handler in before.items():
            signal.signal(number, handler)
    for late in kept:
        signal.raise_signal(late)


@contextmanager
def _groups_of_their_own() -> Iterator[None]:
    """Start Ray's processes in process groups of their own.

    Schedulers and `timeout` send SIGTERM to a whole group: Ray would end before a checkpoint is saved.
    """
    honest = services.ConsolePopen
    services.ConsolePopen = partial(honest, process_group=0)
    try:
        yield
    finally:
        services.ConsolePopen = honest


def check_answers(address: str) -> None:
    """Raise StartUpError if nothing listens at `host:port`; Ray itself would wait for a minute."""
    if not answers(address):
        raise StartUpError(
            f"no Ray answers at {address!r}; check `ray_address` (host:port of the head node, as `ray start --head` "
            "prints it) and that the head node is up"
        )


def check_alive(label: str) -> None:
    """Raise InfrastructureError if this process's node is dead: a driver may outlive it, and would wait for ever."""
    me = ray.get_runtime_context().get_node_id()
    if not any(node["Alive"] for node in ray.nodes() if node["NodeID"] == me):
        raise InfrastructureError(f"{label}: Ray itself has died on this node; run the same command to go on")


@contextmanager
def ray_failures(label: str) -> Iterator[None]:
    """Turn the death of Ray itself, as its driver sees it, into a sentence."""
    try:
        yield
    except (LocalRayletDiedError, RaySystemError) as error:
        raise InfrastructureError(
            f"{label}: Ray itself has died ({first_line(error)}); run the same command to go on"
        ) from error


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
