"""Chooses among the checkpoints of a training, finished or not. Imports nothing heavy."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from cluster.storage.errors import error_class
from configs.base import Artifact, InfrastructureError, UserError
from configs.evaluation import CheckpointChoice
from training.manifests import TrainedModel, counted
from training.records import CHECKPOINTS, CheckpointRecord, list_checkpoints, read_known_record, step_of

Choice = Literal["last", "best"] | int
"""The newest checkpoint, that of the lowest validation loss, or the number of a step."""


def best_step(validation_losses: Mapping[int, float]) -> int | None:
    """Return the step of the lowest validation loss, the earliest of equals; None if there is none."""
    found = [(loss, step) for step, loss in validation_losses.items() if math.isfinite(loss)]
    return min(found)[1] if found else None


def find_best(root: Path) -> CheckpointRecord | None:
    """Return the record of the checkpoint under `root` with the lowest validation loss; None if none has one."""
    return _best_of(dict(_read_records(root)))


def _best_of(records: Mapping[int, CheckpointRecord]) -> CheckpointRecord | None:
    losses = {step: record.validation_loss for step, record in records.items()}
    best = best_step({step: loss for step, loss in losses.items() if loss is not None})
    return None if best is None else records[best]


def list_own(root: Path) -> list[CheckpointRecord]:
    """Return the records of the checkpoints under `root` that the recipe asks for, the newest first."""
    return [record for _, record in _read_records(root) if record.own is not False]


def choose_checkpoints(root: Path, choice: Choice, *, average: int = 1) -> list[Path]:
    """Return the chosen checkpoint under `root`, and the `average - 1` of the recipe's own before it, newest first.

    Raises UserError, which names those that there are, if one of them is not there.
    """
    records = dict(_read_records(root))
    if not records:
        raise UserError(f"{root} has no checkpoint yet; wait for the first one")
    step = _choose(root, records, choice)
    before = [number for number in sorted(records, reverse=True) if number < step and records[number].own is not False]
    if len(before) < average - 1:
        raise UserError(
            f"{root} has {counted(len(before) + 1, 'checkpoint')} up to step {step}, and the average is to be over "
            f"{average}; lower `average`, or have the cluster file's retention keep more ({_describe(records)})"
        )
    paths = {step_of(path): path for path in list_checkpoints(root)}
    return [paths[number] for number in [step, *before[: average - 1]]]


def _choose(root: Path, records: Mapping[int, CheckpointRecord], choice: Choice) -> int:
    if choice == "last":
        return max(records)
    if choice == "best":
        if (best := _best_of(records)) is None:
            raise UserError(
                f"no checkpoint in {root} has a validation loss, so none is the best; choose `last` or a step "
                f"({_describe(records)})"
            )
        return best.step
    if choice not in records:
        raise UserError(f"{root} has no checkpoint of step {choice}; choose another one ({_describe(records)})")
    return choice


def _describe(records: Mapping[int, CheckpointRecord]) -> str:
    return f"there are: {', '.join(str(step) for step in sorted(records))}"


def _read_records(root: Path) -> Iterator[tuple[int, CheckpointRecord]]:
    for path in list_checkpoints(root):
        try:
            yield step_of(path), read_known_record(path)
        except (OSError, ValidationError) as error:
            if error_class(error) is InfrastructureError:
                raise InfrastructureError(f"{path} cannot be read ({error}); try again") from error
            continue  # a damaged one, or one that was deleted meanwhile


@dataclass(frozen=True)
class ChosenWeights:
    """The weights that a stage takes of a training."""

    checkpoints: tuple[Path, ...]
    """The chosen one, and those before it that are averaged with it."""

    kind: Literal["master", "ema"]

    @property
    def step(self) -> int:
        """The step of the chosen one."""
        return step_of(self.checkpoints[0])


def choose_weights(config: CheckpointChoice, model: Artifact[TrainedModel]) -> ChosenWeights:
    """Return the weights that the config names. Raises UserError if they are not there."""
    root = model.dir / CHECKPOINTS
    choice = step_of(Path(model.manifest.checkpoint)) if config.checkpoint == "last" else config.checkpoint
    found = choose_checkpoints(root, choice, average=config.average)
    return ChosenWeights(tuple(found), "ema" if config.weights == "ema" else "master")
