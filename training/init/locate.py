"""What `init_from` names: where the weights and their tokenizer are, and what they are now. The plan asks, so nothing
heavy is imported."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, JsonValue, ValidationError

from configs.base import UserError
from configs.training import InitConfig, TrainConfig
from data_prep.sources.document import Digest
from data_prep.tokenizer.stage import HUGGING_FACE
from training.records import CHECKPOINT_FILE, CheckpointRecord

TOKENIZER = "tokenizer.json"
_TOKENIZER_FILES = (TOKENIZER, "tokenizer_config.json", "special_tokens_map.json")
_CONFIG, _WEIGHTS, _INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_HOLDS_WEIGHTS = {"train": "checkpoint", "export": "path"}
"""Stages whose artifacts hold weights, and the key of their manifest that says where."""


class _Input(BaseModel):
    artifact: str


class _Artifact(BaseModel):
    """What is read of an artifact's record; pipeline/store/artifact.py has the whole format."""

    stage: str
    fingerprint: str
    manifest: dict[str, JsonValue]
    inputs: dict[str, _Input]


class _Index(BaseModel):
    """Which file of a sharded Hugging Face model holds which tensor."""

    weight_map: dict[str, str]


R = TypeVar("R", bound=BaseModel)


def find_initial(path: Path) -> Path:
    """The directory of the weights: a Hugging Face model or a checkpoint of ours, which holds `CHECKPOINT_FILE`.

    `path` may also be a finished artifact of `train` or `export`.
    Raises UserError if there are none.
    """
    if not path.is_dir():
        raise _error(path, f"is no directory that exists (seen from {Path.cwd()}); correct it")
    if record := _artifact_record(path):
        if record.stage not in _HOLDS_WEIGHTS:
            raise _error(path, f"was made by stage {record.stage!r}, which makes no weights; name one of `train`")
        return path / str(record.manifest[_HOLDS_WEIGHTS[record.stage]])
    if (path / CHECKPOINT_FILE).is_file() or weight_files(path):
        return path
    if (path / "checkpoints").is_dir():
        raise _error(path, "is a training that is not finished; name one of its checkpoints, in checkpoints/")
    if pickles := sorted(file.name for ending in ("bin", "pt", "pth") for file in path.glob(f"*.{ending}")):
        raise _error(path, f"holds a pickle, {pickles[0]}, which runs code when it is read; save it as safetensors")
    raise _error(
        path,
        f"holds neither {_CONFIG} with {_WEIGHTS} or {_INDEX}, nor {CHECKPOINT_FILE}, nor checkpoints/; name a Hugging "
        "Face model directory, a checkpoint, or an artifact of `train` or `export`",
    )


def find_checkpoint(init: InitConfig) -> Path:
    """The checkpoint whose training goes on. Raises UserError if the path does not lead to one of ours."""
    found = find_initial(Path(init.path))
    if not (found / CHECKPOINT_FILE).is_file():
        raise _error(
            found, "holds weights but no optimizer state to continue with; set mode: weights, or name a checkpoint"
        )
    return found


def find_tokenizer(init: InitConfig) -> Path | None:
    """The directory with the `TOKENIZER` of the weights, if it can be found: named, beside them, or by lineage."""
    if init.tokenizer is None:
        weights = find_initial(Path(init.path))
        places = [*_lineage(weights)] if (weights / CHECKPOINT_FILE).is_file() else [weights]
        return next((place for place in places if (place / TOKENIZER).is_file()), None)
    for place in (Path(init.tokenizer), Path(init.tokenizer) / HUGGING_FACE):
        if (place / TOKENIZER).is_file():
            return place
    raise UserError(
        f"init_from.tokenizer: {init.tokenizer} is no directory with a {TOKENIZER}; name the one that has it"
    )


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a Hugging Face model directory; none if it is not one."""
    if not (directory / _CONFIG).is_file():
        return []
    if not (directory / _INDEX).is_file():
        return [directory / _WEIGHTS] if (directory / _WEIGHTS).is_file() else []
    names = set(_read(directory / _INDEX, _Index).weight_map.values())
    if missing := sorted(name for name in names if not (directory / name).is_file()):
        raise _error(directory, f"lacks {missing[0]}, which {_INDEX} names; fetch it")
    return [directory / name for name in sorted(names)]


def with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """The same training for ranks, whose working directory is another."""
    if (init := config.init_from) is None:
        return config
    tokenizer = str(Path(init.tokenizer).absolute()) if init.tokenizer else None
    moved = init.model_copy(update={"path": str(Path(init.path).absolute()), "tokenizer": tokenizer})
    return config.model_copy(update={"init_from": moved})


def observe_initial(config: TrainConfig, digest: Digest) -> JsonValue:
    """What training starts from, as a part of its identity; None if from random weights."""
    if (init := config.init_from) is None:
        return None
    if init.mode == "continue":
        find_checkpoint(init)  # while it costs nothing to say that there is none
    tokenizer = find_tokenizer(init) if init.mode == "weights" else None
    files = [tokenizer / name for name in _TOKENIZER_FILES] if tokenizer else []
    return {
        "weights": _identity(Path(init.path), digest),
        "tokenizer": _digests([file for file in files if file.is_file()], digest),
    }


def _identity(path: Path, digest: Digest) -> JsonValue:
    """A checkpoint's record has the checksums of its other files, a finished artifact has its fingerprint."""
    found = find_initial(path)
    if record := _artifact_record(path):
        return {"fingerprint": record.fingerprint}
    if (found / CHECKPOINT_FILE).is_file():
        return _digests([found / CHECKPOINT_FILE, found / _CONFIG], digest)
    return _digests([found / _CONFIG, *weight_files(found)], digest)


def _digests(files: list[Path], digest: Digest) -> JsonValue:
    try:
        return {file.name: digest(file) for file in files}
    except OSError as error:
        raise _error(Path(str(error.filename)), f"cannot be read ({error.strerror}); mend that") from error


def _lineage(checkpoint: Path) -> list[Path]:
    """Where the tokenizer of a checkpoint should be, by the records of its artifact and of the tokens it has read."""
    record = _read(checkpoint / CHECKPOINT_FILE, CheckpointRecord)
    artifact = checkpoint.resolve().parent.parent
    store = artifact.parent
    found = filter(None, map(_artifact_record, (artifact, store / record.order.tokens)))
    return [store / made.inputs["tokenizer"].artifact / HUGGING_FACE for made in found if "tokenizer" in made.inputs]


def _artifact_record(path: Path) -> _Artifact | None:
    return _read(path / "record.json", _Artifact) if (path / "record.json").is_file() else None


def _read(path: Path, kind: type[R]) -> R:
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise _error(path, f"cannot be read ({error.strerror}); mend that") from error
    except ValidationError as error:
        raise _error(path, f"is damaged ({error.error_count()} problems); fetch it again or name another") from error


def _error(path: Path, problem: str) -> UserError:
    return UserError(f"init_from: {path} {problem}")
