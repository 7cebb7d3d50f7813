"""Starting a private Ray, or joining one that runs."""

import os
from typing import Any

import ray

from cluster.network import answers
from configs.base import ConfigError

OBJECT_STORE_BYTES = 256 * 2**20
"""Of a private Ray. Stages pass files, not objects, so little is enough, and /dev/shm is small in containers."""


def connect(address: str) -> None:
    """Start a private Ray, or join the one at `address`; once in a process."""
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False, "configure_logging": True}
    if address == "local":
        ray.init(address="local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **quiet)
        return
    check_answers(address)
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError) as error:
        raise ConfigError(f"cannot join the Ray at {address!r}: {first_line(error)}") from error


def check_answers(address: str) -> None:
    """Raise ConfigError if nothing listens at `host:port`; Ray itself would wait for a minute."""
    if not answers(address):
        raise ConfigError(
            f"no Ray answers at {address!r}; check `ray_address` (host:port of the head node, as `ray start --head` "
            "prints it) and that the head node is up"
        )


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
