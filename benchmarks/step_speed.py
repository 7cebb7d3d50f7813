"""Measure tokens per second of training on two CPU ranks: Concord, a bare DeepSpeed loop, and transformers.Trainer.

    python benchmarks/step_speed.py [--steps 70] [--rounds 3] [--precision fp32]

All have the same model, batch, ZeRO stage and precision. Concord writes its metrics, and a checkpoint every 50 steps.
The bare loop calls the engine with labels and does nothing else; its optimizer is torch.optim.AdamW, as the Trainer's.
The systems take turns in fresh processes. Each time it prints a JSON line with the throughput after the first ten
steps, including all that happens between two steps; at the end the ratios of the medians over the rounds.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from configs.base import Artifact
from configs.training.train import TrainConfig
from data_prep.manifests import Segment, TokenizedCorpus, TokenShard
from data_prep.tokens.megatron_shards import dtype_for, write_shard
from tests.training import ranks

VOCAB, LENGTH, BATCH, WORLD = 8192, 256, 8, 2
SHAPE = {"hidden_size": 256, "intermediate_size": 704, "num_layers": 4, "num_attention_heads": 4}
WARM_UP = 10


def train_config(steps: int, precision: str) -> TrainConfig:
    """Return Concord's training config."""
    return TrainConfig.model_validate(
        {
            "model": SHAPE,
            "sequence_length": LENGTH,
            "global_batch_size": BATCH,
            "num_steps": steps,
            "optimizer": {"learning_rate": 1e-3},
            "schedule": {"kind": "cosine", "num_warmup_steps": 5},
            "precision": precision,
            "checkpoint_every_steps": 50,
        }
    )


def settings(precision: str) -> dict[str, Any]:
    """Return the DeepSpeed config of the two other systems."""
    bf16 = precision == "bf16"
    return {
        "train_micro_batch_size_per_gpu": BATCH // WORLD,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 1.0,
        "steps_per_print": 10**9,
        "bf16": {"enabled": bf16},
        "zero_optimization": {"stage": 1},
        **({"data_types": {"grad_accum_dtype": "fp32"}} if bf16 else {}),
    }


def llama() -> Any:
    """Return the model, randomly initialised."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    names = {"num_layers": "num_hidden_layers"}
    shape = {names.get(name, name): value for name, value in SHAPE.items()}
    return AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=VOCAB, max_position_embeddings=LENGTH, **shape))


def concord(rank: Any, steps: int, precision: str, directory: str) -> list[float]:
    """Train with Concord; return the Unix time of the end of each step on rank 0."""
    from training.log.metrics_file import METRICS_FILE, read_metrics
    from training.loop.trainer import train_rank

    job = make_job(Path(directory), train_config(steps, precision))
    train_rank(rank, job)
    return [line.time for line in read_metrics(job.out / METRICS_FILE)] if rank.index == 0 else []


def make_job(directory: Path, config: TrainConfig) -> Any:
    """Return a job with random documents of 20 to 400 tokens, enough for a run; each rank writes the same files."""
    ranks.VOCAB = VOCAB
    pool = {"micro_batch_size": BATCH // WORLD}
    job = ranks.tiny_job(directory, config, world_size=WORLD, zero_stage=1, **pool)
    random = np.random.default_rng(0)
    documents = [[*random.integers(3, VOCAB, size=random.integers(20, 400)).tolist(), 1] for _ in range(1000)]
    num_tokens = sum(map(len, documents))
    write_shard(directory / "text", documents, dtype_for(VOCAB))
    segment = Segment(language="en", num_documents=1000, num_tokens=num_tokens, num_bytes=3 * num_tokens)
    shard = TokenShard(path="text", source="made-up", segments=(segment,))
    tokens = TokenizedCorpus(shards=(shard,), vocab_size=VOCAB, eos_id=1, unigram_entropy=9.0)
    return replace(job, tokens=Artifact(directory, tokens))


def bare(rank: Any, steps: int, precision: str, directory: str) -> list[float]:
    """Train with forward, backward and step of DeepSpeed alone; return the Unix time of the end of each step."""
    import deepspeed
    import torch

    join(rank)
    model = llama()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings(precision))
    times = []
    for step in range(steps):
        ids = torch.randint(0, VOCAB, (BATCH // WORLD, LENGTH), generator=torch.Generator().manual_seed(step))
        engine.backward(engine(input_ids=ids, labels=ids, use_cache=False).loss)
        engine.step()
        times.append(time.time())
    deepspeed.comm.destroy_process_group()
    return times


def trainer(rank: Any, steps: int, precision: str, directory: str) -> list[float]:
    """Train with transformers.Trainer, the same DeepSpeed config and no saving; return the time of each step's end."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    join(rank)
    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.time())

    rows = torch.randint(0, VOCAB, (BATCH * steps, LENGTH))
    arguments = TrainingArguments(
        output_dir=directory,
        max_steps=steps,
        per_device_train_batch_size=BATCH // WORLD,
        learning_rate=1e-3,
        bf16=precision == "bf16",
        use_cpu=True,
        deepspeed=settings(precision),
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    dataset = [{"input_ids": row, "labels": row} for row in rows]
    Trainer(model=llama(), args=arguments, train_dataset=dataset, callbacks=[Clock()]).train()
    return times


def join(rank: Any) -> None:
    """Join the process group, without the kernel that DeepSpeed would compile."""
    from training.zero.process_group import join_process_group

    join_process_group(rank, timeout_seconds=600)


def run(system: str, steps: int, precision: str) -> float:
    """Return tokens per second from the end of the warm-up to the end of the last step."""
    with tempfile.TemporaryDirectory() as directory:
        results = ranks.run_ranks(globals()[system], WORLD, steps, precision, directory)
    times = results[0]
    if not isinstance(times, list):
        raise SystemExit(f"{system} failed")
    return BATCH * LENGTH * (len(times) - WARM_UP) / (times[-1] - times[WARM_UP - 1])


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=70)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--systems", nargs="+", default=["concord", "bare", "trainer"])
    arguments = parser.parse_args()
    found: dict[str, list[float]] = {system: [] for system in arguments.systems}
    for _ in range(arguments.rounds):
        for system, rates in found.items():
            rates.append(run(system, arguments.steps, arguments.precision))
            print(json.dumps({"system": system, "tokens_per_second": round(rates[-1], 1)}), flush=True)
    medians = {system: statistics.median(rates) for system, rates in found.items()}
    own = medians["concord"]
    ratios = {f"concord / {name}": round(own / rate, 3) for name, rate in medians.items() if name != "concord"}
    print(json.dumps({"precision": arguments.precision, "cores": os.cpu_count(), **ratios}))


if __name__ == "__main__":
    main()
