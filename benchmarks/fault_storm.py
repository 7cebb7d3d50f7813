"""Train twice, once undisturbed and once with a fault every few seconds, and compare the outcomes bit for bit.

    python benchmarks/fault_storm.py [--seed 0] [--ranks 2] [--stage 1] [--steps 300] [--directory DIR]

Both run the stage `train` on a private Ray, with a small model in fp32. The next fault comes 3 to 8 s after training
has made progress again: a rank, the driver or Ray's raylet gets SIGKILL; the driver gets SIGTERM; a rank gets SIGKILL
and a file of the newest checkpoint is damaged; the disk is full for a second; a rank is stopped until the watchdog ends
it. Kinds and moments are drawn by the seed, each kind once before any comes again. When the driver ends, the same
command is given again. The full disk needs root, since the directory of that run is then a small tmpfs.

It prints one JSON line for each fault: at which step it came, seconds until the next step was done, steps that had to
be taken again. The last line has the comparison. The exit code is 1 if the outcomes differ or a driver ended in a way
that it must not.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.storm_faults import FAULTS, GRACE_SECONDS, Run, TrainingEnded, run_driver
from data_prep.manifests import Certificate, Segment, TokenizedCorpus, TokenShard, TrainedTokenizer
from data_prep.tokenizer.stage import HUGGING_FACE, MODEL
from data_prep.tokens.megatron_shards import dtype_for, write_shard
from training.log.metrics_file import METRICS_FILE, StepMetrics, read_metrics
from training.log.sessions_file import GangStart, compute_goodput, read_session_events
from training.manifests import TrainedModel

VOCAB = 512
PAUSE_SECONDS = (3.0, 8.0)
DISK_MEBIBYTES = 96
"""Size of the tmpfs: it holds some eight checkpoints, of which at most five exist at the same time."""


def write_inputs(directory: Path) -> None:
    """Write tokens of two sources in three languages, and empty files in place of their tokenizer."""
    random, shards = np.random.default_rng(0), []
    for source, language in (("web", "de"), ("web", "sw"), ("science", "en")):
        sizes = random.integers(20, 300, size=200)
        documents = [[*(3 + random.integers(0, 22, size=size) ** 2).tolist(), 1] for size in sizes]
        write_shard(directory / language, documents, dtype_for(VOCAB))
        count = int(sizes.sum()) + len(sizes)
        segment = Segment(language=language, num_documents=len(sizes), num_tokens=count, num_bytes=3 * count)
        shards.append(TokenShard(path=language, source=source, segments=(segment,)))
    (directory / HUGGING_FACE).mkdir()
    for name in (MODEL, f"{HUGGING_FACE}/tokenizer.json"):
        (directory / name).touch()
    nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    certificate = Certificate(num_texts=0, num_languages=0, model_sha256=nothing, tokenizer_json_sha256=nothing)
    tokens = TokenizedCorpus(shards=tuple(shards), vocab_size=VOCAB, eos_id=1, unigram_entropy=3.0)
    tokenizer = TrainedTokenizer(vocab_size=VOCAB, eos_id=1, pad_id=2, sample_bytes={}, certificate=certificate)
    (directory / "tokens.json").write_text(tokens.model_dump_json(), encoding="utf-8")
    (directory / "tokenizer.json").write_text(tokenizer.model_dump_json(), encoding="utf-8")


def inject_fault(run: Run, name: str, random: Random) -> dict[str, Any]:
    """Inject one fault, wait until training makes progress again, and return what was measured."""

    def gang_starts() -> list[GangStart]:
        return [event for event in read_session_events(run.out) if isinstance(event, GangStart)]

    do, must = FAULTS[name]
    before, step, began = len(gang_starts()), run.last_step(), time.time()
    done = do(run, random)
    over = time.time()

    def next_step() -> StepMetrics | bool:
        fresh = gang_starts()[before:]
        since = fresh[-1].time if fresh else over if name == "disk full" else float("inf")
        return (line := run.last_metrics()) is not None and line.time > since and line

    line = run.wait_for(next_step)
    exits, run.exits = run.exits, []
    codes, seconds = [code for code, _ in exits], [round(moment - began, 2) for _, moment in exits]
    in_time = name != "driver terminated" or max(seconds, default=0.0) <= GRACE_SECONDS
    return {
        "fault": name,
        "at_step": step,
        "seconds": line and round(line.time - began, 2),
        "lost_steps": sum(start.lost_steps for start in gang_starts()[before:]),
        "exit_codes": codes,
        "exit_seconds": seconds,
        "as_it_must": codes in ([], must) and in_time,
        **(done if isinstance(done, dict) else {}),
    }


def run_storm(run: Run, names: list[str], random: Random) -> list[dict[str, Any]]:
    """Inject faults until training is over; return a row for each."""
    rows: list[dict[str, Any]] = []
    remaining: list[str] = []
    run.start()
    run.wait_for(lambda: run.last_step() > 0)
    while run.wait_for(_after(random.uniform(*PAUSE_SECONDS))):
        remaining = remaining or random.sample(names, len(names))
        try:
            rows.append(inject_fault(run, remaining.pop(), random))
        except TrainingEnded:
            break
        print(json.dumps(rows[-1]), flush=True)
    return rows


def _after(seconds: float) -> Callable[[], bool]:
    until = time.monotonic() + seconds
    return lambda: time.monotonic() > until


def compare(calm: Run, stormy: Run) -> dict[str, Any]:
    """Compare the final weights and the metrics of all steps; return the row to print."""
    from training.checkpoint.directory import load_weights

    models, lines, weights = [], [], []
    for run in (calm, stormy):
        model = TrainedModel.model_validate_json(run.out.with_suffix(".json").read_bytes())
        models.append(model)
        lines.append(read_metrics(run.out / METRICS_FILE))
        weights.append(load_weights(run.out / model.checkpoint))
    losses = [[(line.step, line.loss, line.gradient_norm, line.nats) for line in some] for some in lines]
    same = weights[0].keys() == weights[1].keys() and all((weights[1][k] == w).all() for k, w in weights[0].items())
    whole = compute_goodput(read_session_events(stormy.out), lines[1][-1])
    return {
        "equal_weights": bool(same),
        "equal_losses": losses[0] == losses[1],
        "goodput": round(whole.fraction, 3),
        "manifest_goodput": round(models[1].goodput, 3),
        "calm_goodput": round(models[0].goodput, 3),
        "restarts": whole.num_restarts,
        "lost_steps": whole.lost_steps,
        "failed_saves": stormy.count_notices("could not be written"),
        "damage_found": stormy.count_notices("is damaged"),
    }


def mount_small_disk(directory: Path, stack: ExitStack) -> bool:
    """Mount a small tmpfs on the directory until the stack is closed.

    Return whether that was possible; if not, print the reason.
    """
    options = ["-t", "tmpfs", "-o", f"size={DISK_MEBIBYTES}m", "tmpfs", str(directory)]
    done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        stack.callback(_unmount, directory)
    else:
        print(json.dumps({"left_out": "disk full", "why": done.stderr.strip()}), flush=True)
    return done.returncode == 0


def _unmount(directory: Path) -> None:
    deadline = time.monotonic() + 10.0  # threads of a killed process may hold its files for a moment more
    while subprocess.run(["umount", str(directory)], check=False, capture_output=True).returncode != 0:
        if time.monotonic() > deadline:
            subprocess.run(["umount", "--lazy", str(directory)], check=True)
            return
        time.sleep(0.1)


def run_both(directory: Path, options: argparse.Namespace) -> bool:
    """Do both runs and print the comparison; return whether all was as it must be."""
    for name in ("inputs", "calm", "storm"):
        (directory / name).mkdir()
    write_inputs(directory / "inputs")
    runs = [
        Run(
            directory / name,
            [
                *(sys.executable, __file__, "--drive", str(directory / name), "--directory", str(directory)),
                *(f"--{key}={getattr(options, key)}" for key in ("ranks", "stage", "steps")),
            ],
            options.ranks,
        )
        for name in ("calm", "storm")
    ]
    calm, stormy = runs
    with ExitStack() as stack:
        names = (
            list(FAULTS) if mount_small_disk(stormy.out, stack) else [name for name in FAULTS if name != "disk full"]
        )
        stack.callback(stormy.kill_all)
        stack.callback(calm.kill_all)
        times = [time.monotonic()]
        calm.start()
        calm.wait_for(lambda: False)
        times.append(time.monotonic())
        rows = run_storm(stormy, names, Random(options.seed))
        times.append(time.monotonic())
        result = compare(calm, stormy)
    seconds = {"calm_seconds": round(times[1] - times[0], 1), "stormy_seconds": round(times[2] - times[1], 1)}
    well = all(row["as_it_must"] for row in rows)
    print(json.dumps({"faults": len(rows), **result, "drivers_ended_as_they_must": well, **seconds}))
    return well and result["equal_weights"] and result["equal_losses"]


def main() -> None:
    """Run the benchmark, or the driver of one run with `--drive`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--stage", type=int, default=1)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--directory", type=Path, help="where to keep the logs; else they are deleted")
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        run_driver(
            options.directory / "inputs", options.drive, **{k: getattr(options, k) for k in ("ranks", "stage", "steps")}
        )
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all is ended and unmounted
    with ExitStack() as stack:
        if options.directory:
            options.directory.mkdir(parents=True, exist_ok=True)
            directory = Path(tempfile.mkdtemp(dir=options.directory.resolve()))
        else:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sys.exit(not run_both(directory, options))


if __name__ == "__main__":
    main()
