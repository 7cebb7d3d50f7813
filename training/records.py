"""The records that training writes to disk, and how its checkpoints are named and found. Imports nothing heavy."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Self

import xxhash
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from cluster.host.files import FileEntry
from configs.training.optimizer import BatchRampConfig
from training.speeds import Speeds

CHECKPOINTS = "checkpoints"
"""Directory of a training's checkpoints, in its artifact."""

CHECKPOINT_FILE = "checkpoint.json"
"""Name of the file with the CheckpointRecord in a checkpoint's directory, written before that gets its name."""

DELETED_FILE = "deleted.jsonl"
"""Name of the file beside the checkpoints with a CheckpointKey a line for each that the recipe asked for and retention
deleted."""

CHECKPOINT_NAME = re.compile(r"step-\d{8,}")
"""The name of a checkpoint's directory: the optimizer steps before it, as `step-00000200`."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class StreamRecord(_Frozen):
    """A stream of the order: one source in one language."""

    source: str
    language: str
    num_tokens: int
    """Tokens of the whole stream. It has num_tokens - 1 targets in ceil((num_tokens - 1) / sequence_length) samples."""

    num_bytes: int
    """UTF-8 bytes of its text."""


class PhaseRecord(_Frozen):
    """Consecutive places of the order that are drawn by the same weights."""

    num_samples: int | None
    """None: all that follow."""

    weights: tuple[float, ...]
    """The share of each stream of the order."""


class OrderRecord(_Frozen):
    """All that the order of samples is a function of (data_prep/tokens/sample_order.py)."""

    seed: int
    sequence_length: int
    streams: tuple[StreamRecord, ...]
    phases: tuple[PhaseRecord, ...]
    tokens: tuple[str, ...]
    """Names in the store of the artifacts that hold the tokens."""

    @model_validator(mode="before")
    @classmethod
    def _of_one_artifact(cls, data: Any) -> Any:
        """Read a record from before there could be several, which has a name."""
        return data | {"tokens": (data["tokens"],)} if isinstance(data.get("tokens"), str) else data

    @model_validator(mode="before")
    @classmethod
    def _of_one_phase(cls, data: Any) -> Any:
        """Read a record from before there were phases, whose streams have the weights."""
        if isinstance(data, dict) and "phases" not in data and isinstance(streams := data.get("streams"), list):
            weights = [stream["weight"] for stream in streams]
            bare = [{key: value for key, value in stream.items() if key != "weight"} for stream in streams]
            return data | {"streams": bare, "phases": [{"num_samples": None, "weights": weights}]}
        return data


class Position(_Frozen):
    """How far the order of samples has been read."""

    next_place: int = 0
    """The next sample to read, by its place in the order."""

    skipped: tuple[tuple[int, int], ...] = ()
    """Ranges of places (first, past the last) that roll-backs left out, sorted and without overlap; they may lie before
    or after next_place."""


class RecentStep(_Frozen):
    """What of a step decides whether training has become unstable, and which data is skipped then."""

    loss: float
    """Nats a token."""

    updated: bool
    """Whether the weights were updated."""

    first_place: int
    """Place of the step's first sample in the order of samples."""


class Rollback(_Frozen):
    """A roll-back to an earlier checkpoint, and the data that is skipped from then on."""

    at_step: int
    """The step after which it was decided."""

    to_step: int
    """The step of the checkpoint that training resumed from; 0 for the start."""

    skipped: tuple[int, int]
    """Places of the order that are skipped from then on: the first, and past the last."""

    reason: str
    time: float
    """Unix time."""


class RankFileSums(BaseModel):
    """Checksums of one rank's file in a checkpoint (training/checkpoint/rank_file.py), in a JSON file beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    header_bytes: int
    block_bytes: int
    data_bytes: int
    xxh3_64: tuple[str, ...]
    """Checksums of the header, then of each block of the data; a reader of a part verifies its blocks."""

    sha256: str | None = None
    """Digest of the whole file, computed while it is written, for the artifact's record; None in older checkpoints."""


_LATER_FIELDS = ("recent", "validation_loss", "own", "batch_ramp", "num_skipped", "speeds")


class CheckpointRecord(_Frozen):
    """What is known of a checkpoint without reading its tensors."""

    format: Literal[2] = 2
    step: int
    """Optimizer steps, including those without an update."""

    num_updates: int
    """Optimizer steps that changed the weights: Adam's bias correction counts these."""

    num_tokens: int
    """Tokens that the loss was taken over."""

    tokens_read: dict[str, int]
    """Tokens that the loss was taken over by `source/language`, computed from the order."""

    position: Position
    order: OrderRecord
    global_batch_size: int
    num_rollbacks: int
    """Roll-backs before this checkpoint."""

    loss: float
    """Mean training loss since the last checkpoint that the recipe asks for, or the last restart, nats a token."""

    world_size: int
    zero_stage: int
    shapes: dict[str, tuple[int, ...]]
    """Shape of every parameter by name."""

    files: dict[str, str]
    """Checksum (xxh3-128, hex) of every other file but those of the ranks, which have their own (rank_file.py)."""

    recent: tuple[RecentStep, ...] | None = None
    """The last steps, as many as the detection of instability needs; None in older checkpoints."""

    validation_loss: float | None = None
    """Loss on held-out text after the step, nats a token, of a checkpoint that the recipe asks for; None without
    validation, and in older checkpoints."""

    own: bool | None = None
    """Whether the recipe asks for a checkpoint after this step; None in older checkpoints."""

    batch_ramp: BatchRampConfig | None = None
    """How the batch grew to global_batch_size, which makes the samples of the first steps a function of their number;
    None if it was whole from the first step."""

    num_skipped: int | None = None
    """Optimizer steps that left the weights as they were; None in older checkpoints, where it is step - num_updates."""

    speeds: Speeds | None = None
    """By what sequences were shared among ranks; None where that was evenly, and in older checkpoints."""

    checksum: str = ""
    """Checksum of all fields above; empty until `sealed` sets it."""

    def samples_before(self, step: int) -> int:
        """Return the samples of the first `step` optimizer steps."""
        full = self.global_batch_size
        return step * full if self.batch_ramp is None else self.batch_ramp.samples_before(step, full=full)

    @model_validator(mode="after")
    def _check_checksum(self) -> Self:
        if self.checksum and self.checksum != self._compute_checksum():
            raise ValueError("the record has changed since it was written")
        return self

    def sealed(self) -> Self:
        """Return the record with its checksum."""
        return self.model_copy(update={"checksum": self._compute_checksum()})

    def _compute_checksum(self) -> str:
        # as it was before there were such fields
        absent = {name for name in _LATER_FIELDS if getattr(self, name) is None}
        return xxhash.xxh3_128_hexdigest(self.model_dump_json(exclude={"checksum"} | absent).encode())


class CheckpointKey(_Frozen):
    """What a checkpoint is known by, also when it is gone."""

    step: int
    num_tokens: int
    checksum: str
    """That of its record."""


def note_deleted(root: Path, record: CheckpointRecord) -> None:
    """Write down, beside the checkpoints, that one of them was deleted."""
    known = CheckpointKey(step=record.step, num_tokens=record.num_tokens, checksum=record.checksum)
    with (root / DELETED_FILE).open("a", encoding="utf-8") as file:
        file.write(known.model_dump_json() + "\n")


def list_deleted(root: Path) -> list[CheckpointKey]:
    """Return the checkpoints under `root` that the recipe asked for and retention deleted, in that order."""
    path = root / DELETED_FILE
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(ValidationError):  # it is being written, or was when the training was killed
            found.append(CheckpointKey.model_validate_json(line))
    return found


def directory_of(root: Path, step: int) -> Path:
    """Return where the checkpoint after `step` optimizer steps belongs."""
    return root / f"step-{step:08d}"


def step_of(checkpoint: Path) -> int:
    """Return the step in the name of a checkpoint's directory."""
    return int(checkpoint.name.removeprefix("step-"))


def list_checkpoints(root: Path) -> list[Path]:
    """Return the checkpoints under `root` by their names alone, newest first, whole or damaged."""
    if not root.is_dir():
        return []
    return sorted((path for path in root.iterdir() if CHECKPOINT_NAME.fullmatch(path.name)), key=step_of, reverse=True)


def read_known_record(checkpoint: Path) -> CheckpointRecord:
    """Read the record of a checkpoint, and verify none of its other files. Raises OSError and ValidationError."""
    return CheckpointRecord.model_validate_json((checkpoint / CHECKPOINT_FILE).read_bytes())


def newest_checkpoint(root: Path) -> int | None:
    """Return the step of the newest checkpoint under `root` that still has its record; None if there is none."""
    complete = (path for path in list_checkpoints(root) if (path / CHECKPOINT_FILE).exists())
    return next((step_of(path) for path in complete), None)


def rank_file_digests(out: Path, *, within: str = f"{CHECKPOINTS}/*/") -> dict[str, FileEntry]:
    """Return the size and SHA-256 of the rank files under `out`, by relative path, as computed while they were written.

    Leaves out those of older checkpoints, and those whose checksums cannot be read: these must be read themselves.
    """
    digests = {}
    for path in out.glob(f"{within}rank-*-of-*.json"):
        try:
            sums = RankFileSums.model_validate_json(path.read_bytes())
        except ValidationError:
            continue
        if sums.sha256 is not None:
            data = path.with_suffix(".safetensors")
            num_bytes = sums.header_bytes + sums.data_bytes
            digests[str(data.relative_to(out))] = FileEntry(num_bytes=num_bytes, sha256=sums.sha256)
    return digests
