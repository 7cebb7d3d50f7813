"""Measure saving and loading a checkpoint of over 100M parameters on two CPU ranks: Concord against DeepSpeed's own.

    python benchmarks/checkpoint_speed.py [--rounds 3] [--stage 1] [--directory DIR]

Both use one process group and one engine, in turns. Stall: seconds that the training loop stands still. Concord writes
in the background, and the benchmark waits for that before the next measurement; Concord syncs what it writes, DeepSpeed
does not. Load: seconds until the engine has weights and optimizer state again, with checksums where there are any. It
prints one JSON line for each round, then the ratios of the medians.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from configs.training.train import TrainConfig
from tests.training import ranks

WORLD = 2
VOCAB = 32768
SHAPE = {"hidden_size": 768, "intermediate_size": 2048, "num_layers": 12, "num_attention_heads": 12}


def train_config() -> TrainConfig:
    """Return the config of a Llama of 110M parameters with tied embeddings."""
    return TrainConfig.model_validate(
        {
            "model": SHAPE | {"tie_word_embeddings": True},
            "sequence_length": 32,
            "global_batch_size": 2,
            "num_steps": 1000,
            "optimizer": {"learning_rate": 1e-4},
            "schedule": {"kind": "cosine", "num_warmup_steps": 5},
            "precision": "fp32",
        }
    )


def measure(rank: Any, directory: str, stage: int, rounds: int) -> list[dict[str, Any]]:
    """Measure all rounds; return one row for each, after a round that warms up."""
    import torch

    from tests.training.trials import trainer
    from training.checkpoint.restore import restore
    from training.loop.trainer import Trainer  # noqa: F401  (imported before the clock runs)
    from training.zero.process_group import join_process_group, leave_process_group

    ranks.VOCAB = VOCAB
    join_process_group(rank, timeout_seconds=600)
    job = ranks.tiny_job(Path(directory), train_config(), world_size=WORLD, zero_stage=stage)
    subject = trainer(rank, job)
    engine, state, deepspeed_directory = subject.state.engine, subject.state, Path(directory) / "deepspeed"
    num_parameters = sum(torch.Size(shape).numel() for shape in state.built.shapes.values())
    subject._run_step(1.0)
    rows = []
    for number in range(rounds + 1):  # the first fills the caches of both, and Concord's buffer
        row: dict[str, Any] = {"round": number, "parameters": num_parameters, "state_bytes": 12 * num_parameters}
        row["concord_stall"] = measure_seconds(subject._begin_save)
        row["concord_behind"] = measure_seconds(subject._finish_save)
        torch.distributed.barrier()
        row["concord_bytes"] = count_bytes(next(state.root.glob("step-*")))
        row["deepspeed_stall"] = measure_seconds(
            lambda: engine.save_checkpoint(str(deepspeed_directory), tag="state", save_latest=False)
        )
        row["deepspeed_bytes"] = count_bytes(deepspeed_directory)
        row["concord_load"] = measure_seconds(
            lambda: restore(engine, state.root, first=state.first, rollbacks=[], notify=print)
        )
        row["deepspeed_load"] = measure_seconds(lambda: engine.load_checkpoint(str(deepspeed_directory), tag="state"))
        rows.append(row)
        torch.distributed.barrier()
        if rank.index == 0:
            shutil.rmtree(deepspeed_directory)
            shutil.rmtree(state.root)
        torch.distributed.barrier()
    leave_process_group()
    return rows[1:]


def measure_seconds(work: Callable[[], Any]) -> float:
    """Return the seconds from a barrier until `work` is done on this rank."""
    import torch

    torch.distributed.barrier()
    start = time.perf_counter()
    work()
    return round(time.perf_counter() - start, 3)


def count_bytes(directory: Path) -> int:
    """Return the bytes of all files in a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stage", type=int, default=1)
    parser.add_argument("--directory", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        rows, *_ = ranks.run_ranks(measure, WORLD, directory, arguments.stage, arguments.rounds)
    if not isinstance(rows, list):
        raise SystemExit("a rank failed")
    for row in rows:
        print(json.dumps(row))

    def median(key: str) -> float:
        return statistics.median(row[key] for row in rows)

    print(
        json.dumps(
            {
                "stall / save_checkpoint": round(median("concord_stall") / median("deepspeed_stall"), 3),
                "bytes / state": round(median("concord_bytes") / median("state_bytes"), 4),
                "load / load_checkpoint": round(median("concord_load") / median("deepspeed_load"), 3),
            }
        )
    )


if __name__ == "__main__":
    main()
