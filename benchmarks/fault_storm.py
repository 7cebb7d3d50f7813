"""Train twice, once left alone and once struck by a fault every few seconds: is the outcome bit for bit the same?

    python benchmarks/fault_storm.py [--seed 0] [--ranks 2] [--stage 1] [--steps 300] [--directory DIR]

Both are the stage `train` on a private Ray, of a small model in fp32. Some 3 to 8 s after training has made progress
again comes the next fault: a rank, the driver or Ray's raylet gets SIGKILL; the driver gets SIGTERM; a rank gets
SIGKILL and a file of the newest checkpoint is damaged; the disk is full for a second; a rank stands still until the
watchdog ends it. Kinds and moments are drawn by the seed, each kind once before any comes again. Where the driver ends,
the same command is given again. The full disk takes root, for the storm's directory to be a small tmpfs.

One JSON line a fault: at which step, seconds until the next step is done, steps that had to be taken again. The last
line has the comparison; exit code 1 if the outcomes differ or a driver ended in a way it must not.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from configs.base import Artifact, UserError
from configs.cluster import PoolConfig
from configs.training import TrainConfig
from data_prep.manifests import Certificate, Segment, TokenizedCorpus, TokenShard, TrainedTokenizer
from data_prep.shards import dtype_for, write_shard
from data_prep.train_tokenizer import HUGGING_FACE, MODEL
from training.attempts import Attempt, goodput, read_attempts, step_seconds
from training.manifests import TrainedModel
from training.metrics import FILE as METRICS
from training.metrics import StepMetrics, last_metrics, read_metrics
from training.stage import train

ROOT = Path(__file__).parent.parent
VOCAB = 512
CHECKPOINT_EVERY_STEPS, HANG_TIMEOUT_SECONDS, GRACE_SECONDS = 10, 5.0, 20.0
PAUSE_SECONDS = (3.0, 8.0)
DISK_MEBIBYTES = 96
"""Of the storm's tmpfs: some eight checkpoints, of which five are there at once at most."""

LIMIT_SECONDS = 240.0
RANK = re.compile(r"ray::RankProcess\.run")
RAYLET = re.compile(r"\S*/raylet/raylet ")


def write_inputs(directory: Path) -> None:
    """Tokens of two sources in three languages, and what stands for their tokenizer."""
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


def drive(inputs: Path, out: Path, *, ranks: int, stage: int, steps: int) -> None:
    """The driver: train on, and write the manifest beside `out` at the end."""
    from cluster.ray_executor import RayExecutor

    shape = {"hidden_size": 128, "intermediate_size": 352, "num_layers": 4, "num_attention_heads": 4}
    config = TrainConfig.model_validate(
        {
            "model": {**shape, "tie_word_embeddings": True},
            "sequence_length": 128,
            "global_batch_size": 16,
            "num_steps": steps,
            "optimizer": {"learning_rate": 1e-3},
            "schedule": {"kind": "cosine", "num_warmup_steps": 10},
            "precision": "fp32",
            "checkpoint_every_steps": CHECKPOINT_EVERY_STEPS,
            "retention": {"newest": 3},
        }
    )
    patience = {"hang_timeout_seconds": HANG_TIMEOUT_SECONDS, "grace_seconds": GRACE_SECONDS, "max_restarts": 1000}
    pool = PoolConfig.model_validate({"num_ranks": ranks, "cpus_per_rank": 1, "zero_stage": stage, **patience})
    tokens = TokenizedCorpus.model_validate_json((inputs / "tokens.json").read_bytes())
    tokenizer = TrainedTokenizer.model_validate_json((inputs / "tokenizer.json").read_bytes())
    executor = RayExecutor(pool, address="local")
    try:
        model = train(
            config, tokens=Artifact(inputs, tokens), tokenizer=Artifact(inputs, tokenizer), out=out, executor=executor
        )
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    out.with_suffix(".json").write_text(model.model_dump_json(), encoding="utf-8")


@dataclass
class Run:
    """A training under way, whatever happens to its drivers."""

    out: Path
    command: list[str]
    ranks: int
    exits: list[tuple[int, float]] = field(default_factory=list)
    """Of drivers that did not end well since the last fault: exit code and Unix time."""

    drivers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        """Give the command, for the first time or again."""
        environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        cores = max(self.ranks, os.cpu_count() or 1)
        environment["RAY_OVERRIDE_RESOURCES"] = json.dumps({"CPU": cores})  # or more ranks than cores find no place
        with self.log.open("ab") as log:
            self.drivers.append(
                subprocess.Popen(self.command, env=environment, stdout=log, stderr=log, start_new_session=True)
            )

    @property
    def log(self) -> Path:
        """What all drivers say."""
        return self.out.with_suffix(".log")

    def finished(self) -> bool:
        """Whether a driver ended well; one that ended otherwise is noted, and the command given again."""
        code = self.drivers[-1].poll()
        if code is not None and code != 0:
            self.exits.append((code, time.time()))
            self.start()
        return code == 0

    def wait_for(self, found: Callable[[], Any]) -> Any:
        """What `found()` returns once it is true; None if training is over."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while not (result := found()):
            if self.finished():
                return None
            if time.monotonic() > deadline or len(self.exits) > 3:
                raise SystemExit(f"training does not go on: {self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.02)
        return result

    def last(self) -> StepMetrics | None:
        """The line of the last step."""
        return last_metrics(self.out / METRICS)

    def step(self) -> int:
        """The last step."""
        return line.step if (line := self.last()) else 0

    def notices(self, text: str) -> int:
        """How often this was said."""
        path = self.out / "notices.txt"
        return path.read_text(encoding="utf-8").count(text) if path.exists() else 0

    def pids(self, pattern: re.Pattern[str]) -> list[int]:
        """Processes of the last driver's session."""
        return [pid for pid, session, args in processes() if session == self.drivers[-1].pid and pattern.match(args)]

    def end(self) -> None:
        """Leave no process of any driver."""
        sessions = {driver.pid for driver in self.drivers}
        while left := [pid for pid, session, _ in processes() if session in sessions]:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for driver in self.drivers:
                driver.poll()
            time.sleep(0.05)


def processes() -> Iterator[tuple[int, int, str]]:
    """Of all that live: process, session, command line."""
    listing = subprocess.run(["ps", "-eo", "pid,sid,stat,args"], capture_output=True, text=True, check=True).stdout
    for line in listing.splitlines()[1:]:
        pid, session, state, args = line.split(None, 3)
        if not state.startswith("Z"):
            yield int(pid), int(session), args


def signal_rank(run: Run, random: Random, number: signal.Signals) -> int:
    """Send a signal to some rank, as soon as there is one; its process."""
    pid = random.choice(run.wait_for(lambda: run.pids(RANK)))
    os.kill(pid, number)
    return int(pid)


def damage(run: Run, random: Random) -> dict[str, Any]:
    """Kill a rank, and flip a bit of the newest checkpoint, or cut a file of it, before it is loaded."""
    from training.checkpoint import named

    signal_rank(run, random, signal.SIGKILL)
    time.sleep(0.3)  # the save that was under way may still end
    newest = named(run.out / "checkpoints")[0]
    file = random.choice(sorted(path for path in newest.iterdir() if path.stat().st_size))
    size, cut = file.stat().st_size, random.random() < 0.5
    place = random.randrange(size)
    with file.open("r+b") as stream:
        if cut:
            stream.truncate(place)
        else:
            stream.seek(place)
            byte = stream.read(1)[0]
            stream.seek(place)
            stream.write(bytes([byte ^ 1 << random.randrange(8)]))
    return {"file": f"{newest.name}/{file.name}", "how": "cut" if cut else "bit flipped", "at_byte": place}


def fill_disk(run: Run, random: Random) -> None:
    """Leave no space for a second, in which a checkpoint is due."""
    run.wait_for(lambda: run.step() % CHECKPOINT_EVERY_STEPS == CHECKPOINT_EVERY_STEPS - 1)
    line, filler = run.last(), run.out / "filler"
    assert line is not None
    try:
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                with suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass
        time.sleep(1.0 + step_seconds(line))
    finally:
        filler.unlink()


def freeze(run: Run, random: Random) -> dict[str, Any]:
    """SIGSTOP for longer than the watchdog waits."""
    before = set(run.out.glob("stacks/*/*"))
    pid = signal_rank(run, random, signal.SIGSTOP)
    time.sleep(HANG_TIMEOUT_SECONDS + 2)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)  # so that it writes its stack, too
    run.wait_for(lambda: set(run.out.glob("stacks/*/*")) - before)
    time.sleep(1.0)
    return {"stacks": len(set(run.out.glob("stacks/*/*")) - before)}


FAULTS: dict[str, tuple[Callable[[Run, Random], Any], list[int]]] = {
    "rank killed": (lambda run, random: signal_rank(run, random, signal.SIGKILL), []),
    "driver killed": (lambda run, _: run.drivers[-1].kill(), [-signal.SIGKILL]),
    "raylet killed": (lambda run, _: os.kill(run.pids(RAYLET)[0], signal.SIGKILL), [1]),
    "driver terminated": (lambda run, _: run.drivers[-1].terminate(), [75]),
    "checkpoint damaged": (damage, []),
    "rank frozen": (freeze, []),
    "disk full": (fill_disk, [1]),  # if the last checkpoint of all was due
}
"""What is done, and with which exit code the driver ends by it, if it does."""


def strike(run: Run, name: str, random: Random) -> dict[str, Any]:
    """One fault, and what comes after it until training makes progress again."""

    def attempts() -> list[Attempt]:
        return [event for event in read_attempts(run.out) if isinstance(event, Attempt)]

    do, must = FAULTS[name]
    before, step, began = len(attempts()), run.step(), time.time()
    done = do(run, random)
    over = time.time()

    def next_step() -> StepMetrics | bool:
        fresh = attempts()[before:]
        since = fresh[-1].time if fresh else over if name == "disk full" else float("inf")
        return (line := run.last()) is not None and line.time > since and line

    line = run.wait_for(next_step)
    exits, run.exits = run.exits, []
    codes, seconds = [code for code, _ in exits], [round(moment - began, 2) for _, moment in exits]
    in_time = name != "driver terminated" or max(seconds, default=0.0) <= GRACE_SECONDS
    return {
        "fault": name,
        "at_step": step,
        "seconds": line and round(line.time - began, 2),
        "lost_steps": sum(attempt.lost_steps for attempt in attempts()[before:]),
        "exit_codes": codes,
        "exit_seconds": seconds,
        "as_it_must": codes in ([], must) and in_time,
        **(done if isinstance(done, dict) else {}),
    }


def storm(run: Run, names: list[str], random: Random) -> list[dict[str, Any]]:
    """Faults until training is over."""
    rows: list[dict[str, Any]] = []
    deck: list[str] = []
    run.start()
    run.wait_for(lambda: run.step() > 0)
    while run.wait_for(_alarm(random.uniform(*PAUSE_SECONDS))):
        deck = deck or random.sample(names, len(names))
        rows.append(strike(run, deck.pop(), random))
        print(json.dumps(rows[-1]), flush=True)
    return rows


def _alarm(seconds: float) -> Callable[[], bool]:
    until = time.monotonic() + seconds
    return lambda: time.monotonic() > until


def compare(calm: Run, stormy: Run) -> dict[str, Any]:
    """Final weights, and the lines of all steps."""
    from training.checkpoint import load_weights

    models, lines, weights = [], [], []
    for run in (calm, stormy):
        model = TrainedModel.model_validate_json(run.out.with_suffix(".json").read_bytes())
        models.append(model)
        lines.append(read_metrics(run.out / METRICS))
        weights.append(load_weights(run.out / model.checkpoint))
    courses = [[(line.step, line.loss, line.gradient_norm, line.nats) for line in some] for some in lines]
    same = weights[0].keys() == weights[1].keys() and all((weights[1][k] == w).all() for k, w in weights[0].items())
    whole = goodput(read_attempts(stormy.out), lines[1])
    return {
        "equal_weights": bool(same),
        "equal_losses": courses[0] == courses[1],
        "goodput": round(whole.fraction, 3),
        "manifest_goodput": round(models[1].goodput, 3),
        "calm_goodput": round(models[0].goodput, 3),
        "restarts": whole.num_restarts,
        "lost_steps": whole.lost_steps,
        "failed_saves": stormy.notices("could not be written"),
        "damage_found": stormy.notices("is damaged"),
    }


def mount(directory: Path, stack: ExitStack) -> bool:
    """Put a small tmpfs there until the stack is left; False, with the reason said, where that cannot be."""
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


def show(directory: Path, options: argparse.Namespace) -> bool:
    """Both runs, and the comparison; whether all was as it must be."""
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
        names = list(FAULTS) if mount(stormy.out, stack) else [name for name in FAULTS if name != "disk full"]
        stack.callback(stormy.end)
        stack.callback(calm.end)
        times = [time.monotonic()]
        calm.start()
        calm.wait_for(lambda: False)
        times.append(time.monotonic())
        rows = storm(stormy, names, Random(options.seed))
        times.append(time.monotonic())
        result = compare(calm, stormy)
    seconds = {"calm_seconds": round(times[1] - times[0], 1), "stormy_seconds": round(times[2] - times[1], 1)}
    well = all(row["as_it_must"] for row in rows)
    print(json.dumps({"faults": len(rows), **result, "drivers_ended_as_they_must": well, **seconds}))
    return well and result["equal_weights"] and result["equal_losses"]


def main() -> None:
    """Run it, or be the driver of one run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--stage", type=int, default=1)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--directory", type=Path, help="where the logs stay; left out, they go")
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        drive(
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
        sys.exit(not show(directory, options))


if __name__ == "__main__":
    main()
