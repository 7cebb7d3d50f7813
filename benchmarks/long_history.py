"""Measure how long rank 0 takes to be ready to train when a training has a long history, and what it holds then.

    python benchmarks/long_history.py [--steps 1000 1000000] [--languages 60]

One CPU rank resumes a tiny model from a checkpoint after so many steps, whose metrics.jsonl has a line for each of them
in 60 languages, and 20 lines more that no checkpoint holds. The lines are made by hand, 5 GB of them for a million
steps. For each history, in a process of its own whose libraries are loaded, it prints a JSON line: the size of the
file, the time from the start of the trainer until it would take its first step, its resident memory then, and the time
that `concord status` takes to read how the training is going.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from cluster.executor import Rank
from pipeline.cli.status import training_rows
from tests.training import trials
from tests.training.ranks import run_ranks, tiny_config, tiny_job
from training.checkpoint.directory import read_record
from training.job import Job
from training.log.metrics_file import METRICS_FILE, read_last_metrics
from training.loop.stop_requests import STOP_FILE
from training.records import CHECKPOINT_FILE, CHECKPOINTS, directory_of
from training.zero.process_group import join_process_group, leave_process_group

LOST = 20


def main() -> None:
    """Run the benchmark."""
    options = _parse()
    for num_steps in options.steps:
        with tempfile.TemporaryDirectory() as directory:
            job = make_history(Path(directory), num_steps, options.languages)
            size = (job.out / METRICS_FILE).stat().st_size
            (found,) = run_ranks(start, 1, job)
            print(json.dumps({"steps": num_steps, "history_mib": round(size / 2**20)} | found), flush=True)


def make_history(directory: Path, num_steps: int, num_languages: int) -> Job:
    """Train two steps, and make the rest up: the checkpoint is after step `num_steps`, the metrics go on after it."""
    config = tiny_config(num_steps=num_steps + 2 * LOST, checkpoint_every_steps=num_steps)
    job = tiny_job(directory, config, world_size=1, zero_stage=1)
    run_ranks(trials.train_and_find, 1, job, 1, job.out / STOP_FILE, "")
    (job.out / STOP_FILE).unlink()
    root = job.out / CHECKPOINTS
    (first,) = root.glob("step-*")
    record = read_record(first).model_copy(update={"step": num_steps}).sealed()
    (first / CHECKPOINT_FILE).write_text(record.model_dump_json())
    first.rename(directory_of(root, num_steps))
    line = read_last_metrics(job.out / METRICS_FILE)
    assert line is not None
    languages = [f"web/language-{number:03d}" for number in range(num_languages)]
    nats, targets = {name: 1234.5678901234567 for name in languages}, {name: 123456 for name in languages}
    text = line.model_copy(update={"nats": nats, "targets": targets, "step": 0}).model_dump_json()
    head, tail = text.split('"step":0,', 1)
    with (job.out / METRICS_FILE).open("w") as file:
        for step in range(1, num_steps + LOST + 1):
            file.write(f'{head}"step":{step},{tail}\n')
    return job


def start(rank: Rank, job: Job) -> dict[str, Any]:
    """Make the trainer of a rank, ready to take its next step; then read the status."""
    join_process_group(rank, timeout_seconds=60)
    began = time.perf_counter()
    trainer = trials.trainer(rank, job)
    ready = time.perf_counter() - began
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    step = trainer.state.progress.step
    leave_process_group()
    began = time.perf_counter()
    assert training_rows(job.out, job.config.total_steps, running=True)
    status = time.perf_counter() - began
    return {
        "resumes_after": step,
        "ready_seconds": round(ready, 2),
        "rank_mib": held,
        "status_seconds": round(status, 3),
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[1000, 1_000_000])
    parser.add_argument("--languages", type=int, default=60)
    return parser.parse_args()


if __name__ == "__main__":
    main()
