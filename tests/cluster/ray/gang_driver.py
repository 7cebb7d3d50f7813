"""A driver of a gang, for tests on hosts: `python gang_driver.py ADDRESS DIRECTORY TASK POOL`, the pool as JSON."""

import json
import os
import sys
import time
from pathlib import Path

from cluster.executor import Rank, Resized
from cluster.ray import capacity, heartbeat
from cluster.ray.executor import RayExecutor
from cluster.ray.quarantine import NodeFailures
from configs.base import UserError
from configs.pools import PoolConfig


def where(rank: Rank, out: Path) -> None:
    """Write down where a rank is; before the first restart, wait for its end."""
    (out / f"start-{rank.num_restarts}-rank-{rank.index}").write_text(os.uname().nodename)
    while rank.num_restarts == 0 and not (out / "go on").exists():
        time.sleep(0.05)


def meet(rank: Rank, out: Path) -> list[str]:
    """Before the first restart, wait for the end; then return host and interface of each rank, gathered over gloo."""
    where(rank, out)
    import torch.distributed as distributed

    distributed.init_process_group("gloo")
    names: list[str] = [""] * rank.world_size
    distributed.all_gather_object(names, f"{os.uname().nodename} {os.environ['GLOO_SOCKET_IFNAME']}")
    distributed.destroy_process_group()
    return names


def come_and_go(rank: Rank, out: Path) -> list[int]:
    """Return the number of ranks of each start: the first makes way for more, the second waits for the end.

    Each rank writes down which member it is of, and where it is.
    """
    (out / f"place-{rank.num_restarts}-rank-{rank.index}").write_text(f"{rank.member} {os.uname().nodename}")
    if rank.index == 0:
        (out / f"size-{rank.num_restarts}").write_text(str(rank.world_size))
    if rank.num_restarts == 2:
        return [int((out / f"size-{start}").read_text()) for start in range(3)]
    while True:
        if rank.num_restarts == 0 and (out / "make way").exists():
            raise Resized
        time.sleep(0.05)


def main(address: str, directory: str, task: str, pool: str) -> None:
    """Print the gang's result or its error, as JSON."""
    heartbeat.DRIVER_GIVES_UP_SECONDS = capacity.GROW_AFTER_SECONDS = capacity.SECONDS_BETWEEN_COUNTS = 1.0
    out = Path(directory)
    executor = RayExecutor(PoolConfig(**json.loads(pool)), address=address, failures=NodeFailures(out / "nodes.jsonl"))
    fn = {"meet": meet, "come_and_go": come_and_go}[task]
    try:
        result = executor.gang(fn, out, label="testing", resize=(out / "make way").touch)
        print("RESULT", json.dumps(result))
    except UserError as error:
        print("RESULT", json.dumps([type(error).__name__, str(error)]))


if __name__ == "__main__":
    main(*sys.argv[1:])
