"""Measure the memory and time that a training takes to start: from the engine's making to the end of the first step.

    python benchmarks/start_up.py [--layers 17] [--ranks 4] [--stage 3] [--resume]

Each rank prints one JSON line: seconds until the first step, the most memory that was resident until the end of that
step, and the most in the two steps after it (steady), in MiB without what was resident before. With `--resume` the
times are those of a second start, which loads a checkpoint. The model has 400 million parameters in fp32; DeepSpeed's
buckets and live parameters are limited to 50 million elements, so that the ranks fit in 24 GiB together.
"""

import argparse
import json
import sys
import tempfile
import time
from math import prod
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from cluster.executor import Rank
from configs.training.train import TrainConfig
from tests.training.ranks import run_ranks, tiny_config, tiny_job
from tests.training.trials import trainer
from training.job import Job

LIMIT_ELEMENTS = 50_000_000
MIB = 1 << 20


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=17)
    parser.add_argument("--width", type=int, default=1216)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--stage", type=int, default=3)
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args()
    sizes = {"hidden_size": given.width, "intermediate_size": 4 * given.width, "num_attention_heads": given.width // 64}
    config = tiny_config(
        model=sizes | {"num_layers": given.layers},
        global_batch_size=given.ranks,
        num_steps=3,
        checkpoint_every_steps=100,
        schedule={"kind": "cosine", "num_warmup_steps": 0},
    )
    with tempfile.TemporaryDirectory() as directory:
        job = _job(Path(directory), config, given)
        found = run_ranks(measure, given.ranks, job)
        if given.resume:
            further = config.model_copy(update={"num_steps": 6})
            found = run_ranks(measure, given.ranks, _job(Path(directory), further, given))
    for line in found:
        print(json.dumps(line))


def _job(directory: Path, config: TrainConfig, given: argparse.Namespace) -> Job:
    limits = {"reduce_bucket_size": LIMIT_ELEMENTS}
    if given.stage == 3:
        limits |= {"stage3_max_live_parameters": LIMIT_ELEMENTS}
    return tiny_job(
        directory,
        config,
        world_size=given.ranks,
        zero_stage=given.stage,
        micro_batch_size=1,
        deepspeed={"zero_optimization": limits},
    )


def measure(rank: Rank, job: Job) -> dict[str, Any]:
    """Train, and return what it took."""
    from training.loop.step import Stepper
    from training.zero.process_group import join_process_group, leave_process_group

    join_process_group(rank, timeout_seconds=600)
    before, started = resident_bytes("VmRSS"), time.perf_counter()
    original, seen = Stepper.run_step, []
    found: dict[str, Any] = {"rank": rank.index}

    def run_step(self: Any, *arguments: Any, **named: Any) -> Any:
        if not seen:
            found["start_seconds"] = round(time.perf_counter() - started, 1)
            found["built_mib"] = (resident_bytes("VmHWM") - before) // MIB
        result = original(self, *arguments, **named)
        if not seen:
            found["start_mib"] = (resident_bytes("VmHWM") - before) // MIB
            Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM to what is resident now
        seen.append(result.loss)
        return result

    Stepper.run_step = run_step  # type: ignore[method-assign]
    subject = trainer(rank, job)
    subject._before_commit = subject._finish_save = lambda: None  # type: ignore[method-assign]
    subject._train()
    found["steady_mib"] = (resident_bytes("VmHWM") - before) // MIB
    found["start_over_steady"] = round(found["start_mib"] / found["steady_mib"], 2)
    found["losses"] = seen
    shapes = subject.state.built.shapes
    found["parameters"] = sum(prod(shape) for shape in shapes.values())
    leave_process_group()
    return found


def resident_bytes(name: str) -> int:
    """Return a size of this process that Linux keeps, such as VmRSS."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise KeyError(name)


if __name__ == "__main__":
    main()
