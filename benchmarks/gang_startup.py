"""Measure how long two CPU ranks take to their first DeepSpeed step: Concord's gang against plain Ray Train.

    python benchmarks/gang_startup.py [--repeats 2]

Both run the same function, in turn, each time in a fresh process with a fresh private Ray. It prints one JSON line for
each run, then the ratio of the medians.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time


def first_step(started: float) -> dict[str, float]:
    """Import, build a small Llama and a ZeRO-1 engine, take a step; return the seconds since `started` at each."""
    at = {"entered": time.time() - started}
    import deepspeed
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    at["imported"] = time.time() - started
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # for both: see training/zero/engine.py
    deepspeed.init_distributed("gloo", auto_mpi_discovery=False, verbose=False)
    shape = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=8192, **shape))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    settings = {"train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": True}, "zero_optimization": {"stage": 1}}
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    ids = torch.zeros((1, 64), dtype=torch.long)
    engine.backward(engine(input_ids=ids, labels=ids).loss)
    engine.step()
    at["first_step"] = time.time() - started
    return {name: round(seconds, 2) for name, seconds in at.items()}


def concord(started: float) -> None:
    """Measure the gang of cluster/ray/executor.py."""
    from cluster.ray.executor import RayExecutor
    from configs.pools import PoolConfig

    executor = RayExecutor(PoolConfig(num_ranks=2), address="local")
    print(json.dumps(executor.gang(_on_rank, started, label="measuring")))


def _on_rank(rank: object, started: float) -> dict[str, float]:
    return first_step(started)


def ray_train(started: float) -> None:
    """Measure TorchTrainer of Ray Train v2; its worker writes a file, as report() would cost seconds more."""
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    ray.init(address="local", include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    with tempfile.TemporaryDirectory() as storage:
        result = os.path.join(storage, "result.json")
        run_config = RunConfig(storage_path=storage, name="run")
        scaling = ScalingConfig(num_workers=2)
        config = {"started": started, "result": result}
        TorchTrainer(_on_worker, train_loop_config=config, scaling_config=scaling, run_config=run_config).fit()
        with open(result, encoding="utf-8") as file:
            print(file.read())


def _on_worker(config: dict[str, object]) -> None:
    os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ["LOCAL_SIZE"] = "2"
    times = first_step(float(str(config["started"])))
    if os.environ["RANK"] == "0":
        with open(str(config["result"]), "w", encoding="utf-8") as file:
            json.dump(times, file)


def main() -> None:
    """Run the benchmark, or one of the two systems in this process with `--only`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--only", choices=["concord", "ray_train"])
    arguments = parser.parse_args()
    if arguments.only:
        globals()[arguments.only](time.time())
        return
    seconds: dict[str, list[float]] = {"concord": [], "ray_train": []}
    for _ in range(arguments.repeats):
        for name, results in seconds.items():
            command = [sys.executable, __file__, "--only", name]
            environment = os.environ | {"RAY_TRAIN_V2_ENABLED": "1", "RAY_USAGE_STATS_ENABLED": "0"}
            run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            row = json.loads(next(line for line in run.stdout.splitlines() if line.startswith("{")))
            results.append(row["first_step"])
            print(json.dumps({"system": name, **row}), flush=True)
    medians = {name: statistics.median(results) for name, results in seconds.items()}
    ratio = round(medians["concord"] / medians["ray_train"], 2)
    print(json.dumps({"median_first_step_seconds": medians, "ratio": ratio}))


if __name__ == "__main__":
    main()
