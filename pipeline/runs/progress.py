"""What a run has left in its store: by it one sees whether an attempt got anywhere."""

from collections.abc import Mapping
from pathlib import Path

from pipeline.store.artifact import RECORD
from training.records import CHECKPOINT_FILE


def landmarks(home: Path, artifacts: Mapping[str, str]) -> frozenset[str]:
    """Finished artifacts, and named checkpoints of those that are not."""
    found = set()
    for artifact in artifacts.values():
        if (home / artifact / RECORD).exists():
            found.add(artifact)
        else:
            found.update(str(path.parent) for path in (home / artifact).glob(f"checkpoints/step-*/{CHECKPOINT_FILE}"))
    return frozenset(found)


def all_made(home: Path, artifacts: Mapping[str, str]) -> bool:
    """Whether all artifacts are finished."""
    return all((home / artifact / RECORD).exists() for artifact in artifacts.values())


def newest_checkpoint(home: Path, artifacts: Mapping[str, str]) -> int:
    """The largest step of a checkpoint of any of the artifacts; -1 if there is none."""
    paths = (path for artifact in artifacts.values() for path in (home / artifact).glob("checkpoints/step-*"))
    return max(
        (int(path.name.removeprefix("step-")) for path in paths if (path / CHECKPOINT_FILE).exists()), default=-1
    )
