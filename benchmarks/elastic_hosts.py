"""Train while a host joins and a host leaves, and compare samples and losses with those of an undisturbed run.

    python benchmarks/elastic_hosts.py [--steps 500] [--directory DIR]

Two hosts of one core (tests/hosts.py, which needs root) form a Ray cluster, and a run with `min_ranks: 1` begins there
on two ranks. A third host joins; once three ranks have trained for a while, the second host is switched off. The same
recipe is trained before on two hosts that are left alone.

It prints JSON lines: each start of the ranks, with its step and their number; seconds from joining to the first step
with three ranks, and from switching off to the next step; then whether every step read the same samples, and the
largest relative difference of a loss. The exit code is 1 if a sample differs, or a loss by more than 1e-4.
"""

import argparse
import json
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.host_cluster import Cluster, Run, make_data, ray_cluster
from tests.hosts import Host, hosts, ray_join
from training.log.metrics_file import METRICS_FILE, StepMetrics, read_metrics

RANKS = "num_ranks: 3, min_ranks: 1"
TOLERANCE = 1e-4
STEPS_WITH_THREE = 10


def run_undisturbed(cluster: Cluster, directory: Path, data: Path, steps: int) -> list[StepMetrics]:
    """Run undisturbed; return the metrics of all steps."""
    run = submit_run(cluster, directory, "calm", data, steps, ranks="num_ranks: 2")
    run.wait_for(run.finished)
    return read_metrics(run.out / METRICS_FILE)


def run_with_changes(cluster: Cluster, third: Host, directory: Path, data: Path, steps: int) -> list[StepMetrics]:
    """Run while a host joins and a host leaves; return the metrics of all steps."""
    run = submit_run(cluster, directory, "changing", data, steps, ranks=RANKS)
    run.wait_for(lambda: run.last_step() >= STEPS_WITH_THREE)
    joined = time.time()
    ray_join(third, f"{cluster.head.address}:6379", cluster.token)
    grown = run.wait_for(lambda: next((one for one in run.gang_starts() if one.world_size == 3), None))
    first = run.wait_for(lambda: run.first_step_after(grown.time))
    print_row(event="a host joined", seconds_to_next_step=first.time - joined, lost_steps=grown.lost_steps)
    run.wait_for(lambda: run.last_step() >= grown.step + STEPS_WITH_THREE)
    left, before = time.time(), len(run.gang_starts())
    cluster.hosts[1].power_off()
    shrunk = run.wait_for(lambda: next(iter(run.gang_starts()[before:]), None))
    first = run.wait_for(lambda: run.first_step_after(shrunk.time))
    print_row(event="a host left", seconds_to_next_step=first.time - left, lost_steps=shrunk.lost_steps)
    run.wait_for(run.finished)
    for start in run.gang_starts():
        print_row(event="ranks started", step=start.step, ranks=start.world_size, hosts=list(start.hosts))
    return read_metrics(run.out / METRICS_FILE)


def submit_run(cluster: Cluster, directory: Path, name: str, data: Path, steps: int, *, ranks: str) -> Run:
    """Submit a run of the data and return it."""
    run = Run(cluster, directory, name)
    run.prepare(steps, data, ranks=ranks)
    run.submit()
    return run


def compare(expected: list[StepMetrics], found: list[StepMetrics]) -> bool:
    """Print how far two runs agree, and return whether they do."""
    same = [(line.step, line.first_place, line.targets) for line in expected] == [
        (line.step, line.first_place, line.targets) for line in found
    ]
    difference = max(abs(a.loss - b.loss) / a.loss for a, b in zip(expected, found, strict=True))
    print_row(steps=len(found), same_samples=same, largest_relative_difference_of_loss=difference)
    return same and difference <= TOLERANCE


def print_row(**row: object) -> None:
    """Print a JSON line."""
    print(json.dumps({k: round(v, 7) if isinstance(v, float) else v for k, v in row.items()}), flush=True)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--directory", type=Path, help="where to keep stores and logs; else they are deleted")
    options = parser.parse_args()
    with ExitStack() as stack:
        directory = options.directory or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        directory.mkdir(parents=True, exist_ok=True)
        directory = directory.resolve()
        data = make_data(directory)
        machines = stack.enter_context(hosts(directory, 3))
        cluster = ray_cluster(machines[:2], directory)
        expected = run_undisturbed(cluster, directory, data, options.steps)
        found = run_with_changes(cluster, machines[2], directory, data, options.steps)
        sys.exit(not compare(expected, found))


if __name__ == "__main__":
    main()
