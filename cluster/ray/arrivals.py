"""Waits until the nodes of a Ray have joined: `python -m cluster.ray.arrivals HOST:PORT --nodes N --timeout S`."""

import argparse
import sys
import time
from collections.abc import Sequence

import ray

from cluster.ray.connection import connect
from configs.base import ConfigError, StartUpError, UserError

SECONDS_BETWEEN_LOOKS = 0.5


def await_nodes(address: str, *, num_nodes: int, timeout_seconds: float) -> list[str]:
    """Names of the nodes of the Ray at `host:port`, once there are so many. Raises StartUpError when time is up."""
    end = time.monotonic() + timeout_seconds
    _join(address, end)
    while len(hosts := [node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]]) < num_nodes:
        if time.monotonic() > end:
            raise StartUpError(
                f"{len(hosts)} of {num_nodes} nodes have joined the Ray at {address} in {timeout_seconds:.0f} s: "
                f"{', '.join(sorted(hosts))}; see what the others say above, or raise start_timeout_seconds"
            )
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return sorted(hosts)


def _join(address: str, end: float) -> None:
    """Join the Ray, which may still be coming up."""
    while True:
        try:
            return connect(address)
        except ConfigError as error:
            if time.monotonic() > end:
                raise StartUpError(str(error)) from error
            time.sleep(SECONDS_BETWEEN_LOOKS)


def main(arguments: Sequence[str] | None = None) -> None:
    """Wait, and say who has come."""
    parser = argparse.ArgumentParser(prog="cluster.ray.arrivals")
    parser.add_argument("address")
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--timeout", type=float, required=True)
    options = parser.parse_args(arguments)
    hosts = await_nodes(options.address, num_nodes=options.nodes, timeout_seconds=options.timeout)
    print(f"concord: {len(hosts)} node{'s' if len(hosts) > 1 else ''}: {', '.join(hosts)}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"concord: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
