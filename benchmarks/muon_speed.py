"""Measure the optimizer step with Muon: its seconds, and the floating-point operations of each rank.

    python benchmarks/muon_speed.py [--ranks 2] [--stage 3] [--rounds 3] [--against DIRECTORY]

A llama of 4 layers on CPU, fp32. After a short pass the ranks meet, and the time of `take_optimizer_step` is taken, the
slowest rank's, five times; the operations are those of matrix products in a sixth. With `--against`, a checkout of
another version, the two take turns. Each time it prints a JSON line; at the end the medians of the seconds, and of
the rounds' ratios. More ranks than cores say something about the operations alone.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parents[1]
SHAPE = {"hidden_size": 384, "intermediate_size": 1024, "num_layers": 4, "num_attention_heads": 6}
VOCAB, LENGTH, STEPS = 4096, 32, 5


def main() -> None:
    """Run the benchmark."""
    options = _parse()
    if options.once:
        print(json.dumps(measure(options.ranks, options.stage)))
        return
    checkouts = {"this": HERE} | ({"other": options.against.resolve()} if options.against else {})
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in checkouts}
    for _ in range(options.rounds):
        for name, directory in checkouts.items():
            found[name].append(_measure_checkout(directory, options.ranks, options.stage))
            print(json.dumps({"checkout": name} | found[name][-1]), flush=True)
    medians = {name: statistics.median(line["seconds"] for line in lines) for name, lines in found.items()}
    result = {"ranks": options.ranks, "stage": options.stage, "cores": os.cpu_count(), "seconds": medians}
    if options.against:
        pairs = zip(found["this"], found["other"], strict=True)
        result["ratio"] = round(statistics.median(this["seconds"] / other["seconds"] for this, other in pairs), 3)
    print(json.dumps(result))


def measure(num_ranks: int, stage: int) -> dict[str, Any]:
    """Return the median seconds of a step on the slowest rank, and each rank's billions of operations in one."""
    from tests.training.ranks import run_ranks

    results = run_ranks(train, num_ranks, stage)
    if not all(isinstance(result, tuple) for result in results):
        raise SystemExit("a rank failed")
    seconds = [max(steps) for steps in zip(*(times for times, _ in results), strict=True)]
    return {
        "seconds": round(statistics.median(seconds), 4),
        "gigaflops_of_ranks": [round(flops / 1e9, 1) for _, flops in results],
    }


def train(rank: Any, stage: int) -> tuple[list[float], int]:
    """Take some optimizer steps: the seconds of all but the last, and the operations of that."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from training.network.packed_rows import pack_rows
    from training.zero.engine import take_optimizer_step
    from training.zero.process_group import join_process_group, leave_process_group

    join_process_group(rank, timeout_seconds=300)
    engine = _make_engine(rank, stage)
    times = []
    for step in range(STEPS + 2):
        tokens = torch.randint(3, VOCAB, (1, LENGTH + 1), generator=torch.Generator().manual_seed(step))
        engine.set_gradient_accumulation_boundary(True)
        objective = engine(pack_rows(tokens.numpy(), np.full(1, LENGTH), boundary_id=1)).objective
        engine.backward(objective / LENGTH, scale_wrt_gas=False)
        torch.distributed.barrier()
        begin = time.perf_counter()
        if step <= STEPS:
            take_optimizer_step(engine, loss_is_finite=True, max_gradient_norm=1.0)
            times.append(time.perf_counter() - begin)
        else:
            with FlopCounterMode(display=False) as counter:
                take_optimizer_step(engine, loss_is_finite=True, max_gradient_norm=1.0)
    leave_process_group()
    return times[1:], counter.get_total_flops()


def _make_engine(rank: Any, stage: int) -> Any:
    import torch

    from cluster.machines import Node
    from cluster.placement import place
    from configs.pools import PoolConfig
    from tests.training.ranks import tiny_config
    from training.network.build_model import build_model
    from training.network.model_config import make_model_config
    from training.network.packed_lm import PackedLM
    from training.network.probes import probe_network
    from training.zero.engine import make_engine, set_learning_rate
    from training.zero.fragments import fill_weights

    optimizer = {"kind": "muon", "learning_rate": 1e-3}
    config = tiny_config(model=SHAPE, sequence_length=LENGTH, optimizer=optimizer)
    pool = PoolConfig(num_ranks=rank.world_size, cpus_per_rank=1, zero_stage=stage, micro_batch_size=1)
    placement = place(pool, [Node("here", rank.world_size, 0, 2**34)], wandb=None)
    settings, cpu = make_model_config(config, vocab_size=VOCAB, eos_id=1, pad_id=2), torch.device("cpu")
    traits = probe_network(settings, attention="sdpa", device=cpu, dtype=torch.float32, minds_router=False)
    model, weights = build_model(settings)
    network = PackedLM(model, boundary_id=1, max_tokens=LENGTH, config=config.model, traits=traits)
    engine = make_engine(network, config, placement, device=cpu)
    fill_weights(engine, partial(weights.draw, 0))
    set_learning_rate(engine, 1e-3)
    return engine


def _measure_checkout(directory: Path, num_ranks: int, stage: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--once", "--ranks", str(num_ranks), "--stage", str(stage)]
    environment = os.environ | {"PYTHONPATH": str(directory)}
    done = subprocess.run(command, env=environment, cwd=directory, stdout=subprocess.PIPE, text=True, check=True)
    line: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return line


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--stage", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, help="a checkout of another version")
    parser.add_argument("--once", action="store_true", help="measure what PYTHONPATH has, once")
    return parser.parse_args()


if __name__ == "__main__":
    main()
