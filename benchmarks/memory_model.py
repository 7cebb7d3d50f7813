"""Measure the error of the memory that training/sizing/ predicts, of steps (memory.py) and of the start (start.py).

    python benchmarks/memory_model.py [--only WORD ...] [--seconds 120]

Each case trains two steps of two passes on the CPU, every rank a process of its own, under PyTorch's memory profiler,
which sees every tensor that is allocated and freed. It prints one JSON line for each case: the peak of rank 0 as
measured and as predicted, in MiB, without the process itself, and the peak until the first step; then the mean and the
largest error of steps, and the range of those of the start, which is meant as a bound. DeepSpeed's reduce
bucket, which is larger than these models, counts on both sides as far as it is touched. It does not cover offloading,
and CUDA, where the allocator's fragments and NCCL's buffers are added.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from cluster.executor import Rank
from cluster.host.network import free_port
from cluster.machines import Node
from cluster.placement import Placement, place
from configs.pools import PoolConfig
from configs.training.train import TrainConfig
from training.sizing.fit import choose_layout
from training.sizing.recipe_size import find_parameters, measure_model

FIRST_STEP = "first step"
VOCAB = 4096
SMALL = {"hidden_size": 128, "intermediate_size": 352, "num_layers": 2, "num_attention_heads": 4}
MEDIUM = {"hidden_size": 384, "intermediate_size": 1024, "num_layers": 6, "num_attention_heads": 6}
WIDE = {"hidden_size": 768, "intermediate_size": 2048, "num_layers": 2, "num_attention_heads": 12}
GROUPED = MEDIUM | {"num_key_value_heads": 2}
MOE = SMALL | {
    "overrides": {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 96},
    "intermediate_size": 96,
}


def cases() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the settings of each case."""
    for precision in ("fp32", "bf16"):
        for stage in (0, 1, 2, 3):
            for ranks in (1, 2):
                yield f"small {precision} zero-{stage} ranks-{ranks}", case(SMALL, stage, ranks, precision=precision)
    for stage in (0, 1, 2, 3):
        yield f"medium fp32 zero-{stage} ranks-2", case(MEDIUM, stage, 2, length=256)
        yield f"medium bf16 zero-{stage} ranks-2", case(MEDIUM, stage, 2, precision="bf16", length=16)
    yield "wide fp32 zero-3 ranks-2", case(WIDE, 3, 2, length=64)
    yield "long rows", case(SMALL, 1, 1, length=1024, rows=2)
    yield "many rows", case(SMALL, 1, 1, length=128, rows=16)
    yield "grouped queries", case(GROUPED, 1, 1, length=256, rows=2)
    yield "eager attention", case(SMALL, 1, 1, length=512, rows=2, attention="eager")
    yield "activation checkpointing", case(MEDIUM, 1, 1, length=512, rows=2, activation_checkpointing=True)
    yield "untied", case(SMALL | {"tie_word_embeddings": False}, 1, 1)
    yield "muon", case(MEDIUM, 1, 2, optimizer="muon")
    for precision, stage in (("bf16", 0), ("fp32", 1)):  # where its update is the peak
        settings = case(MEDIUM, stage, 1, precision=precision, length=16, optimizer="muon")
        yield f"muon {precision} zero-{stage} ranks-1", settings
    for stage in (1, 2, 3):
        settings = case(MEDIUM, stage, 2, precision="bf16", length=16, offload_optimizer=True)
        yield f"offloaded bf16 zero-{stage} ranks-2", settings
    yield "frozen layers", case(MEDIUM, 1, 1, length=256, freeze=("model.layers.*",))
    yield "qwen3", case(MEDIUM | {"architecture": "qwen3"}, 1, 1, length=256, rows=2)
    yield "olmo2", case(MEDIUM | {"architecture": "olmo2"}, 1, 1, length=256, rows=2)
    yield "gemma3", case(MEDIUM | {"architecture": "gemma3_text", "overrides": {"head_dim": 64}}, 1, 1, length=256)
    yield "qwen3_moe", case(MOE | {"architecture": "qwen3_moe"}, 1, 1, length=256, rows=4)


def case(
    model: dict[str, Any],
    stage: int,
    ranks: int,
    *,
    precision: str = "fp32",
    length: int = 64,
    rows: int = 1,
    optimizer: str = "adamw",
    freeze: tuple[str, ...] = (),
    **pool: Any,
) -> dict[str, Any]:
    """Return the settings of a case: a training config and a pool."""
    config = {
        "model": {"tie_word_embeddings": True} | model,
        "sequence_length": length,
        "global_batch_size": 2 * ranks * rows,
        "num_steps": 2,
        "optimizer": {"kind": optimizer, "learning_rate": 1e-3},
        "schedule": {"kind": "cosine", "num_warmup_steps": 0},
        "precision": precision,
        "freeze": list(freeze),
    }
    return {"config": config, "pool": {"num_ranks": ranks, "zero_stage": stage, "micro_batch_size": rows} | pool}


def main() -> None:
    """Run the benchmark."""
    options = _parse()
    os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    errors, of_start = [], []
    for name, given in cases():
        if not any(word in name for word in options.only):
            continue
        measured, measured_start = measure(given, seconds=options.seconds)
        predicted, predicted_start = predict(given)
        errors.append(predicted["total"] / measured - 1)
        of_start.append(predicted_start / measured_start - 1)
        sizes = {"measured": measured} | predicted
        sizes |= {"start_measured": measured_start, "start_predicted": predicted_start}
        line = {"case": name, "error": round(errors[-1], 3), "start_error": round(of_start[-1], 3)}
        print(json.dumps(line | {part: round(value / 2**20, 2) for part, value in sizes.items()}), flush=True)
    line = {"cases": len(errors), "mean_error": round(fmean(map(abs, errors)), 3)}
    for name, found in (("", errors), ("start_", of_start)):
        line |= {f"{name}most_below": round(min(found), 3), f"{name}most_above": round(max(found), 3)}
    print(json.dumps(line))


def predict(given: dict[str, Any]) -> tuple[dict[str, int], int]:
    """Return the predicted bytes of steps, by part and in `total`, and those of the start, without the process."""
    config, placement = _parse_settings(given)
    size = measure_model(find_parameters(config, vocab_size=VOCAB), config)
    chosen = choose_layout(size, config, replace(placement, leaves_open=(), memory_bytes_per_rank=None)).chosen
    found = chosen.memory
    parts = {name: value for name, value in found.parts.items() if name != "process"}
    start = chosen.start + chosen.host.start
    return {"total": sum(parts.values())} | parts, start - found.process


def measure(given: dict[str, Any], *, seconds: float) -> tuple[int, int]:
    """Return the most bytes of tensors that rank 0 holds at a time, and the most until its first step."""
    context, port = multiprocessing.get_context("spawn"), free_port()
    with tempfile.TemporaryDirectory() as directory:
        result = Path(directory) / "peak"
        ranks = [
            context.Process(target=_train, args=(given, number, port, result))
            for number in range(given["pool"]["num_ranks"])
        ]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(seconds)
            if process.exitcode is None:
                process.kill()
        if not result.exists():
            raise SystemExit(f"rank 0 gave no result in {seconds:g} s")
        whole, start = map(int, result.read_text().split())
        return whole, start


def _train(given: dict[str, Any], number: int, port: int, result: Path) -> None:
    from torch.profiler import ProfilerActivity, profile

    from training.conform.memory import find_peak, memory_changes
    from training.zero.process_group import join_process_group, leave_process_group

    config, placement = _parse_settings(given)
    rank = Rank(number, placement.num_ranks, "cpu", 1, "127.0.0.1", port, num_restarts=0)
    os.environ.update(rank.environment())
    join_process_group(rank, timeout_seconds=60)
    _outlive_gloo()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        num_trained = _train_two_steps(config, placement, number)
    if number == 0:
        found = [memory_changes(profiler), memory_changes(profiler, before=FIRST_STEP)]
        result.write_text(" ".join(str(find_peak(changes, num_trained=num_trained)) for changes in found))
    leave_process_group()


def _outlive_gloo() -> None:
    """Keep what a collective sent until gloo's thread has let go of it: the profiler sees no memory freed there."""
    import torch

    def outlived(collective: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            result = collective(*arguments, **named)
            if result is None:  # it is done
                time.sleep(0.003)
            return result

        return call

    for name in ("all_reduce", "all_gather_into_tensor", "all_to_all_single", "reduce_scatter_tensor"):
        setattr(torch.distributed, name, outlived(getattr(torch.distributed, name)))


def _train_two_steps(config: TrainConfig, placement: Placement, number: int) -> int:
    import torch

    from training.network.attention import set_attention
    from training.network.build_model import build_model
    from training.network.model_config import make_model_config
    from training.network.packed_lm import PackedLM
    from training.network.packed_rows import pack_rows
    from training.network.probes import probe_network
    from training.zero.engine import make_engine, set_learning_rate, take_optimizer_step
    from training.zero.fragments import fill_weights
    from training.zero.optimizers import freeze_parameters

    settings = make_model_config(config, vocab_size=VOCAB, eos_id=1, pad_id=2)
    model, weights = build_model(settings, activation_checkpointing=placement.activation_checkpointing)
    cpu, dtype = torch.device("cpu"), torch.bfloat16 if config.precision == "bf16" else torch.float32
    traits = probe_network(settings, attention=placement.attention, device=cpu, dtype=dtype, minds_router=True)
    set_attention(model, traits.attention)
    freeze_parameters(model, config.freeze)
    num_trained: int = sum(p.numel() for p in model.parameters() if p.requires_grad)
    rows, length = placement.micro_batch_size, config.sequence_length
    network = PackedLM(model, boundary_id=1, max_tokens=rows * length, config=config.model, traits=traits)
    engine = make_engine(network, config, placement, device=cpu)
    fill_weights(engine, partial(weights.draw, 0))
    set_learning_rate(engine, 1e-3)
    generator = torch.Generator().manual_seed(number)
    with torch.profiler.record_function(FIRST_STEP):
        pass
    for _ in range(2):
        for last in (False, True):
            tokens = torch.randint(3, VOCAB, (rows, length + 1), generator=generator)
            tokens[:, 50::100] = 1  # documents end, or no mask would be made
            engine.set_gradient_accumulation_boundary(last)
            objective = engine(pack_rows(tokens.numpy(), np.full(rows, length), boundary_id=1)).objective
            engine.backward(objective / (rows * length), scale_wrt_gas=False)
            del objective
        take_optimizer_step(engine, loss_is_finite=True, max_gradient_norm=config.optimizer.max_gradient_norm)
    return num_trained


def _parse_settings(given: dict[str, Any]) -> tuple[TrainConfig, Placement]:
    pool = PoolConfig(cpus_per_rank=1, **given["pool"])
    nodes = [Node("here", given["pool"]["num_ranks"], 0, 2**34)]
    return TrainConfig.model_validate(given["config"]), place(pool, nodes, wandb=None)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=[""], help="cases whose name holds one of these")
    parser.add_argument("--seconds", type=float, default=120, help="end a rank that takes longer")
    return parser.parse_args()


if __name__ == "__main__":
    main()
