"""The training run of benchmarks/fault_storm.py, and the faults that are injected into it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from configs.base import Artifact, UserError
from configs.pools import PoolConfig
from configs.training.train import CadenceConfig, TrainConfig
from data_prep.manifests import TokenizedCorpus, TrainedTokenizer
from training.log.metrics_file import METRICS_FILE, StepMetrics, read_last_metrics
from training.log.sessions_file import step_seconds
from training.stage import train

ROOT = Path(__file__).parents[1]
CHECKPOINT_EVERY_STEPS, HANG_TIMEOUT_SECONDS, GRACE_SECONDS = 10, 5.0, 20.0
LIMIT_SECONDS = 240.0
RANK = re.compile(r"ray::RankProcess\.run")
RAYLET = re.compile(r"\S*/raylet/raylet ")


def run_driver(inputs: Path, out: Path, *, ranks: int, stage: int, steps: int) -> None:
    """Train, or go on with training, as the driver; write the manifest beside `out` at the end."""
    from cluster.ray.executor import RayExecutor

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
        }
    )
    keep = {"retention": {"newest": 3}}
    limits = {"hang_timeout_seconds": HANG_TIMEOUT_SECONDS, "grace_seconds": GRACE_SECONDS, "max_restarts": 1000}
    pool = PoolConfig.model_validate({"num_ranks": ranks, "cpus_per_rank": 1, "zero_stage": stage, **keep, **limits})
    tokens = TokenizedCorpus.model_validate_json((inputs / "tokens.json").read_bytes())
    tokenizer = TrainedTokenizer.model_validate_json((inputs / "tokenizer.json").read_bytes())
    executor = RayExecutor(pool, address="local")
    try:
        model = train(
            config,
            tokens=(Artifact(inputs, tokens),),
            tokenizer=Artifact(inputs, tokenizer),
            cadence=CadenceConfig(),
            out=out,
            executor=executor,
        )
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    out.with_suffix(".json").write_text(model.model_dump_json(), encoding="utf-8")


@dataclass
class Run:
    """A training in progress, over all its drivers."""

    out: Path
    command: list[str]
    ranks: int
    exits: list[tuple[int, float]] = field(default_factory=list)
    """Exit code and Unix time of each driver that failed since the last fault."""

    drivers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        """Start a driver, for the first time or again."""
        environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        cores = max(self.ranks, os.cpu_count() or 1)
        environment["RAY_OVERRIDE_RESOURCES"] = json.dumps(
            {"CPU": cores}
        )  # so that more ranks than cores can be placed
        with self.log.open("ab") as log:
            self.drivers.append(
                subprocess.Popen(self.command, env=environment, stdout=log, stderr=log, start_new_session=True)
            )

    @property
    def log(self) -> Path:
        """The output of all drivers."""
        return self.out.with_suffix(".log")

    def finished(self) -> bool:
        """Return whether the driver ended well; if it failed, record that and start the next one."""
        code = self.drivers[-1].poll()
        if code is not None and code != 0:
            self.exits.append((code, time.time()))
            self.start()
        return code == 0

    def wait_for(self, found: Callable[[], Any]) -> Any:
        """Return what `found()` returns once it is true; None if training is over."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while not (result := found()):
            if self.finished():
                return None
            if time.monotonic() > deadline or len(self.exits) > 3:
                raise SystemExit(f"training does not go on: {self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.02)
        return result

    def last_metrics(self) -> StepMetrics | None:
        """Return the metrics of the last step."""
        return read_last_metrics(self.out / METRICS_FILE)

    def last_step(self) -> int:
        """Return the last step, or 0."""
        return line.step if (line := self.last_metrics()) else 0

    def count_notices(self, text: str) -> int:
        """Count how often the run's notices contain a text."""
        path = self.out / "notices.txt"
        return path.read_text(encoding="utf-8").count(text) if path.exists() else 0

    def find_pids(self, pattern: re.Pattern[str]) -> list[int]:
        """Find the processes of the last driver's session whose command line matches."""
        return [
            pid for pid, session, args in list_processes() if session == self.drivers[-1].pid and pattern.match(args)
        ]

    def kill_all(self) -> None:
        """Kill every process of every driver, and wait until they are gone."""
        sessions = {driver.pid for driver in self.drivers}
        while left := [pid for pid, session, _ in list_processes() if session in sessions]:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for driver in self.drivers:
                driver.poll()
            time.sleep(0.05)


def list_processes() -> Iterator[tuple[int, int, str]]:
    """Yield process id, session id and command line of each process that is not a zombie."""
    listing = subprocess.run(["ps", "-eo", "pid,sid,stat,args"], capture_output=True, text=True, check=True).stdout
    for line in listing.splitlines()[1:]:
        pid, session, state, args = line.split(None, 3)
        if not state.startswith("Z"):
            yield int(pid), int(session), args


class TrainingEnded(Exception):
    """Training has ended before the fault could be injected."""


def send_signal(run: Run, random: Random, what: re.Pattern[str], number: signal.Signals) -> int:
    """Send a signal to a random process that matches `what`, as soon as there is one; return its id."""
    found = run.wait_for(lambda: run.find_pids(what))
    if not found:
        raise TrainingEnded
    pid = int(random.choice(found))
    os.kill(pid, number)
    return pid


def signal_rank(run: Run, random: Random, number: signal.Signals) -> int:
    """Send a signal to a random rank; return its process id."""
    return send_signal(run, random, RANK, number)


def damage_checkpoint(run: Run, random: Random) -> dict[str, Any]:
    """Kill a rank, and flip a bit of the newest checkpoint or truncate a file of it, before it is loaded."""
    from training.records import list_checkpoints

    signal_rank(run, random, signal.SIGKILL)
    time.sleep(0.3)  # the save that was under way may still end
    newest = list_checkpoints(run.out / "checkpoints")[0]
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
    """Fill the disk for a second in which a checkpoint is due."""
    run.wait_for(lambda: run.last_step() % CHECKPOINT_EVERY_STEPS == CHECKPOINT_EVERY_STEPS - 1)
    line, filler = run.last_metrics(), run.out / "filler"
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


def freeze_rank(run: Run, random: Random) -> dict[str, Any]:
    """Stop a rank with SIGSTOP for longer than the watchdog waits."""
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
    "raylet killed": (lambda run, random: send_signal(run, random, RAYLET, signal.SIGKILL), [1]),
    "driver terminated": (lambda run, _: run.drivers[-1].terminate(), [75]),
    "checkpoint damaged": (damage_checkpoint, []),
    "rank frozen": (freeze_rank, []),
    "disk full": (fill_disk, [1]),  # if the last checkpoint of all was due
}
"""Name -> the function that injects the fault, and the exit codes of drivers that end by it."""
