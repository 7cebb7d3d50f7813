"""One attempt of a gang on Ray: a placement group, an actor a rank, and the end of all when one ends badly."""

import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.executor import Rank
from cluster.network import free_port
from cluster.placement import Placement
from cluster.ray_connection import SECONDS_BETWEEN_CHECKS, check_alive, first_line
from configs.base import UserError

R = TypeVar("R")
A = TypeVar("A")

LAST_WORDS_SECONDS = 5.0
"""How long to wait, once a rank has failed, for the others to say why: a lost peer shows as a failed collective."""


class RanksLost(Exception):
    """A process of the gang died; nothing in `fn` raised on its own account."""


class _RankProcess:
    """The actor of one rank."""

    def address(self) -> tuple[str, int]:
        """Where the ranks may meet, if this one is rank 0."""
        return socket.gethostbyname(ray.util.get_node_ip_address()), free_port()

    def run(self, fn: Callable[[Rank, A], R], rank: Rank, argument: A) -> R:
        threading.Thread(target=_end_without, args=(os.getppid(),), daemon=True).start()
        os.environ.update(rank.environment())
        return fn(rank, argument)


def _end_without(raylet: int) -> None:
    """End this process soon after its raylet: nothing else would, and its run may have been started again."""
    while os.getppid() == raylet:
        time.sleep(1.0)
    os._exit(1)


def run_gang(fn: Callable[[Rank, A], R], argument: A, placement: Placement, *, attempt: int, label: str) -> R:
    """Rank 0's result. Raises RanksLost if a process died, else what a rank raised."""
    gpus = 1 if placement.device == "cuda" else 0
    group = _reserve(placement, gpus, label)
    actors: list[Any] = []
    try:
        for index in range(placement.num_ranks):
            strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
            options = {"num_cpus": placement.cpus_per_rank, "num_gpus": gpus, "scheduling_strategy": strategy}
            actors.append(ray.remote(_RankProcess).options(**options).remote())
        host, port = _get(actors[0].address.remote())
        world = placement.num_ranks, placement.device, placement.cpus_per_rank, host, port, attempt
        calls = [actor.run.remote(fn, Rank(index, *world), argument) for index, actor in enumerate(actors)]
        result: R = _together(calls, label)
        return result
    finally:
        for actor in actors:
            ray.kill(actor)
        remove_placement_group(group)


def _reserve(placement: Placement, gpus: int, label: str) -> PlacementGroup:
    bundle = {"CPU": float(placement.cpus_per_rank)} | ({"GPU": float(gpus)} if gpus else {})
    group = placement_group([bundle] * placement.num_ranks, strategy="PACK")
    deadline = time.monotonic() + placement.start_timeout_seconds
    while not _is_ready(group, min(SECONDS_BETWEEN_CHECKS, placement.start_timeout_seconds), label):
        check_alive(label)
        if time.monotonic() > deadline:
            remove_placement_group(group)
            free = {kind: amount for kind, amount in ray.available_resources().items() if kind in ("CPU", "GPU")}
            raise UserError(
                f"{label}: {placement.num_ranks} times {bundle} did not become free in "
                f"{placement.start_timeout_seconds:g} s (free now: {free}); wait for other work, or ask for less"
            )
    return group


def _is_ready(group: PlacementGroup, timeout_seconds: float, label: str) -> bool:
    try:
        return bool(group.wait(timeout_seconds))
    except Exception as error:  # Ray raises no narrower one, when its node is gone
        raise UserError(
            f"{label}: Ray itself has failed ({first_line(error)}); run the same command to go on"
        ) from error


def _together(calls: list[Any], label: str) -> Any:
    """The first call's result once all have returned; the most telling failure once one has failed."""
    pending = list(calls)
    while pending:
        done, pending = ray.wait(pending, num_returns=1, timeout=SECONDS_BETWEEN_CHECKS)
        if not done:
            check_alive(label)
        try:
            ray.get(done)
        except (RayActorError, RayTaskError) as first:
            raise _most_telling(first, pending) from None
    return ray.get(calls[0])


def _most_telling(first: Exception, pending: list[Any]) -> Exception:
    """A user's error before a lost rank before any other: the others often fail because of it."""
    failures = [first]
    done, _ = ray.wait(pending, num_returns=len(pending), timeout=LAST_WORDS_SECONDS) if pending else ([], [])
    for call in done:
        try:
            ray.get(call)
        except (RayActorError, RayTaskError) as error:
            failures.append(error)
    causes = [error.cause for error in failures if isinstance(error, RayTaskError)]
    for cause in causes:
        if isinstance(cause, (UserError, OSError)) and not isinstance(cause, ConnectionError):
            return cause
    if any(isinstance(error, RayActorError) for error in failures):
        return RanksLost("a rank's process died")
    return first


def _get(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except RayActorError:
        raise RanksLost("rank 0's process died at the start") from None
