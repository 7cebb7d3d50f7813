"""Measure how long `concord run` takes from the command to the first optimizer step when all data is made.

    python benchmarks/first_step.py STORE

STORE holds a finished smoke run. The benchmark trains one step with a new seed, which is a new artifact, and prints one
JSON line.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

RECIPE = Path(__file__).parent.parent / "configs" / "recipes" / "smoke.yaml"


def main() -> None:
    """Run the benchmark."""
    store, seed = Path(sys.argv[1]), int(time.time())
    settings = [
        f"store={store}",
        "outputs=[model]",
        "steps.model.config.num_steps=1",
        f"steps.model.config.seed={seed}",
    ]
    settings.append("steps.model.config.schedule.num_warmup_steps=0")
    command = [str(Path(sys.executable).with_name("concord")), "run", str(RECIPE)]
    started = time.time()
    subprocess.run(command + [part for text in settings for part in ("--set", text)], check=True, capture_output=True)
    newest = max(store.glob("train-*/metrics.jsonl"), key=lambda path: path.stat().st_mtime)
    first = json.loads(newest.read_text(encoding="utf-8").splitlines()[0])
    seconds = {"command_to_first_step": first["time"] - started, "command_to_end": time.time() - started}
    print(json.dumps({name: round(value, 1) for name, value in seconds.items()}))


if __name__ == "__main__":
    main()
