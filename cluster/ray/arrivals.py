"""Waits until the nodes of a Ray have joined: `... cluster.ray.arrivals HOST:PORT --nodes N --least N --timeout S`."""

import argparse
import math
import sys
import time
from collections.abc import Sequence

import ray

from cluster.host.retry import fixed_waits, retry
from cluster.ray.connection import connect
from configs.base import ConfigError, StartUpError, UserError

SECONDS_BETWEEN_POLLS = 0.5
SHARE_FOR_OTHERS = 0.2


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
