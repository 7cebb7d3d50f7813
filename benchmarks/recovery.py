"""Measure how long two CPU ranks take from `kill -9` of one to the next step: Concord, and Ray Train with DeepSpeed.

    python benchmarks/recovery.py STORE [--after 120] [--repeats 1]

STORE holds the data of a smoke run. Both train its model on two ranks of one thread, with ZeRO stage 1 in fp32, two
sequences of 64 tokens a rank and a checkpoint every second step, each in a fresh process with a private Ray. Rank 1 is
killed `--after` seconds after the first step. It prints one JSON line for each run: seconds by part, each until its
last rank is done (detection: the driver knows; restart: the ranks' function is entered; imports; load: model, engine
and checkpoint; first step), the step that training went back to, and the newest checkpoint that was complete at the
kill. Then it prints the ratio of the medians.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "configs" / "recipes" / "smoke.yaml"
EVENTS, METRICS = "events.jsonl", "metrics.jsonl"
CHECKPOINT_EVERY_STEPS = 2
ROWS, LENGTH = 2, 64
NUM_STEPS = 100_000
"""More steps than are ever taken: the run is ended when it has been measured."""

LIMIT_SECONDS = 240.0


def write_line(path: Path, **entries: Any) -> None:
    """Append a JSON line with the time."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"time": time.time(), **entries}) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read every complete JSON line of a file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def record_event(out: Path, event: str, **entries: Any) -> None:
    """Record an event of this process, with the time."""
    write_line(out / EVENTS, event=event, pid=os.getpid(), **entries)


def concord(store: Path, out: Path) -> None:
    """Run the stage `train` on RayExecutor; record when the ranks' function is entered and imports are done."""
    import cluster.ray.executor
    from configs.load import load
    from configs.pools import PoolConfig
    from configs.run import RunConfig
    from data_prep.manifests import TokenizedCorpus, TrainedTokenizer
    from pipeline.store.artifact import load_artifact
    from training.stage import train

    class RecordingExecutor(cluster.ray.executor.RayExecutor):
        def gang(self, fn: Any, argument: Any, **how: Any) -> Any:
            return super().gang(_on_rank, (fn, argument, out), **how)

    cluster.ray.executor.print_line = lambda text: record_event(out, "driver printed", text=text)
    settings = (
        f"num_steps={NUM_STEPS}",
        f"checkpoint_every_steps={CHECKPOINT_EVERY_STEPS}",
        f"sequence_length={LENGTH}",
        f"global_batch_size={2 * ROWS}",
    )
    recipe = load(RECIPE, RunConfig, tuple(f"steps.model.config.{setting}" for setting in settings)).config
    tokens = load_artifact(next(store.glob("tokenize-*")), TokenizedCorpus)
    tokenizer = load_artifact(next(store.glob("train_tokenizer-*")), TrainedTokenizer)
    pool = PoolConfig(num_ranks=2, cpus_per_rank=1, zero_stage=1, micro_batch_size=4)
    step, executor = recipe.steps["model"], RecordingExecutor(pool, address="local")
    train(step.config, tokens=(tokens,), tokenizer=tokenizer, cadence=step.cadence, out=out, executor=executor)


def _on_rank(rank: Any, given: tuple[Any, Any, Path]) -> Any:
    fn, argument, out = given
    record_event(out, "entered", rank=rank.index)
    import training.loop.trainer  # noqa: F401

    record_event(out, "imported", rank=rank.index)
    return fn(rank, argument)


def ray_train(store: Path, out: Path) -> None:
    """Run TorchTrainer of Ray Train v2, which reports DeepSpeed's own checkpoint."""
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.callback import UserCallback

    class LossRecorder(UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: Any) -> None:
            record_event(out, "lost")

    ray.init(address="local", include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    policies = {"failure_config": FailureConfig(max_failures=3), "checkpoint_config": CheckpointConfig(num_to_keep=2)}
    run_config = RunConfig(storage_path=str(out), name="run", callbacks=[LossRecorder()], **policies)
    config = {"out": str(out)}
    scaling = ScalingConfig(num_workers=2)
    TorchTrainer(_on_worker, train_loop_config=config, scaling_config=scaling, run_config=run_config).fit()


def _on_worker(config: dict[str, str]) -> None:
    out, rank = Path(config["out"]), int(os.environ["RANK"])
    os.environ |= {"DS_ACCELERATOR": "cpu", "LOCAL_SIZE": "2"}
    record_event(out, "entered", rank=rank)
    import deepspeed
    import ray.train
    import torch

    engine = _engine()
    record_event(out, "imported", rank=rank)
    engine, step = engine(), 0
    if (found := ray.train.get_checkpoint()) is not None:
        with found.as_directory() as directory:
            step = engine.load_checkpoint(directory)[1]["step"]
    while step < NUM_STEPS:
        began = time.time()
        ids = torch.randint(0, 8192, (ROWS, LENGTH), generator=torch.Generator().manual_seed(2 * step + rank))
        engine.backward(engine(input_ids=ids, labels=ids).loss)
        engine.step()
        step += 1
        if rank == 0:
            write_line(out / METRICS, step=step, seconds=time.time() - began)
        if step % CHECKPOINT_EVERY_STEPS == 0:
            with tempfile.TemporaryDirectory() as directory:
                engine.save_checkpoint(directory, tag="state", client_state={"step": step})
                deepspeed.comm.barrier()
                ray.train.report({"step": step}, checkpoint=ray.train.Checkpoint.from_directory(directory))
            if rank == 0:
                record_event(out, "reported", step=step)


def _engine() -> Any:
    """Import all that is needed; return a function that makes the engine, with the smoke recipe's model."""
    import deepspeed
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM  # noqa: F401

    def make() -> Any:
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # for both: see training/zero/engine.py
        deepspeed.init_distributed("gloo", auto_mpi_discovery=False, verbose=False)
        torch.manual_seed(0)
        shape = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 2, "num_attention_heads": 4}
        model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=8192, tie_word_embeddings=True, **shape))
        optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
        settings = {"train_micro_batch_size_per_gpu": ROWS, "zero_optimization": {"stage": 1}}
        return deepspeed.initialize(model=model, optimizer=optimizer, config=settings)[0]

    return make


def newest_checkpoint(system: str, out: Path) -> int:
    """Return the step of the newest complete checkpoint: Concord has written its record, or `report` has returned."""
    if system == "concord":
        return max(int(path.parent.name.partition("-")[2]) for path in out.glob("checkpoints/*/checkpoint.json"))
    return max(event["step"] for event in read_lines(out / EVENTS) if event["event"] == "reported")


def wait_for(found: Callable[[], Any], process: subprocess.Popen[bytes], log: Path) -> Any:
    """Return what `found()` returns once it is true. Exits if the run has ended or takes longer than LIMIT_SECONDS."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not (result := found()):
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the run has ended, or takes too long: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)
    return result


def measure(system: str, store: Path, *, after_seconds: float) -> dict[str, Any]:
    """Start a run, kill its rank 1, wait for the next step, end the run; return what was measured."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory)
        command = [sys.executable, __file__, str(store), "--only", system, "--out", directory]
        environment = os.environ | {"RAY_TRAIN_V2_ENABLED": "1", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        log = out / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
        try:
            wait_for(lambda: read_lines(out / METRICS), process, log)
            time.sleep(after_seconds)
            return _kill_and_wait(system, out, process)
        finally:
            process.terminate()
            process.wait()


def _kill_and_wait(system: str, out: Path, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    before = read_lines(out / EVENTS)
    victim = next(event["pid"] for event in before if event["event"] == "entered" and event["rank"] == 1)
    os.kill(victim, signal.SIGKILL)
    killed = time.time()
    complete, last = newest_checkpoint(system, out), read_lines(out / METRICS)[-1]["step"]

    def since(event: str, count: int = 1) -> float | None:
        times = [row["time"] for row in read_lines(out / EVENTS)[len(before) :] if row["event"] == event]
        return times[count - 1] if len(times) >= count else None

    entered = wait_for(lambda: since("entered", 2), process, out / "log")
    first = wait_for(
        lambda: [line for line in read_lines(out / METRICS) if line["time"] > entered], process, out / "log"
    )[0]
    known, imported = since("driver printed" if system == "concord" else "lost"), since("imported", 2)
    seconds = first["seconds"] if system == "ray_train" else sum(first["targets"].values()) / first["tokens_per_second"]
    points = [killed, known, entered, imported, first["time"] - seconds, first["time"]]
    parts = ("detection", "restart", "imports", "load", "first_step")
    took = {name: round(b - a, 2) for name, a, b in zip(parts, points[:-1], points[1:], strict=True)}
    steps = {"last_step": last, "newest_checkpoint": complete, "went_back_to": first["step"] - 1}
    return {"system": system, "seconds": round(first["time"] - killed, 2), **took, **steps}


def main() -> None:
    """Run the benchmark, or one of the two systems in this process with `--out`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--after", type=float, default=120.0)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", choices=["concord", "ray_train"])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.out:
        globals()[arguments.only](arguments.store, arguments.out)
        return
    names = [arguments.only] if arguments.only else ["concord", "ray_train"]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(arguments.repeats):
        for name, results in seconds.items():
            row = measure(name, arguments.store, after_seconds=arguments.after)
            results.append(row["seconds"])
            print(json.dumps(row), flush=True)
    medians = {name: statistics.median(results) for name, results in seconds.items()}
    ratio = {"ratio": round(medians["concord"] / medians["ray_train"], 2)} if len(medians) == 2 else {}
    print(json.dumps({"median_seconds": medians, **ratio}))


if __name__ == "__main__":
    main()
