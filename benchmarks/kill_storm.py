"""Kill the smoke run at a random moment of each stage, resume it, and compare with a run that was left alone.

    python benchmarks/kill_storm.py [--seed 0] [--directory DIR]

For each step a process of the run, the driver, a worker or one of Ray's own, gets SIGKILL at a random moment while that
step is being made; then the same command is given once more. The two stores are compared by the checksums in the
records. One JSON line a step; three seeds in a row give
each step each victim.
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

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "configs" / "recipes" / "smoke.yaml"
STEPS = ["corpus", "tokenizer", "tokens", "model", "scores", "export", "report"]
TELL_TIME = re.compile(r"metrics\.jsonl|wandb|report\.html|\.cache/")
"""Files that hold times or random ids, so two honest runs differ in them."""


def command(store: Path, step: str) -> list[str]:
    """The run up to a step, as a user would give it."""
    concord = Path(sys.executable).with_name("concord")
    return [str(concord), "run", str(RECIPE), "--set", f"store={store}", "--set", f"outputs=[{step}]"]


def descendants(pid: int) -> dict[str, list[int]]:
    """The processes below `pid`: the workers that run our functions, and Ray's own."""
    listing = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listing.splitlines()[1:]]
    found: dict[str, list[int]] = {"worker": [], "ray": []}
    fresh = {pid}
    while fresh:
        children = [row for row in rows if int(row[1]) in fresh]
        for child, _, arguments in children:
            works = re.match(r"ray::(?!\w*Agent)", arguments)
            found["worker" if works else "ray"].append(int(child))
        fresh = {int(row[0]) for row in children}
    return found


def strike(store: Path, step: str, moment: float, *, whom: str) -> dict[str, object]:
    """Start the run, wait until `step` has been in the making for `moment` seconds, kill; what was hit."""
    process = subprocess.Popen(command(store, step), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"{step}  making"):
            break
    time.sleep(moment)
    below = descendants(process.pid).get(whom, [])
    target = random.choice(below) if below else process.pid
    os.kill(target, signal.SIGKILL)
    rest = process.stdout.read()
    code = process.wait()
    hit = whom if target != process.pid else "driver"
    return {"hit": hit, "exit_code": code, "went_on_by_itself": "done in" in rest}


def finish(store: Path, step: str) -> None:
    """Give the command once more; it must end well."""
    subprocess.run(command(store, step), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


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
    finish(calm, STEPS[-1])
    all_same = True
    for number, step in enumerate(STEPS):
        seconds = float(str(record(calm, step)["seconds"]))
        moment = random.uniform(0.05, 0.95) * seconds
        whom = ("driver", "worker", "ray")[(number + arguments.seed) % 3]
        struck = strike(storm, step, moment, whom=whom)
        finish(storm, step)
        same = comparable(record(calm, step)) == comparable(record(storm, step))
        row = {"step": step, "calm_seconds": seconds, "killed_after_seconds": round(moment, 2), **struck}
        print(json.dumps({**row, "equal_to_calm": same}), flush=True)
        all_same &= same
    sys.exit(not all_same)


if __name__ == "__main__":
    main()
