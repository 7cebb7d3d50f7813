"""Waits for nodes to join a Ray: those that a pool is laid out on, or so many of a Ray of our own.

The latter by `... cluster.ray.arrivals HOST:PORT --nodes N --least N --timeout S`.
"""

import argparse
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import ray

from cluster.host.console import print_line
from cluster.host.retry import fixed_waits, retry
from cluster.machines import Node, described
from cluster.members import describe_pool, distinct_nodes, name_of_kind, place_pool
from cluster.placement import Placement, TooFew
from cluster.ray.connection import connect
from cluster.ray.nodes import describe_nodes, nodes_by_kind, request_nodes, with_own_answers
from configs.base import ConfigError, StartUpError, UserError
from configs.cluster import WandbConfig
from configs.pools import PoolConfig

SECONDS_BETWEEN_POLLS = 0.5
SHARE_FOR_OTHERS = 0.2


def lay_out(pool: PoolConfig, *, may_wait: bool, wandb: WandbConfig | None) -> Placement:
    """Lay a pool out on the nodes of the Ray that this process is a driver of.

    With `may_wait`, nodes that the cluster file describes under `machines` and that are not there are asked of Ray's
    autoscaler and waited for, for `start_timeout_seconds`; if there is too little after that, StartUpError is raised.
    Without it TooFew is.
    """
    deadline, is_asked = time.monotonic() + pool.start_timeout_seconds, False
    with ExitStack() as asked:
        while True:
            nodes = nodes_by_kind(pool)
            absent = _absent_kinds(pool, nodes) if may_wait and time.monotonic() < deadline else []
            will_grow = bool(absent) and _will_fit(pool, nodes, absent)
            try:
                placement = place_pool(pool, nodes, wandb=wandb)
                if not (will_grow and _takes_all_there_are(pool, absent)):
                    break
            except TooFew as error:
                if not may_wait:
                    raise
                if not will_grow:
                    there = describe_nodes(distinct_nodes(nodes))
                    raise StartUpError(f"{error} (its nodes that live: {there})") from None
            if not is_asked:
                is_asked = True
                asked.enter_context(_ask_for_nodes(pool, nodes, absent))
            time.sleep(SECONDS_BETWEEN_POLLS)
    if placement.device != "cpu":
        nodes = [with_own_answers(own) for own in nodes]
        placement = place_pool(pool, nodes, wandb=wandb)
    return replace(placement, found=describe_pool(pool, nodes, placement))


def _absent_kinds(pool: PoolConfig, nodes: Sequence[Sequence[Node]]) -> list[int]:
    """List the kinds, by number, of which the cluster file says that there will be more nodes than now."""
    kinds = enumerate(zip(pool.kinds(), nodes, strict=True))
    return [number for number, (kind, own) in kinds if kind.machines is not None and len(own) < (kind.num_nodes or 1)]


def _will_fit(pool: PoolConfig, nodes: Sequence[Sequence[Node]], absent: Sequence[int]) -> bool:
    """Return whether the pool fits once all nodes of the absent kinds are there."""
    later = list(nodes)
    for number in absent:  # by ids of their own, for they are no other kind's
        later[number] = [replace(node, id=f"{number}:{node.host}") for node in described(pool.kinds()[number])]
    try:
        place_pool(pool, later, wandb=None)
    except TooFew:
        return False
    return True


def _takes_all_there_are(pool: PoolConfig, absent: Sequence[int]) -> bool:
    """Return whether a number of ranks is left to what there is of an absent kind, which must be there before, then."""
    kinds = pool.kinds()
    return pool.min_ranks is None and any(kinds[number].num_ranks is None for number in absent)


@contextmanager
def _ask_for_nodes(pool: PoolConfig, nodes: Sequence[Sequence[Node]], absent: Sequence[int]) -> Iterator[None]:
    """Say that nodes are waited for, and have Ray's autoscaler start them during the block, if there is one."""
    kinds = pool.kinds()
    names = [f" of {name_of_kind(pool, number)}" if pool.members else "" for number in absent]
    there = " and ".join(
        f"{len(nodes[number])} of the pool's {kinds[number].num_nodes or 1} nodes{name}"
        for number, name in zip(absent, names, strict=True)
    )
    print_line(f"{there} are there; waiting for the others, for at most {pool.start_timeout_seconds:g} s")
    request_nodes(kinds)
    try:
        yield
    finally:
        request_nodes([])


def wait_for_nodes(address: str, *, num_nodes: int, least: int, timeout_seconds: float) -> list[str]:
    """Return the names of the nodes of the Ray at `host:port`, once there are `num_nodes` of them.

    Of `least` nodes the others are waited for no longer than SHARE_FOR_OTHERS of the time. Raises StartUpError if no
    Ray answers there, or when the time is up.
    """
    began = time.monotonic()
    deadline, enough_since = began + timeout_seconds, math.inf
    _join(address, timeout_seconds=timeout_seconds)
    while len(hosts := [node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]]) < num_nodes:
        enough_since = min(enough_since, time.monotonic()) if len(hosts) >= least else math.inf
        if time.monotonic() > min(deadline, enough_since + SHARE_FOR_OTHERS * timeout_seconds) and len(hosts) >= least:
            break
        if time.monotonic() > deadline:
            raise StartUpError(
                f"{len(hosts)} of {num_nodes} nodes have joined the Ray at {address} in {timeout_seconds:.0f} s: "
                f"{', '.join(sorted(hosts))}; see what the others say above, or raise start_timeout_seconds"
            )
        time.sleep(SECONDS_BETWEEN_POLLS)
    return sorted(hosts)


def _join(address: str, *, timeout_seconds: float) -> None:
    """Join the Ray, which may still be coming up and refuse."""
    waits = fixed_waits(SECONDS_BETWEEN_POLLS, for_seconds=timeout_seconds)
    try:
        retry(lambda: connect(address), waits=waits, is_transient=lambda error: isinstance(error, ConfigError))
    except ConfigError as error:
        raise StartUpError(str(error)) from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Wait, and print which nodes have joined."""
    parser = argparse.ArgumentParser(prog="cluster.ray.arrivals")
    parser.add_argument("address")
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--least", type=int, required=True)
    parser.add_argument("--timeout", type=float, required=True)
    options = parser.parse_args(arguments)
    hosts = wait_for_nodes(
        options.address, num_nodes=options.nodes, least=options.least, timeout_seconds=options.timeout
    )
    missing = f" (of {options.nodes}; the others have not joined)" if len(hosts) < options.nodes else ""
    print(f"concord: {len(hosts)} node{'s' if len(hosts) > 1 else ''}{missing}: {', '.join(hosts)}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"concord: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
