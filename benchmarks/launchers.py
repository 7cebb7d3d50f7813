"""Submit one recipe by the launchers local, ray and slurm, and compare the artifacts, the final loss and the weights.

    python benchmarks/launchers.py [--recipe smoke] [--set KEY=VALUE ...] [--launchers local,ray,slurm]

It uses hosts of one core (tests/hosts.py, which needs root). `local` runs on one host; `ray` sends a job to a Ray
cluster of three; `slurm` queues a job for the two nodes of a Slurm cluster of such hosts. There are two ranks each
time.

It prints one JSON line for each launcher: seconds from `concord submit` until it returned, until the first step and
until the end; the artifacts; the final loss; whether artifacts, loss and weights equal those of the first launcher. The
exit code is 1 if any differ.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.host_cluster import CLUSTER, Cluster, Run, ray_cluster, slurm_cluster
from benchmarks.host_faults import load_final_weights, weights_are_equal
from tests.hosts import hosts
from tests.slurm import slurm

LIMIT_SECONDS = 1500.0


@contextmanager
def local(directory: Path) -> Iterator[Cluster]:
    """Provide a single host."""
    with hosts(directory, 1) as machines:
        yield Cluster(machines, "{kind: local}", {})


@contextmanager
def ray(directory: Path) -> Iterator[Cluster]:
    """Provide a Ray cluster of three hosts."""
    with hosts(directory, 3) as machines:
        yield ray_cluster(machines, directory)


@contextmanager
def slurm_nodes(directory: Path) -> Iterator[Cluster]:
    """Provide a Slurm cluster of two hosts."""
    with slurm(directory, 2, grace_seconds=60) as machines:
        yield slurm_cluster(machines)


LAUNCHERS = {"local": local, "ray": ray, "slurm": slurm_nodes}


def submit_and_wait(cluster: Cluster, directory: Path, name: str, recipe: str, overrides: list[str]) -> dict[str, Any]:
    """Submit the recipe and wait for its end; return its times, artifacts, final loss and weights."""
    run = Run(cluster, directory, name)
    run.path("cluster").write_text(CLUSTER.format(launcher=cluster.launcher, ranks="num_ranks: 2"), encoding="utf-8")
    changes = [word for override in [f"store={run.store}", *overrides] for word in ("--set", override)]
    began = time.time()
    run.command("submit", recipe, "--cluster", str(run.path("cluster")), "--id", name, *changes)
    returned = time.time()
    deadline = time.monotonic() + LIMIT_SECONDS
    while (state := run.state()) not in ("finished", "failed", "lost", "stopped") and time.monotonic() < deadline:
        time.sleep(2.0)
    if state != "finished":
        sys.exit(run.command("logs", name, "--store", str(run.store))[-3000:])
    first = run.first_step_after(began)
    assert first is not None
    manifest = json.loads((run.out / "record.json").read_text())["manifest"]
    return {
        "submit_seconds": returned - began,
        "first_step_seconds": first.time - began,
        "seconds": time.time() - began,
        "artifacts": sorted(path.parent.name for path in run.store.glob("*/record.json")),
        "final_loss": manifest["final_loss"],
        "weights": load_final_weights(run),
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="smoke")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--launchers", default=",".join(LAUNCHERS))
    parser.add_argument("--directory", type=Path, help="where to keep stores and logs; else they are deleted")
    options = parser.parse_args()
    first: dict[str, Any] | None = None
    well = True
    with ExitStack() as stack:
        directory = options.directory or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        directory.mkdir(parents=True, exist_ok=True)
        directory = directory.resolve()
        for name in options.launchers.split(","):
            with LAUNCHERS[name](directory) as cluster:
                made = submit_and_wait(cluster, directory, f"by-{name}", options.recipe, options.overrides)
            first = first or made
            same = {
                "same_artifacts": made["artifacts"] == first["artifacts"],
                "same_loss": made["final_loss"] == first["final_loss"],
                "same_weights": weights_are_equal(
                    made.pop("weights") if made is not first else first["weights"], first["weights"]
                ),
            }
            well &= all(same.values())
            shown = {key: round(value, 2) if key.endswith("seconds") else value for key, value in made.items()}
            print(
                json.dumps({"launcher": name} | {k: v for k, v in shown.items() if k != "weights"} | same), flush=True
            )
    sys.exit(not well)


if __name__ == "__main__":
    main()
