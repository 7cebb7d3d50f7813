"""Save a checkpoint on each number of ranks and ZeRO stage, load it on each other, and compare all state and losses.

    python benchmarks/elastic_matrix.py

The model is tiny, in bf16 with fp32 masters, on the CPU. The first table (rows: saved, columns: loaded, both as
ranks/stage) has the largest absolute difference over the fp32 masters and both moments of all parameters. The second
has the largest relative difference of the losses of a training that is saved on 2 ranks in stage 1 and goes on in each
layout, against those of the undisturbed training. It prints two Markdown tables and a JSON line.
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
from configs.training.train import TrainConfig
from tests.training.ranks import run_ranks, tiny_config, tiny_job
from tests.training.trials import State, lines, put_together, state_on_disk, train_all, trainer
from training.checkpoint.restore import load_checkpoint
from training.job import Job
from training.records import CHECKPOINTS, directory_of
from training.zero.fragments import needed_fragments, owned_fragments
from training.zero.process_group import join_process_group, leave_process_group

SAVED_STEP, NUM_STEPS = 4, 8

Pieces = list[tuple[str, str, int, Any]]
"""Fragments of state: kind, parameter, index of the first element, elements."""


@dataclass(frozen=True)
class Layout:
    """The number of ranks and the ZeRO stage of a training."""

    world_size: int
    stage: int

    def __str__(self) -> str:
        return f"{self.world_size}/{self.stage}"


LAYOUTS = [Layout(world_size, stage) for world_size in (1, 2, 3) for stage in (0, 1, 2, 3)]
START_LAYOUT = Layout(2, 1)
"""The layout in which the training of the second table starts."""


def config(precision: str) -> TrainConfig:
    """Return the config of every training here."""
    return tiny_config(precision=precision, num_steps=NUM_STEPS, checkpoint_every_steps=SAVED_STEP)


def job(directory: Path, layout: Layout, name: str, *, precision: str = "bf16", origin: Job | None = None) -> Job:
    """Make a training; with `origin` it goes on from that one's checkpoint."""
    made = tiny_job(directory, config(precision), world_size=layout.world_size, zero_stage=layout.stage, name=name)
    if origin is not None:
        shutil.copytree(saved_by(origin), directory_of(made.out / CHECKPOINTS, SAVED_STEP))
    return made


def saved_by(origin: Job) -> Path:
    """Return the checkpoint that other trainings go on from."""
    return directory_of(origin.out / CHECKPOINTS, SAVED_STEP)


def run_on_ranks(fn: Callable[..., Any], jobs: Iterable[Job], *arguments: Any) -> dict[Path, list[Any]]:
    """Call `fn(rank, jobs, *arguments)` once for each world size.

    Return by a job's directory what each of its ranks returned for it, in the order of the ranks.
    """
    by_size: dict[int, list[Job]] = {}
    for one in jobs:
        by_size.setdefault(one.placement.num_ranks, []).append(one)
    results: dict[Path, list[Any]] = {}
    for world_size, same_size in by_size.items():
        by_rank = run_ranks(fn, world_size, same_size, *arguments)
        if any(isinstance(result, int) for result in by_rank):
            raise SystemExit(f"a rank of {world_size} ended badly: {by_rank}")
        for number, one in enumerate(same_size):
            results[one.out] = [result[number] for result in by_rank]
    return results


def load_all(rank: Rank, jobs: list[Job], checkpoints: list[Path]) -> list[list[Pieces]]:
    """Return by job and checkpoint what the rank holds once it has loaded it."""
    join_process_group(rank, timeout_seconds=60)
    held = []
    for one in jobs:
        engine = trainer(rank, one).state.engine
        held.append([_load(engine, checkpoint) for checkpoint in checkpoints])
    leave_process_group()
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
    """Return the largest absolute difference over all elements of all tensors. Both must have the same tensors."""
    assert before.keys() == {"master", "exp_avg", "exp_avg_sq"}
    assert {kind: before[kind].keys() for kind in before} == {kind: after[kind].keys() for kind in after}
    pairs = [(before[kind][name], after[kind][name]) for kind in before for name in before[kind]]
    return float(np.max([np.abs(one.astype(np.float64) - other).max() for one, other in pairs]))


def compare_states(directory: Path, saved: dict[Layout, Job]) -> dict[Layout, dict[Layout, float]]:
    """Return the largest difference by the layout that saved and the layout that loaded."""
    loads = {layout: job(directory, layout, f"load-{index}") for index, layout in enumerate(LAYOUTS)}
    held = run_on_ranks(load_all, loads.values(), [saved_by(origin) for origin in saved.values()])
    table: dict[Layout, dict[Layout, float]] = {}
    for number, (old, origin) in enumerate(saved.items()):
        before = state_on_disk(saved_by(origin))
        for new, one in loads.items():
            after = put_together([piece for of_rank in held[one.out] for piece in of_rank[number]])
            table.setdefault(old, {})[new] = largest_difference(before, after)
    return table


def compare_losses(directory: Path, saved: dict[str, Job]) -> dict[str, dict[Layout, float]]:
    """Return the largest relative difference of a loss by precision and by the layout that training goes on in."""
    jobs = {
        (precision, layout): job(directory, layout, f"on-{precision}-{index}", precision=precision, origin=origin)
        for precision, origin in saved.items()
        for index, layout in enumerate(LAYOUTS)
    }
    run_on_ranks(train_all_of, jobs.values())
    table: dict[str, dict[Layout, float]] = {}
    for (precision, layout), one in jobs.items():
        calm = [line.loss for line in lines(saved[precision])[SAVED_STEP:]]
        losses = [line.loss for line in lines(one)]
        differences = [abs(a - b) / abs(b) for a, b in zip(losses, calm, strict=True)]
        table.setdefault(precision, {})[layout] = max(differences)
    return table


def train_all_of(rank: Rank, jobs: list[Job]) -> list[None]:
    """Train each job to its end."""
    train_all(rank, jobs)
    return [None for _ in jobs]


def markdown(corner: str, rows: dict[Any, dict[Layout, float]]) -> str:
    """Return a Markdown table with a column for each layout."""
    head = [corner, *map(str, LAYOUTS)]
    body = [[str(name), *(f"{row[layout]:.2g}" for layout in LAYOUTS)] for name, row in rows.items()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body))


def main() -> None:
    """Run the benchmark."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        saved = {layout: job(directory, layout, f"save-{index}") for index, layout in enumerate(LAYOUTS)}
        single = job(directory, START_LAYOUT, "save-fp32", precision="fp32")
        run_on_ranks(train_all_of, [*saved.values(), single])
        differences = compare_states(directory, saved)
        print(markdown("saved \\ loaded", differences), flush=True)
        losses = compare_losses(directory, {"bf16": saved[START_LAYOUT], "fp32": single})
        print(f"\n{markdown(f'saved on {START_LAYOUT}, goes on', losses)}\n")
    largest = max(value for row in differences.values() for value in row.values())
    relative = {f"largest_relative_loss_difference_{name}": max(row.values()) for name, row in losses.items()}
    print(json.dumps({"largest_state_difference": largest, **relative}))
    sys.exit(largest != 0)


if __name__ == "__main__":
    main()
