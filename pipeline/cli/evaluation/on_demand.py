"""`concord eval model`: finds the model that is meant, has it scored, and says what it scored."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError
from rich.console import Console

from cluster.connect import executor_for
from cluster.inline import InlineExecutor
from cluster.leases.lease import lease
from cluster.storage.errors import explain_os_error
from configs.base import Artifact, UserError
from configs.cluster import ClusterConfig
from configs.evaluation import EvaluateConfig
from configs.load import load, shipped
from configs.pools import PoolConfig
from data_prep.manifests import TrainedTokenizer
from pipeline.cli.subject import ArtifactSubject, find_artifact, find_subject
from pipeline.graph.fingerprint import Digests
from pipeline.store.artifact import load_artifact, record_of
from training.checkpoint.choice import ChosenWeights, choose_checkpoints
from training.export import MODEL
from training.records import CHECKPOINT_FILE, CHECKPOINTS, read_known_record

if TYPE_CHECKING:
    from eval.manifests import TaskScore
    from eval.on_demand import ModelScores

EVALUATIONS = "evaluations"
"""Directory of a store with what is scored on demand."""


@dataclass(frozen=True)
class Model:
    """A model that was named on the command line."""

    name: str
    weights: ChosenWeights | Path
    tokenizer: Artifact[TrainedTokenizer] | None
    """None of a Hugging Face directory, which has its own."""


def find_model(word: str, *, store: str, checkpoint: str) -> Model:
    """Return the model that a word names: a Hugging Face directory, an export, a training, or one of its checkpoints.

    `checkpoint` says which of a training's: `last`, `best`, or the number of a step. Raises UserError if it is none.
    """
    path = Path(word).expanduser()
    if (path / "config.json").is_file() and not (path / CHECKPOINT_FILE).is_file():
        return Model(path.absolute().name, path.absolute(), None)
    if path.is_dir() and not any(path.iterdir()):
        raise UserError(f"{word} is an empty directory; name a model's")
    found = find_artifact(find_subject(word, store=store), stage="train")
    files = found.files_here()
    if found.checkpoint is None and (files / MODEL / "config.json").is_file():
        return Model(found.name, (files / MODEL).absolute(), None)
    chosen = [found.checkpoint] if found.checkpoint is not None else _choose(found, files, checkpoint)
    name = f"{found.name}-{chosen[0].name}"
    return Model(name, ChosenWeights(tuple(chosen), "master"), _tokenizer_of(chosen[0], found.home))


def _choose(found: ArtifactSubject, files: Path, checkpoint: str) -> list[Path]:
    if not (files / CHECKPOINTS).is_dir():
        raise UserError(
            f"{found.name} is no model; name a Hugging Face directory, an `export` or `train` artifact, or a checkpoint"
        )
    if checkpoint in ("last", "best"):
        return choose_checkpoints(files / CHECKPOINTS, "best" if checkpoint == "best" else "last")
    if not checkpoint.isdecimal():
        raise UserError(f"--checkpoint {checkpoint}: give last, best, or the number of a step")
    return choose_checkpoints(files / CHECKPOINTS, int(checkpoint))


def _tokenizer_of(checkpoint: Path, store: Path) -> Artifact[TrainedTokenizer]:
    """Return the tokenizer of the tokens that a checkpoint was trained on."""
    try:
        names = read_known_record(checkpoint).order.tokens
    except ValidationError:
        raise UserError(f"{checkpoint} is damaged: its record cannot be read; name another one") from None
    for name in names:
        record = record_of(store, name)
        inputs = dict(record.all_inputs()) if record is not None else {}
        if "tokenizer" in inputs and (found := load_artifact(store / inputs["tokenizer"].artifact, TrainedTokenizer)):
            return found
    raise UserError(
        f"{checkpoint}: the tokenizer of what it was trained on is not in {store}; export the model, and name the "
        "directory of the export"
    )


def score_on_demand(
    model: Model, config: EvaluateConfig, *, store: Path, out: Path | None, cluster: str | None, console: Console | None
) -> "tuple[Path, ModelScores]":
    """Score a model, print each task's row once it is there, and return where the scores are."""
    from eval.on_demand import model_digest, score_model

    store = store.absolute()
    executor = (
        InlineExecutor(PoolConfig())
        if cluster is None
        else executor_for(load(shipped("clusters", cluster), ClusterConfig).config, "default")
    )

    def tell(row: "TaskScore") -> None:
        if console is not None:
            console.print(describe(row), markup=False)

    with _explained():
        store.mkdir(parents=True, exist_ok=True)
        digests = Digests(store)
        name = f"{model.name}-{model_digest(model.weights, digests)[:12]}"
        where = out.absolute() if out else store / EVALUATIONS / name
        if where.is_file():
            raise UserError(f"--out {where} is a file; give another directory with --out")
        where.mkdir(parents=True, exist_ok=True)
        try:
            with lease(where.parent, where.name, what=f"scores of {model.name}"):
                found = score_model(
                    config,
                    model.weights,
                    model.tokenizer,
                    out=where,
                    store=store,
                    digest=digests,
                    executor=executor,
                    on_task=tell,
                )
        finally:
            digests.save()  # what was read need not be read again, whatever came of the rest
    return where, found


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise explain_os_error(error, where="--out", elsewhere="give another directory with --out") from error


def describe(row: "TaskScore") -> str:
    """Return a task's row as a line."""
    name = row.task if row.language == "und" or row.task.endswith(f"_{row.language}") else f"{row.task} {row.language}"
    if row.failure or row.value is None:
        return f"{name}  not scored: {row.failure}"
    has_chance = row.chance is not None
    value, *bounds = (
        "" if one is None else f"{one:.1%}" if has_chance else f"{one:.3f}" for one in (row.value, row.low, row.high)
    )
    interval = f" ({bounds[0]} to {bounds[1]})" if all(bounds) else ""
    guess = "" if row.chance is None else f", chance {row.chance:.1%}"
    return f"{name}  {row.metric} {value}{interval}{guess}, {row.num_questions:,} questions"


def closing_lines(scores: "ModelScores") -> list[str]:
    """Return the means over languages, parallel sentences, and which tasks have no data."""
    lines = [scores.summary()]
    if scores.bits_per_sentence:
        ordered = sorted(scores.bits_per_sentence.items(), key=lambda item: item[1].bits_per_sentence)
        shown = [f"{language} {one.bits_per_sentence:.1f}" for language, one in ordered]
        lines.append(f"bits per sentence: {', '.join(shown)}")
    for name in scores.unsound():
        lines.append(f"{name}: an untrained network does not score chance in it, so it says nothing of knowledge")
    if scores.absent:
        more = f" and {len(scores.absent) - 3:,} more" if len(scores.absent) > 3 else ""
        lines.append(f"not scored, since the data are not there: {', '.join(scores.absent[:3])}{more}")
    return lines


def as_json(where: Path, scores: "ModelScores") -> str:
    """Return what a script reads: where the scores are, and the scores."""
    return json.dumps({"directory": str(where)} | scores.model_dump(mode="json"))
