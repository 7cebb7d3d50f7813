"""Save a checkpoint on each number of ranks and ZeRO stage, load it on each other: does any number change?

    python benchmarks/elastic_matrix.py

A tiny model in bf16 with fp32 masters, on the CPU. The first table (rows: saved, columns: loaded, both as ranks/stage)
has the largest absolute difference over the fp32 masters and both moments of all parameters. The second has, for a
training that is saved on 2 ranks in stage 1 and goes on elsewhere, the largest relative difference of its losses to
those of the undisturbed training. Two Markdown tables and a JSON line.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from cluster.executor import Rank
from configs.training import TrainConfig
from tests.training.ranks import run_ranks, tiny_config, tiny_job
from tests.training.trials import State, lines, put_together, state_on_disk, train_all, trainer
from training.checkpoint.directory import directory_of
from training.checkpoint.restore import load_checkpoint
from training.job import Job
from training.loop.run_state import CHECKPOINTS
from training.zero.engine import join, leave
from training.zero.fragments import needed_fragments, owned_fragments

SAVED_STEP, NUM_STEPS = 4, 8

Pieces = list[tuple[str, str, int, Any]]
"""Stretches of state: kind, parameter, first element, elements."""


@dataclass(frozen=True)
class Layout:
    """How a training is laid out."""

    world_size: int
    stage: int

    def __str__(self) -> str:
        return f"{self.world_size}/{self.stage}"


LAYOUTS = [Layout(world_size, stage) for world_size in (1, 2, 3) for stage in (0, 1, 2, 3)]
HOME = Layout(2, 1)
"""Where the training of the second table begins."""


def config(precision: str) -> TrainConfig:
    """Of every training here."""
    return tiny_config(precision=precision, num_steps=NUM_STEPS, checkpoint_every_steps=SAVED_STEP)


def job(directory: Path, layout: Layout, name: str, *, precision: str = "bf16", origin: Job | None = None) -> Job:
    """A training, with the checkpoint of `origin` to go on from."""
    made = tiny_job(directory, config(precision), world_size=layout.world_size, zero_stage=layout.stage, name=name)
    if origin is not None:
        shutil.copytree(saved_by(origin), directory_of(made.out / CHECKPOINTS, SAVED_STEP))
    return made


def saved_by(origin: Job) -> Path:
    """The checkpoint that others go on from."""
    return directory_of(origin.out / CHECKPOINTS, SAVED_STEP)


def on_ranks(fn: Callable[..., Any], jobs: Iterable[Job], *arguments: Any) -> dict[Path, list[Any]]:
    """Call `fn(rank, jobs, *arguments)` once a world size; by a job's directory, what each of its ranks has of it."""
    by_size: dict[int, list[Job]] = {}
    for one in jobs:
        by_size.setdefault(one.placement.num_ranks, []).append(one)
    results: dict[Path, list[Any]] = {}
    for world_size, some in by_size.items():
        of_ranks = run_ranks(fn, world_size, some, *arguments)
        if any(isinstance(result, int) for result in of_ranks):
            raise SystemExit(f"a rank of {world_size} ended badly: {of_ranks}")
        for number, one in enumerate(some):
            results[one.out] = [result[number] for result in of_ranks]
    return results


def load_all(rank: Rank, jobs: list[Job], checkpoints: list[Path]) -> list[list[Pieces]]:
    """By job and checkpoint, what the rank holds once it has loaded it."""
    join(rank, timeout_seconds=60)
    held = []
    for one in jobs:
        engine = trainer(rank, one).course.engine
        held.append([_load(engine, checkpoint) for checkpoint in checkpoints])
    leave()
    return held


def _load(engine: object, checkpoint: Path) -> Pieces:
    for fragment in needed_fragments(engine):
        for tensor in fragment.tensors.values():
            tensor.fill_(torch.nan)  # so that what is not loaded is seen
    load_checkpoint(engine, checkpoint)
    return [
        (kind, fragment.name, fragment.offset, tensor.float().numpy().copy())
        for fragment in owned_fragments(engine)
        for kind, tensor in fragment.tensors.items()
    ]


def largest_difference(before: State, after: State) -> float:
    """Over all elements of all tensors; both must have the same."""
    assert before.keys() == {"master", "exp_avg", "exp_avg_sq"}
    assert {kind: before[kind].keys() for kind in before} == {kind: after[kind].keys() for kind in after}
    pairs = [(before[kind][name], after[kind][name]) for kind in before for name in before[kind]]
    return float(np.max([np.abs(one.astype(np.float64) - other).max() for one, other in pairs]))


def matrix(directory: Path, saved: dict[Layout, Job]) -> dict[Layout, dict[Layout, float]]:
    """By where it was saved and where it was loaded, the largest difference."""
    loads = {layout: job(directory, layout, f"load-{index}") for index, layout in enumerate(LAYOUTS)}
    held = on_ranks(load_all, loads.values(), [saved_by(origin) for origin in saved.values()])
    table: dict[Layout, dict[Layout, float]] = {}
    for number, (old, origin) in enumerate(saved.items()):
        before = state_on_disk(saved_by(origin))
        for new, one in loads.items():
            after = put_together([piece for of_rank in held[one.out] for piece in of_rank[number]])
            table.setdefault(old, {})[new] = largest_difference(before, after)
    return table


def courses(directory: Path, saved: dict[str, Job]) -> dict[str, dict[Layout, float]]:
    """By precision and where training goes on, the largest relative difference of a loss."""
    jobs = {
        (precision, layout): job(directory, layout, f"on-{precision}-{index}", precision=precision, origin=origin)
        for precision, origin in saved.items()
        for index, layout in enumerate(LAYOUTS)
    }
    on_ranks(train_all_of, jobs.values())
    table: dict[str, dict[Layout, float]] = {}
    for (precision, layout), one in jobs.items():
        calm = [line.loss for line in lines(saved[precision])[SAVED_STEP:]]
        losses = [line.loss for line in lines(one)]
        differences = [abs(a - b) / abs(b) for a, b in zip(losses, calm, strict=True)]
        table.setdefault(precision, {})[layout] = max(differences)
    return table


def train_all_of(rank: Rank, jobs: list[Job]) -> list[None]:
    """Train each to its end."""
    train_all(rank, jobs)
    return [None for _ in jobs]


def markdown(corner: str, rows: dict[Any, dict[Layout, float]]) -> str:
    """A table with a column a layout."""
    head = [corner, *map(str, LAYOUTS)]
    body = [[str(name), *(f"{row[layout]:.2g}" for layout in LAYOUTS)] for name, row in rows.items()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body))


def main() -> None:
    """Run it."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        saved = {layout: job(directory, layout, f"save-{index}") for index, layout in enumerate(LAYOUTS)}
        single = job(directory, HOME, "save-fp32", precision="fp32")
        on_ranks(train_all_of, [*saved.values(), single])
        differences = matrix(directory, saved)
        print(markdown("saved \\ loaded", differences), flush=True)
        losses = courses(directory, {"bf16": saved[HOME], "fp32": single})
        print(f"\n{markdown(f'saved on {HOME}, goes on', losses)}\n")
    largest = max(value for row in differences.values() for value in row.values())
    relative = {f"largest_relative_loss_difference_{name}": max(row.values()) for name, row in losses.items()}
    print(json.dumps({"largest_state_difference": largest, **relative}))
    sys.exit(largest != 0)


if __name__ == "__main__":
    main()
