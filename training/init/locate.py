"""Locates what `init_from` names: the weights, their tokenizer, and the identity of both. Imports nothing heavy.

`init_from: {mode: weights}` begins here and ends in training/init/fill.py, which copies the weights into the recipe's
model. With `mode: continue` and `new_data` the checkpoint is loaded by training/loop/run_state.py instead. `concord
plan` calls `observe_init_from`, so that a training's identity changes with the files it starts from.
"""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, JsonValue, ValidationError

from cluster.storage.errors import error_class
from configs.base import Artifact, UserError
from configs.training.init import InitConfig
from configs.training.train import TrainConfig
from data_prep.manifests import TrainedTokenizer
from data_prep.sources.document import Digest
from data_prep.tokenizer.stage import HUGGING_FACE
from training.checkpoint.choice import choose_checkpoints
from training.manifests import TrainedModel
from training.records import CHECKPOINT_FILE, CHECKPOINTS, CheckpointRecord

TOKENIZER = "tokenizer.json"
_TOKENIZER_FILES = (TOKENIZER, "tokenizer_config.json", "special_tokens_map.json")
_CONFIG, _WEIGHTS, _INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_HOLDS_WEIGHTS = {"train": "checkpoint", "export": "path"}
"""Stages whose artifacts hold weights, and the key of their manifest that names the directory."""


class _Input(BaseModel):
    artifact: str


class _Artifact(BaseModel):
    """The part of an artifact's record that is read here; pipeline/store/artifact.py has the whole format."""

    stage: str
    fingerprint: str
    manifest: dict[str, JsonValue]
    inputs: dict[str, _Input | tuple[_Input, ...]]


class _Index(BaseModel):
    """The index of a sharded Hugging Face model: which file holds which tensor."""

    weight_map: dict[str, str]


R = TypeVar("R", bound=BaseModel)


def find_weights(init: InitConfig) -> Path:
    """Return the directory of the weights: a Hugging Face model, or a checkpoint, which holds `CHECKPOINT_FILE`.

    The path, which must be there, may also be an artifact of `train` or `export`. Raises UserError if there are no
    weights.
    """
    path = path_of(init)
    if not path.is_dir():
        hub = "; a name on the Hub is not looked up: `hf download` it, and name the directory" if _is_hub(path) else ""
        raise _error(path, f"is no directory that exists (seen from {Path.cwd()}); correct it{hub}")
    if record := _artifact_record(path):
        if record.stage not in _HOLDS_WEIGHTS:
            raise _error(path, f"was made by stage {record.stage!r}, which makes no weights; name one of `train`")
        if record.stage == "train" and init.checkpoint != "last":
            return choose_checkpoints(path / CHECKPOINTS, init.checkpoint)[0]
        return path / str(record.manifest[_HOLDS_WEIGHTS[record.stage]])
    if isinstance(init.checkpoint, int) and (path / CHECKPOINTS).is_dir():
        return choose_checkpoints(path / CHECKPOINTS, init.checkpoint)[0]
    if (path / CHECKPOINT_FILE).is_file() or list_weight_files(path):
        return path
    if (path / CHECKPOINTS).is_dir():
        raise _error(path, "is a training that is not finished; give the step of one as init_from.checkpoint")
    if pickles := sorted(file.name for ending in ("bin", "pt", "pth") for file in path.glob(f"*.{ending}")):
        raise _error(path, f"holds a pickle, {pickles[0]}, which runs code when it is read; save it as safetensors")
    raise _error(
        path,
        f"holds neither {_CONFIG} with {_WEIGHTS} or {_INDEX}, nor {CHECKPOINT_FILE}, nor checkpoints/; name a Hugging "
        "Face model directory, a checkpoint, or an artifact of `train` or `export`",
    )


def _is_hub(path: Path) -> bool:
    """Return whether a path looks like `owner/name`."""
    return not path.is_absolute() and len(path.parts) == 2 and path.parts[0] not in (".", "..")


def find_checkpoint_to_continue(init: InitConfig) -> Path:
    """Return the checkpoint whose training goes on. Raises UserError if the path does not lead to one."""
    found = find_weights(init)
    if not (found / CHECKPOINT_FILE).is_file():
        raise _error(
            found, "holds weights but no optimizer state to continue with; set mode: weights, or name a checkpoint"
        )
    return found


def find_tokenizer(init: InitConfig) -> Path | None:
    """Return the directory with the `TOKENIZER` of the weights: the named one, theirs, or by lineage; None if unknown.

    Raises UserError if a named one does not exist.
    """
    if init.tokenizer is None:
        weights = find_weights(init)
        directories = _tokenizers_by_lineage(weights) if (weights / CHECKPOINT_FILE).is_file() else [weights]
        return next((directory for directory in directories if (directory / TOKENIZER).is_file()), None)
    for directory in (Path(init.tokenizer), Path(init.tokenizer) / HUGGING_FACE):
        if (directory / TOKENIZER).is_file():
            return directory
    raise UserError(
        f"init_from.tokenizer: {init.tokenizer} is no directory with a {TOKENIZER}; name the one that has it"
    )


def list_weight_files(directory: Path) -> list[Path]:
    """List the safetensors files of a Hugging Face model directory; none if it is not one."""
    if not (directory / _CONFIG).is_file():
        return []
    if not (directory / _INDEX).is_file():
        return [directory / _WEIGHTS] if (directory / _WEIGHTS).is_file() else []
    names = set(_read(directory / _INDEX, _Index).weight_map.values())
    if missing := sorted(name for name in names if not (directory / name).is_file()):
        raise _error(directory, f"lacks {missing[0]}, which {_INDEX} names; fetch it")
    return [directory / name for name in sorted(names)]


def check_same_tokenizer(init: InitConfig, tokenizer: Artifact[TrainedTokenizer]) -> None:
    """Raise UserError if a training that is to go on was trained with another tokenizer than the recipe's."""
    old = find_tokenizer(init)
    if old is not None and (old / TOKENIZER).read_bytes() != (tokenizer.dir / HUGGING_FACE / TOKENIZER).read_bytes():
        raise _error(
            path_of(init),
            f"was trained with the tokenizer in {old}, and the recipe has another, so its embedding would be of other "
            "pieces; take that one, or set mode: weights, which moves the rows of the embedding",
        )


def path_of(init: InitConfig) -> Path:
    """Return the path, which the recipe gives, or `with_absolute_paths` of an input."""
    assert init.path is not None
    return Path(init.path)


def with_absolute_paths(config: TrainConfig, init: Artifact[TrainedModel] | None) -> TrainConfig:
    """Return the config with absolute paths, for ranks, whose working directory is another.

    `init` is the training that the step has as its input, if it has one: its path becomes that of `init_from`.
    """
    if (start := config.init_from) is None:
        return config
    tokenizer = str(Path(start.tokenizer).absolute()) if start.tokenizer else None
    path = path_of(start) if init is None else init.dir
    moved = start.model_copy(update={"path": str(path.absolute()), "tokenizer": tokenizer})
    return config.model_copy(update={"init_from": moved})


def observe_init_from(config: TrainConfig, digest: Digest) -> JsonValue:
    """Return the identity of the weights that training starts from; None if they are random, or of an input."""
    if (init := config.init_from) is None or init.path is None:
        return None
    if init.mode != "weights":
        find_checkpoint_to_continue(init)  # to raise now, before anything is run
    tokenizer = find_tokenizer(init) if init.mode == "weights" else None
    files = [tokenizer / name for name in _TOKENIZER_FILES] if tokenizer else []
    return {
        "weights": _identity(init, digest),
        "tokenizer": _digests([file for file in files if file.is_file()], digest),
    }


def _identity(init: InitConfig, digest: Digest) -> JsonValue:
    """Return the fingerprint of an artifact, or digests of files; a checkpoint's record has those of its others."""
    found = find_weights(init)
    if record := _artifact_record(path_of(init)):
        return {"fingerprint": record.fingerprint}
    if (found / CHECKPOINT_FILE).is_file():
        return _digests([found / CHECKPOINT_FILE, found / _CONFIG], digest)
    return _digests([found / _CONFIG, *list_weight_files(found)], digest)


def _digests(files: list[Path], digest: Digest) -> JsonValue:
    try:
        return {file.name: digest(file) for file in files}
    except OSError as error:
        raise _unreadable(Path(str(error.filename)), error) from error


def _tokenizers_by_lineage(checkpoint: Path) -> list[Path]:
    """List where a checkpoint's tokenizer should be, by the records of its artifact and of the tokens it has read."""
    record = _read(checkpoint / CHECKPOINT_FILE, CheckpointRecord)
    artifact = checkpoint.resolve().parent.parent
    store = artifact.parent
    found = filter(None, map(_artifact_record, (artifact, *(store / name for name in record.order.tokens))))
    given = [made.inputs.get("tokenizer") for made in found]
    return [store / one.artifact / HUGGING_FACE for one in given if isinstance(one, _Input)]


def _artifact_record(path: Path) -> _Artifact | None:
    return _read(path / "record.json", _Artifact) if (path / "record.json").is_file() else None


def _read(path: Path, kind: type[R]) -> R:
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValidationError as error:
        raise _error(path, f"is damaged ({error.error_count()} problems); fetch it again or name another") from error


def _error(path: Path, problem: str) -> UserError:
    return UserError(f"init_from: {path} {problem}")


def _unreadable(path: Path, error: OSError) -> UserError:
    """InfrastructureError if the file may be read later."""
    return error_class(error)(str(_error(path, f"cannot be read ({error.strerror}); mend that")))
