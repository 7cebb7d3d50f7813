"""Scores any model by tasks, without a recipe: what `concord eval model` does.

Each answer is kept as soon as it is there, by what was asked of which model: a killed run goes on, and one with more
tasks asks only these.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from pydantic import Field, ValidationError

from cluster.executor import Executor
from cluster.host.files import write_text
from configs.base import Artifact, Manifest, UserError
from configs.evaluation import CONTINUATION, EvaluateConfig
from data_prep.manifests import TrainedTokenizer
from data_prep.sources.document import Digest
from eval.families import group_families
from eval.manifests import BitsPerSentence, TaskScore, mean_scores
from eval.parallel import parallel_files, read_sentences
from eval.rows import bits_of_sentences
from eval.scoring import Scoring
from eval.stage import DIGESTS, PARTS, UNTRAINED, answers_of, asked_by
from eval.tasks.observed import check_tasks, digest_model, with_digests
from eval.tasks.samples import SAMPLES
from eval.tasks.suites import find_tasks
from eval.tasks.task import Task
from eval.workers import Weights, forget_model
from training.checkpoint.choice import ChosenWeights
from training.checkpoint.retention import hold
from training.records import read_known_record

SCORES_FILE = "scores.json"


class ModelScores(Manifest):
    """What a model scored, as `scores.json` has it; `samples/` holds every answer."""

    model: str
    """Its directory, or that of its checkpoint."""

    digest: str
    """SHA-256 over its files, or the checksum of the checkpoint."""

    precision: str
    tasks: tuple[TaskScore, ...]
    absent: tuple[str, ...]
    """Tasks that were asked for and whose data are not on disk."""

    untrained: tuple[TaskScore, ...]
    """What a small untrained network scored in the tasks of choices."""

    bits_per_sentence: dict[str, BitsPerSentence] = Field(default_factory=dict)

    def unsound(self) -> list[str]:
        """Return the tasks, without their languages, in which an untrained network does not score chance."""
        return [family.name for family in group_families(self.tasks, self.untrained) if not family.is_sound]

    def summary(self) -> str:
        means = mean_scores(self.tasks)
        parts = [f"{name} {value:.3f}" for name, (value, _, _) in means.items()]
        failed = sum(bool(one.failure) for one in self.tasks)
        return "; ".join([*parts, *([f"{failed} tasks failed"] if failed else [])]) or "no task"


def score_model(
    config: EvaluateConfig,
    weights: Weights,
    tokenizer: Artifact[TrainedTokenizer] | None,
    *,
    out: Path,
    store: Path,
    digest: Digest,
    executor: Executor,
    on_task: Callable[[TaskScore], None],
) -> ModelScores:
    """Score a model by the tasks of a config, and write `scores.json` and the answers into `out`.

    `store` keeps the answers of checkpoints and the digests of questions; `on_task` is called with each row once it is
    there. Raises UserError if `out` has scores of another model, if a task is not there, or if nothing is asked.
    """
    tasks, absent, languages = _find(config)
    identity = model_digest(weights, digest)
    known = _read(out)
    if known is not None and known.digest != identity:
        raise UserError(f"{out} has scores of another model, {known.model}; give another --out")
    asked = with_digests(tasks, digest)
    sentences = read_sentences(Path(config.parallel), languages) if config.parallel is not None else {}
    scoring = Scoring(config, (), asked, tokenizer, store / DIGESTS, sentences=sentences, on_task=on_task)
    own = weights if isinstance(weights, Path) else None
    other = out / PARTS / f"{identity[:16]}-{asked_by()}"
    parts = answers_of(store, weights) if isinstance(weights, ChosenWeights) else other
    try:
        with ExitStack() as held:
            for path in weights.checkpoints if isinstance(weights, ChosenWeights) else ():
                held.enter_context(hold(path))
            answered = scoring.answer(weights, parts, executor)
        control = other / UNTRAINED
        untrained = scoring.ask_untrained(answered, control, executor, tokenizer=own) if config.check_chance else ()
    finally:
        forget_model()
        executor.release()
    scoring.write_answers(out / SAMPLES, answered)
    scores = ModelScores(
        model=str(_directory(weights)),
        digest=identity,
        precision=answered.precision,
        tasks=_merged(scoring.task_scores(answered, is_ours=False), known.tasks if known else ()),
        absent=absent,
        untrained=_merged(untrained, known.untrained if known else ()),
        bits_per_sentence=bits_of_sentences(answered.sentences),
    )
    write_text(out / SCORES_FILE, scores.model_dump_json(indent=2))
    return scores


def model_digest(weights: Weights, digest: Digest) -> str:
    """Return what tells models apart, as a hexadecimal number. Raises UserError if there is no model."""
    if isinstance(weights, Path):
        return hashlib.sha256(json.dumps(digest_model(str(weights), weights, digest)).encode()).hexdigest()
    assert isinstance(weights, ChosenWeights)
    try:
        checksums = [read_known_record(path).checksum for path in weights.checkpoints]
    except ValidationError:
        raise UserError(f"{weights.checkpoints[0]} is damaged: its record cannot be read; name another one") from None
    return hashlib.sha256("-".join([weights.kind, *checksums]).encode()).hexdigest()


def _find(config: EvaluateConfig) -> tuple[list[Task], tuple[str, ...], tuple[str, ...]]:
    """Return the tasks, the names of those whose data are not there, and the languages of parallel sentences."""
    if CONTINUATION in config.tasks:
        raise UserError("continuation is made of a corpus's held-out documents; name it in a recipe's `evaluate` step")
    if not config.tasks and not config.suites and config.parallel is None:
        raise UserError("nothing is asked; give --suite, --task or --parallel")
    check_tasks(config, skips_absent=True)
    known = tuple(parallel_files(Path(config.parallel))) if config.parallel is not None else ()
    found = find_tasks(config, skips_absent=True)
    everywhere = find_tasks(config.model_copy(update={"data": None}))
    names = {task.name for task in found}
    absent = tuple(task.name for task in everywhere if task.name not in names)
    if not everywhere and config.parallel is None:
        raise UserError(
            f"--language: suite {', '.join(config.suites)} has no task in {', '.join(config.languages)}; give another "
            "language, or leave it out"
        )
    if not found and config.parallel is None:
        raise UserError(f"no task of these suites has its data in {config.data}; put them there (docs/evaluation.md)")
    return found, absent, config.languages or known


def _merged(rows: Sequence[TaskScore], earlier: Sequence[TaskScore]) -> tuple[TaskScore, ...]:
    """Return the rows, and those of other tasks that earlier commands asked."""
    names = {row.task for row in rows}
    return (*rows, *(row for row in earlier if row.task not in names))


def _read(out: Path) -> ModelScores | None:
    path = out / SCORES_FILE
    try:
        return ModelScores.model_validate_json(path.read_bytes()) if path.exists() else None
    except ValueError:
        raise UserError(f"{path} has no scores of this version's; give another --out") from None


def _directory(weights: Weights) -> Path:
    if isinstance(weights, Path):
        return weights
    assert isinstance(weights, ChosenWeights)
    return weights.checkpoints[0]
