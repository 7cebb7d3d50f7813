"""Starting a private Ray or joining one that runs, and waiting for it so that signals and its death are noticed."""

import os
import secrets
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
from ray._private import services, utils
from ray.exceptions import LocalRayletDiedError, RaySystemError

from cluster.host.limits import OBJECT_STORE_BYTES, memory_bytes, num_cores
from cluster.host.network import answers
from cluster.host.temporary import find_problem
from cluster.ray.ray_watch import check_ray, watch_ray
from configs.base import ConfigError, InfrastructureError, StartUpError, UserError
from configs.text import one_line

SECONDS_BETWEEN_CHECKS = 5.0
"""How often, while waiting for Ray, to check whether it lives."""

WAIT_SECONDS = 0.5
"""How long one wait for Ray lasts, and so a signal handler may have to wait for Ray to return to Python."""


def connect(address: str) -> None:
    """Start a private Ray if the address is `local`, else join the one there; once in a process.

    Raises StartUpError if no Ray answers there, ConfigError if it cannot be joined.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Of items that fail while the first of them is told, Ray would print the tracebacks.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False, "configure_logging": True}
    if address == "local":
        if (problem := find_problem()) is not None:
            raise StartUpError(f"{problem.seen}; {problem.fix}")
        if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # else Ray wants to keep one in the home directory
        os.environ.setdefault("RAY_worker_niceness", "0")  # or all of our work would give way to anybody's, at nice 15
        try:
            with keep_signal_handlers(), _own_process_groups():
                ray.init(
                    address="local",
                    include_dashboard=False,
                    num_cpus=num_cores(),
                    object_store_memory=OBJECT_STORE_BYTES,
                    _memory=memory_bytes()[1] - OBJECT_STORE_BYTES,
                    **quiet,
                )
        except UserError:  # raised by a signal handler
            raise
        except Exception as error:  # Ray 2.60 has no narrower class for a start that takes too long
            ray.shutdown()
            raise StartUpError(
                f"a private Ray did not start on this machine ({one_line(error)}); see its load and memory, or what "
                "`concord doctor` finds, or run without Ray (executor: inline)"
            ) from error
        watch_ray()
        return
    check_answers(address)
    try:
        with keep_signal_handlers():
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError) as error:
        raise ConfigError(
            f"cannot join the Ray at {address!r} ({first_line(error)}); its version must be {ray.__version__}; if it "
            "wants a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN) here as there"
        ) from error
    watch_ray()


@contextmanager
def keep_signal_handlers() -> Iterator[None]:
    """Hold SIGTERM and SIGUSR1 back until the block has ended, and keep this process's handlers of them.

    Ray 2.60 would install a SIGTERM handler that ends the process at once, and swallows what ours raises while it
    starts.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held_back: list[int] = []
    before = {n: signal.signal(n, lambda n, _: held_back.append(n)) for n in (signal.SIGTERM, signal.SIGUSR1)}
    original, utils.set_sigterm_handler = utils.set_sigterm_handler, lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = original
        for number, handler in before.items():
            signal.signal(number, handler)
    for late in held_back:
        signal.raise_signal(late)


@contextmanager
def _own_process_groups() -> Iterator[None]:
    """Start each of Ray's processes in a process group of its own.

    Schedulers and `timeout` send SIGTERM to a whole group: Ray would end before a checkpoint is saved.
    """
    original = services.ConsolePopen
    services.ConsolePopen = partial(original, process_group=0)
    try:
        yield
    finally:
        services.ConsolePopen = original


def check_answers(address: str) -> None:
    """Raise StartUpError if nothing listens at `host:port`; Ray itself would wait for a minute."""
    if not answers(address):
        raise StartUpError(
            f"no Ray answers at {address!r}; check `ray_address` (host:port of the head node, as `ray start --head` "
            "prints it) and that the head node is up"
        )


class RayWaiter:
    """Waits for Ray a little at a time, so that signal handlers run and the death of Ray is noticed."""

    def __init__(self, label: str) -> None:
        self._label = label

    def wait(self, references: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Return the references that are ready, as soon as one is or after WAIT_SECONDS, and the rest.

        Raises InfrastructureError if Ray has died.
        """
        try:
            ready, rest = ray.wait(list(references), num_returns=1, timeout=WAIT_SECONDS)
        except SystemError as error:  # Ray 2.60 so wraps what a signal handler has raised
            raise (error.__cause__ or error) from None
        if ready and rest:
            more, rest = ray.wait(rest, num_returns=len(rest), timeout=0)
            ready += more
        if not ready:
            self.check_alive()
        return ready, rest

    def sleep(self, seconds: float) -> None:
        """Sleep, at most WAIT_SECONDS at a time. Raises InfrastructureError if Ray has died."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(min(WAIT_SECONDS, max(0.0, until - time.monotonic())))
            self.check_alive()

    def check_alive(self) -> None:
        """Raise InfrastructureError if Ray has died: a driver may outlive its raylet or its GCS, and would wait."""
        check_ray(self._label)


@contextmanager
def translate_ray_failures(label: str) -> Iterator[None]:
    """Raise InfrastructureError, one sentence, where Ray's own death would raise one of its exceptions."""
    try:
        yield
    except (LocalRayletDiedError, RaySystemError) as error:
        raise InfrastructureError(
            f"{label}: Ray itself has died ({first_line(error)}); run the same command to go on"
        ) from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or else the name of its class."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
