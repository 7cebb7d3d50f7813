"""Kill the smoke run at a random moment of each step, resume it, and compare it with an undisturbed run.

    python benchmarks/kill_storm.py [--seed 0] [--directory DIR]

For each step a process of the run (the driver, a worker or one of Ray's own) gets SIGKILL at a random moment while that
step is being made; then the same command is given once more. The two stores are compared by the checksums in the
records. It prints one JSON line for each step; with three consecutive seeds each step has each kind of victim.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "configs" / "recipes" / "smoke.yaml"
STEPS = ["corpus.science", "unique.science", "tokenizer", "tokens.science", "model", "scores", "export", "report"]
NONDETERMINISTIC_FILES = re.compile(
    r"ranks/|stacks/|metrics\.jsonl|attempts\.jsonl|notices\.txt|profile/|wandb|report\.html|\.cache/"
)
"""Files that hold times or random ids, in which two undisturbed runs differ, too, and what each start has said."""


def concord_command(store: Path, step: str) -> list[str]:
    """Return the command that a user would give to run up to a step."""
    concord = Path(sys.executable).with_name("concord")
    return [str(concord), "run", str(RECIPE), "--set", f"store={store}", "--set", f"outputs=[{step}]"]


def find_descendants(pid: int) -> dict[str, list[int]]:
    """Return the descendants of `pid`: `worker`, the processes that run Concord's functions, and `ray`, Ray's own."""
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


def kill_during_step(store: Path, step: str, moment: float, *, victim: str) -> dict[str, object]:
    """Start the run, kill a process when `step` has been in the making for `moment` seconds; return what was hit."""
    process = subprocess.Popen(concord_command(store, step), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"{step}  making"):
            break
    time.sleep(moment)
    below = find_descendants(process.pid).get(victim, [])
    target = random.choice(below) if below else process.pid
    was_over = process.poll() is not None  # quicker than the calm run
    if not was_over:
        os.kill(target, signal.SIGKILL)
    rest = process.stdout.read()
    code = process.wait()
    hit = "nothing" if was_over else victim if target != process.pid else "driver"
    return {"hit": hit, "exit_code": code, "went_on_by_itself": "done in" in rest}


def run_to_end(store: Path, step: str) -> None:
    """Give the command once more. Raises CalledProcessError if it fails."""
    subprocess.run(
        concord_command(store, step), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True
    )


def directory_of(store: Path, step: str) -> Path:
    """Return the directory of a finished step."""
    for path in store.glob("*/record.json"):
        if json.loads(path.read_text(encoding="utf-8"))["step"] == step:
            return path.parent
    raise SystemExit(f"{step} has no record in {store}")


def read_record(store: Path, step: str) -> dict[str, object]:
    """Return the record of a step."""
    found: dict[str, object] = json.loads((directory_of(store, step) / "record.json").read_text(encoding="utf-8"))
    return found


def comparable_checksums(entry: dict[str, object]) -> dict[str, object]:
    """Return the checksums of the files that must be equal in two runs."""
    files = entry["files"]
    assert isinstance(files, dict)
    return {name: file["sha256"] for name, file in files.items() if not NONDETERMINISTIC_FILES.search(name)}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--directory", type=Path, default=Path("kill-storm"))
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    calm, storm = arguments.directory / "calm", arguments.directory / f"storm-{arguments.seed}"
    run_to_end(calm, STEPS[-1])
    all_same = True
    for number, step in enumerate(STEPS):
        seconds = float(str(read_record(calm, step)["seconds"]))
        moment = random.uniform(0.05, 0.95) * seconds
        victim = ("driver", "worker", "ray")[(number + arguments.seed) % 3]
        while (struck := kill_during_step(storm, step, moment, victim=victim))["hit"] == "nothing":
            shutil.rmtree(directory_of(storm, step))  # it was quicker than the calm one
            moment /= 2
        run_to_end(storm, step)
        same = comparable_checksums(read_record(calm, step)) == comparable_checksums(read_record(storm, step))
        row = {"step": step, "calm_seconds": seconds, "killed_after_seconds": round(moment, 2), **struck}
        print(json.dumps({**row, "equal_to_calm": same}), flush=True)
        all_same &= same
    sys.exit(not all_same)


if __name__ == "__main__":
    main()
