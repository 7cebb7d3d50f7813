"""Kill the smoke run at a random moment of each stage, resume it, and compare with a run that was left alone.

    python benchmarks/kill_storm.py [--seed 0] [--directory DIR]

For each step a process of the run, the driver or one of its workers, gets SIGKILL at a random moment while that
step is being made; then the same command is given again until it ends. The two stores are compared by the
checksums in the records. One JSON line a step.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "configs" / "recipes" / "smoke.yaml"
STEPS = ["corpus", "tokenizer", "tokens", "model", "scores", "export", "report"]
TELL_TIME = re.compile(r"metrics\.jsonl|wandb|report\.html|\.cache/")
"""Files that hold times or random ids, so two honest runs differ in them."""


def command(store: Path) -> list[str]:
    """The run, as a user would give it."""
    code = "from pipeline.cli import main; main()"
    return [sys.executable, "-c", code, "run", str(RECIPE), "--set", f"store={store}"]


def descendants(pid: int) -> list[int]:
    """All processes below `pid`."""
    listing = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listing.splitlines()[1:]]
    found, fresh = [], {pid}
    while fresh:
        children = [row for row in rows if int(row[1]) in fresh]
        found += [int(row[0]) for row in children if "ray::" in row[2]]  # workers at work
        fresh = {int(row[0]) for row in children}
    return found


def strike(store: Path, step: str, moment: float, *, whom: str) -> dict[str, object]:
    """Start the run, wait until `step` has been in the making for `moment` seconds, kill; what was hit."""
    process = subprocess.Popen(command(store), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"{step}  making"):
            break
    time.sleep(moment)
    workers = descendants(process.pid)
    target = random.choice(workers) if whom == "worker" and workers else process.pid
    os.kill(target, signal.SIGKILL)
    rest = process.stdout.read()
    code = process.wait()
    return {"hit": "worker" if target != process.pid else "driver", "exit_code": code, "ended": "done in" in rest}


def finish(store: Path) -> int:
    """Give the command until it ends well; how often."""
    for attempt in range(1, 6):
        if subprocess.run(command(store), cwd=ROOT, stdout=subprocess.DEVNULL, check=False).returncode == 0:
            return attempt
    raise SystemExit("the run did not end in five attempts")


def record(store: Path, step: str) -> dict[str, object]:
    """The record of a step."""
    for path in store.glob("*/record.json"):
        found: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
        if found["step"] == step:
            return found
    raise SystemExit(f"{step} has no record in {store}")


def comparable(entry: dict[str, object]) -> dict[str, object]:
    """Checksums of the files that two runs must share."""
    files = entry["files"]
    assert isinstance(files, dict)
    return {name: file["sha256"] for name, file in files.items() if not TELL_TIME.search(name)}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--directory", type=Path, default=Path("kill-storm"))
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    calm, storm = arguments.directory / "calm", arguments.directory / f"storm-{arguments.seed}"
    finish(calm)
    for step in STEPS:
        seconds = float(str(record(calm, step)["seconds"]))
        moment, whom = random.uniform(0.05, 0.95) * seconds, random.choice(["driver", "worker"])
        struck = strike(storm, step, moment, whom=whom)
        row = {"step": step, "calm_seconds": seconds, "killed_after_seconds": round(moment, 2), **struck}
        print(json.dumps(row), flush=True)
    attempts = finish(storm)
    same = {step: comparable(record(calm, step)) == comparable(record(storm, step)) for step in STEPS}
    print(json.dumps({"last_attempts": attempts, "equal_to_calm": same}))
    sys.exit(not all(same.values()))


if __name__ == "__main__":
    main()
