"""Four ranks of unlike speed train one model: an even split, equal passes, and Concord's allocation, in one run.

    python benchmarks/unlike_devices.py [--steps 8]

Speeds are 4 : 4 : 2 : 1. They are emulated: each pass sleeps so long a sequence, which takes no core, and is at least
ten times what the pass computes. `equal passes` is what Poplar searches for (arXiv 2408.12596): the same passes again
and again, in each of which a rank has the most sequences that take no longer than a common time. eta is that of
metrics.jsonl: sequences of a step over those that the devices compute in that time, each by itself. It prints a JSON
line for each way and ZeRO stage; then, for a training in whose middle a rank becomes half as fast, eta before, after,
and when the shares have changed. The losses of all ways are compared.
"""

import argparse
import json
import tempfile
from itertools import pairwise
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from cluster.executor import Rank
from tests.training.ranks import run_ranks, tiny_config, tiny_job
from tests.training.trials import lines, trainer
from training.allocation.balance import Sharing
from training.data.passes import PassPlan, Plans, even_plan, make_plan
from training.job import Job
from training.log.metrics_file import StepMetrics
from training.zero.process_group import join_process_group, leave_process_group

SECONDS = (0.1, 0.1, 0.2, 0.4)
"""What a sequence takes each rank; of the last training, which has more steps, a third of it."""

LIMIT, SEQUENCES = 8, 64
"""Most sequences of a pass; sequences of a step, 16 a rank."""

SLOW_FROM = 30
"""The step from which on, in the last training, rank 1 takes twice as long."""


def equal_passes_plan(sharing: Sharing, num_samples: int) -> PassPlan:
    """Return the best plan of passes that are all alike, the last but for what is left."""
    seconds = [np.asarray(device.pass_seconds) for device in sharing.speeds.devices]
    tables = [seconds[number] for number in sharing.speeds.device_of_rank]
    best: tuple[float, list[int], int] | None = None
    for limit in np.unique(np.concatenate(tables)):
        sizes = [int(np.searchsorted(table, limit, "right")) for table in tables]
        if sum(sizes):
            passes = ceil(num_samples / sum(sizes))
            cost = passes * float(limit)
            best = min(best, (cost, sizes, passes)) if best else (cost, sizes, passes)
    assert best is not None
    _, sizes, passes = best
    rows = np.array([sizes] * passes).T
    surplus, number = int(rows.sum()) - num_samples, passes - 1
    for rank in sorted(range(len(sizes)), key=lambda rank: -tables[rank][0]):
        less = min(surplus, int(rows[rank, number]))
        rows[rank, number] -= less
        surplus -= less
    return make_plan(rows.tolist(), equal_passes=sharing.equal_passes)


def train(rank: Rank, job: Job, way: str, slow_from: int | None) -> None:
    """Train a job by one way to share; rank 1 takes twice as long from a step on."""
    join_process_group(rank, timeout_seconds=120)
    subject = trainer(rank, job)
    sharing = subject.balancer.sharing
    assert sharing is not None
    if way == "even":
        subject.balancer.plans = Plans(lambda number: even_plan(number, rank.world_size, size=LIMIT))
    elif way == "equal passes":
        subject.balancer.plans = Plans(lambda number: equal_passes_plan(sharing, number))
    if slow_from is not None and rank.index == 1:
        run_step, stepper = subject.stepper.run_step, subject.stepper

        def run_slowly(*arguments: Any, **named: Any) -> Any:
            if subject.state.progress.step == slow_from:
                stepper._emulated *= 2
            return run_step(*arguments, **named)

        stepper.run_step = run_slowly  # type: ignore[method-assign]
    subject.run()
    leave_process_group()


def run(
    directory: Path, name: str, *, stage: int, way: str, steps: int, scale: float = 1.0, slow_from: int | None = None
) -> Job:
    """Run a training to its end; a sequence takes `scale` times SECONDS."""
    config = tiny_config(
        global_batch_size=SEQUENCES, num_steps=steps, checkpoint_every_steps=steps, validation=None, sequence_length=16
    )
    members = [{"num_ranks": 1, "emulated_seconds_per_sequence": scale * seconds} for seconds in SECONDS]
    job = tiny_job(
        directory, config, world_size=4, zero_stage=stage, name=name, members=members, micro_batch_size=LIMIT
    )
    run_ranks(train, 4, job, way, slow_from, members=range(4))
    return job


def eta_of(found: list[StepMetrics]) -> float:
    """Return the median eta of some steps."""
    return round(median(line.eta for line in found if line.eta is not None), 3)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=8)
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="concord-unlike-"))
    for stage in (1, 3):
        losses: dict[str, list[float]] = {}
        for way in ("even", "equal passes", "ours"):
            job = run(directory, f"{stage}-{way.replace(' ', '-')}", stage=stage, way=way, steps=arguments.steps)
            found = lines(job)
            losses[way] = [line.loss for line in found]
            wall = median(later.useful_seconds - earlier.useful_seconds for earlier, later in pairwise(found))
            limit = SEQUENCES / sum(1 / seconds for seconds in SECONDS)
            error = max(abs(a - b) for a, b in zip(losses[way], losses["even"], strict=True))
            row = {"zero_stage": stage, "way": way, "eta": eta_of(found[2:]), "step_seconds": round(wall, 3)}
            row |= {"of_emulated_speeds": round(limit / wall, 3), "most_loss_difference_to_even": error}
            print(json.dumps(row), flush=True)
    job = run(directory, "slowed", stage=1, way="ours", steps=3 * SLOW_FROM, scale=1 / 3, slow_from=SLOW_FROM)
    found = lines(job)
    changed = [line for line in (job.out / "notices.txt").read_text().splitlines() if "shared anew" in line]
    row = {"before": eta_of(found[2:SLOW_FROM]), "after": eta_of(found[SLOW_FROM + 2 : SLOW_FROM + 10])}
    row |= {"rebalanced": eta_of(found[-20:])}
    print(json.dumps({"a rank slowed to half": row, "changes": changed}), flush=True)


if __name__ == "__main__":
    main()
