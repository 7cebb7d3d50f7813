"""The run that fault_storm.py strikes, and the faults."""

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
from configs.training import TrainConfig
from data_prep.manifests import TokenizedCorpus, TrainedTokenizer
from training.log.attempts_file import step_seconds
from training.log.metrics_file import FILE as METRICS
from training.log.metrics_file import StepMetrics, last_metrics
from training.stage import train

ROOT = Path(__file__).parents[1]
CHECKPOINT_EVERY_STEPS, HANG_TIMEOUT_SECONDS, GRACE_SECONDS = 10, 5.0, 20.0
LIMIT_SECONDS = 240.0
RANK = re.compile(r"ray::RankProcess\.run")
RAYLET = re.compile(r"\S*/raylet/raylet ")


def drive(inputs: Path, out: Path, *, ranks: int, stage: int, steps: int) -> None:
    """The driver: train on, and write the manifest beside `out` at the end."""
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
    patience = {"hang_timeout_seconds": HANG_TIMEOUT_SECONDS, "grace_seconds": GRACE_SECONDS, "max_restarts": 1000}
    pool = PoolConfig.model_validate({"num_ranks": ranks, "cpus_per_rank": 1, "zero_stage": stage, **keep, **patience})
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


class Over(Exception):
    """Training has ended before it could be struck."""


def send(run: Run, random: Random, what: re.Pattern[str], number: signal.Signals) -> int:
    """Send a signal to some such process, as soon as there is one; its id."""
    found = run.wait_for(lambda: run.pids(what))
    if not found:
        raise Over
    pid = int(random.choice(found))
    os.kill(pid, number)
    return pid


def signal_rank(run: Run, random: Random, number: signal.Signals) -> int:
    """Send a signal to some rank."""
    return send(run, random, RANK, number)


def damage(run: Run, random: Random) -> dict[str, Any]:
    """Kill a rank, and flip a bit of the newest checkpoint, or cut a file of it, before it is loaded."""
    from training.checkpoint.directory import named

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
    "raylet killed": (lambda run, random: send(run, random, RAYLET, signal.SIGKILL), [1]),
    "driver terminated": (lambda run, _: run.drivers[-1].terminate(), [75]),
    "checkpoint damaged": (damage, []),
    "rank frozen": (freeze, []),
    "disk full": (fill_disk, [1]),  # if the last checkpoint of all was due
}
"""What is done, and with which exit code the driver ends by it, if it does."""
