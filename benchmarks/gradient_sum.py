"""Measure the error of the gradient that the optimizer steps with, against the sum of all ranks' own in fp64.

    python benchmarks/gradient_sum.py [--ranks 2 3 4 5 6 7 8] [--stages 0 1 2 3]

Each rank of a bf16 training of one step on CPU takes three passes or four; hooks sum its own gradients in fp64. It
prints a JSON line for each number of ranks and ZeRO stage: the root mean square of the error relative to that of the
gradient, summed over ranks in fp32, which is the default, and in bf16, which a recipe may choose
(`reduce_precision: bf16`); and the norm that training reports, relative to that in fp64, minus one.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.training.ranks import run_ranks, tiny_config, tiny_job
from tests.training.trials import first_gradient, lines, train_and_keep_gradients
from training.job import Job

MODEL = {"hidden_size": 192, "intermediate_size": 768, "num_layers": 1, "num_attention_heads": 3}


def main() -> None:
    """Run the benchmark."""
    options = _parse()
    for ranks in options.ranks:
        for stage in options.stages:
            with tempfile.TemporaryDirectory() as directory:
                jobs = [job_of(Path(directory), ranks, stage, precision) for precision in ("fp32", "bf16")]
                kept = run_ranks(train_and_keep_gradients, ranks, jobs)
                found = {"ranks": ranks, "stage": stage}
                for number, job in enumerate(jobs):
                    found |= compare(job, [own[number] for own in kept])
                print(json.dumps(found), flush=True)


def job_of(directory: Path, ranks: int, stage: int, reduce_precision: str) -> Job:
    """Return a job of one step whose gradient is not clipped."""
    config = tiny_config(
        model=MODEL,
        num_steps=1,
        global_batch_size=4 * ranks - 1,
        precision="bf16",
        reduce_precision=reduce_precision,
        optimizer={"learning_rate": 0.01, "max_gradient_norm": 1e9},
        schedule={"kind": "cosine", "num_warmup_steps": 0},
    )
    return tiny_job(directory, config, world_size=ranks, zero_stage=stage, name=reduce_precision, micro_batch_size=1)


def compare(job: Job, kept: list[dict[str, Any]]) -> dict[str, float]:
    """Return the relative errors of a job's gradient and of its norm."""
    found = first_gradient(job)
    exact = np.concatenate([sum(own[name] for own in kept).ravel() for name in found])
    error = np.linalg.norm(np.concatenate(list(found.values())) - exact) / np.linalg.norm(exact)
    norm = lines(job)[0].gradient_norm / np.linalg.norm(exact) - 1
    name = job.config.reduce_precision
    return {f"{name}_error": float(f"{error:.2g}"), f"{name}_norm": float(f"{norm:.2g}")}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=list(range(2, 9)))
    parser.add_argument("--stages", type=int, nargs="+", default=[0, 1, 2, 3])
    return parser.parse_args()


if __name__ == "__main__":
    main()
