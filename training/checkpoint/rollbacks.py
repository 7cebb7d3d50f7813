"""rollbacks.jsonl: the returns to earlier checkpoints in one run, in order. It decides which checkpoints are valid."""

import os
from pathlib import Path

from cluster.host.files import sync
from training.data.position import skip_places
from training.records import CheckpointRecord, Position, Rollback

FILE = "rollbacks.jsonl"


def read_rollbacks(out: Path) -> list[Rollback]:
    """Return every whole line; empty if there were no roll-backs."""
    path = out / FILE
    whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
    return [Rollback.model_validate_json(line) for line in whole.splitlines()]


def add_rollback(out: Path, rollback: Rollback) -> None:
    """Append a line, which is on disk when this returns: it abandons the checkpoints newer than its `to_step`."""
    path = out / FILE
    with path.open("a+b") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)  # a line that a killed process left half-written goes
        file.write(f"{rollback.model_dump_json()}\n".encode())
        file.flush()
        os.fsync(file.fileno())
    sync(out)


def is_still_valid(record: CheckpointRecord, rollbacks: list[Rollback], *, before: int) -> bool:
    """Return whether no roll-back has abandoned a checkpoint. `before` is the number of roll-backs before this run."""
    return all(record.step <= rollback.to_step for rollback in rollbacks[record.num_rollbacks - before :])


def position_after(position: Position, rollbacks: list[Rollback]) -> Position:
    """Return a checkpoint's place in the data, moved past the data that later roll-backs left out."""
    for rollback in rollbacks:
        position = skip_places(position, *rollback.skipped)
    return position
