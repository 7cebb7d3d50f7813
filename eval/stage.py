"""The stage that scores a trained model, or each of its checkpoints: on held-out documents, and by tasks.

It imports nothing heavy: workers do.
"""

import hashlib
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from cluster.executor import Executor
from cluster.host.files import sha256_of
from configs.base import Artifact, Unfinished, UserError
from configs.evaluation import EvaluateConfig
from data_prep.cleaning.held_out import smallest_digests
from data_prep.manifests import CleanCorpus, TrainedTokenizer
from data_prep.masks.manifest import Mask
from data_prep.masks.reading import find_mask, read_held_out
from data_prep.sources.document import Document
from eval.ledger import Checkpoint, Ledger
from eval.manifests import BaselineScores, Scores
from eval.parallel import read_sentences
from eval.rows import Answered, bits_of_sentences
from eval.scoring import Scoring
from eval.tasks.observed import with_digests
from eval.tasks.samples import SAMPLES
from eval.tasks.suites import find_tasks
from eval.workers import forget_model
from training.checkpoint.choice import ChosenWeights, choose_weights, list_own
from training.checkpoint.retention import hold
from training.manifests import TrainedModel
from training.records import (
    CHECKPOINT_FILE,
    CHECKPOINTS,
    CheckpointKey,
    directory_of,
    list_checkpoints,
    list_deleted,
    read_known_record,
    step_of,
)

BASELINES = "baselines"
"""Directory of other models' answers, by name."""

UNTRAINED = "untrained"
"""Directory, among the parts, of what the untrained network answered."""

PARTS = "parts"
"""Directory of what other models answered, until the stage ends."""

ANSWERS = "answers"
"""Directory of a store with what checkpoints answered: no other evaluation asks it again. It may be deleted."""

ANSWERS_VERSION = 2
"""To be raised when a model would answer otherwise, or the same answers were wrong."""

BY_CHECKPOINT = "checkpoints"
"""Directory with the answers of each checkpoint by its step, with `checkpoints: every`."""

DIGESTS = "task_digests"
"""Directory of a store with the digests of the questions of suites' tasks, as they were when first loaded."""

SECONDS_BETWEEN_LOOKS = 2.0
"""How often it is asked whether a training has a new checkpoint."""


def check_held_out(corpora: Sequence[CleanCorpus], masks: Sequence[Mask] = ()) -> None:
    """Raise UserError if no corpus has held-out documents to score on, or none that the masks leave."""
    number = sum(shard.num_documents for corpus in corpora for shard in corpus.held_out)
    if not number:
        raise UserError("no document is held out, so there is nothing to evaluate on; raise held_out.share or add text")
    masked = sum(count.num_held_out for mask in masks for count in mask.counts)
    if masked >= number:
        raise UserError(
            f"the masks leave out all {number:,} held-out documents, which earlier corpora have, so there is nothing "
            "to evaluate on; raise held_out.share, or score on those corpora"
        )


def evaluate(
    config: EvaluateConfig,
    *,
    model: Artifact[TrainedModel] | Unfinished[TrainedModel],
    tokenizer: Artifact[TrainedTokenizer],
    corpus: tuple[Artifact[CleanCorpus], ...],
    mask: tuple[Artifact[Mask], ...] = (),
    out: Path,
    executor: Executor,
) -> Scores:
    """Score the model: bits per byte on what the corpora hold out, without what the masks leave out, and tasks.

    A task that fails is a row among the scores. With `checkpoints: every` each checkpoint is scored, the newest first,
    also while the training goes on. Raises UserError if no document is held out, and Abandoned if the training ends
    without a model.
    """
    scoring = _prepare(config, tokenizer, corpus, mask, out.parent / DIGESTS)
    ledger = Ledger(out)
    try:
        if config.checkpoints == "every":
            for checkpoint in _unscored_checkpoints(model, scoring, ledger, out.parent):
                _score_checkpoint(checkpoint, model.dir / CHECKPOINTS, scoring, ledger, out, executor)
        finished = _wait(model)
        weights = choose_weights(config, finished)
        with ExitStack() as held:
            for path in weights.checkpoints:
                held.enter_context(hold(path))
            answered = scoring.answer(weights, answers_of(out.parent, weights), executor, writes=True)
        untrained = scoring.ask_untrained(answered, out / PARTS / UNTRAINED, executor) if config.check_chance else ()
        baselines = {
            name: _ask_baseline(Path(path).absolute(), scoring, out / PARTS / f"baseline-{name}", executor)
            for name, path in config.baselines.items()
        }
    finally:
        forget_model()
        executor.release()
    scoring.write_answers(out / SAMPLES, answered)
    for name, others in baselines.items():
        if isinstance(others, Answered):
            scoring.write_answers(out / BASELINES / name / SAMPLES, others)
    scores = _scores(scoring, answered, weights, ledger, baselines).model_copy(update={"untrained": untrained})
    shutil.rmtree(out / PARTS, ignore_errors=True)
    return scores


def _ask_baseline(model: Path, scoring: Scoring, parts: Path, executor: Executor) -> Answered | str:
    """Return what another model answered, or why it cannot be asked, which is no end of this one's scores."""
    try:
        return scoring.answer(model, parts, executor)
    except UserError as error:
        if type(error) is not UserError:
            raise
        return str(error)


def _prepare(
    config: EvaluateConfig,
    tokenizer: Artifact[TrainedTokenizer],
    corpus: tuple[Artifact[CleanCorpus], ...],
    mask: tuple[Artifact[Mask], ...],
    digests: Path,
) -> Scoring:
    """Return what is asked of each checkpoint. Raises UserError if no document is held out."""
    check_held_out([one.manifest for one in corpus], [one.manifest for one in mask])
    held_out = chain.from_iterable(read_held_out(one, find_mask(one, mask)) for one in corpus)
    chosen = smallest_digests(held_out, config.documents_per_stream)
    if not chosen:
        raise UserError("no held-out document is left to evaluate on; raise held_out.share, or add text")
    languages = tuple(config.languages) or tuple(sorted({document.language for document in chosen}))
    sentences = read_sentences(Path(config.parallel), languages) if config.parallel is not None else {}
    if config.parallel is not None and not sentences:
        raise UserError(f"parallel: {config.parallel} has no sentences in {', '.join(languages)}; add a file of one")
    sources = {count.source for one in corpus for count in one.manifest.counts}
    if unknown := [name for own in config.domains.values() for name in own if name not in sources]:
        raise UserError(f"domains: no corpus has the source {unknown[0]!r}; there are {', '.join(sorted(sources))}")
    checked = [frozenset(count.test for count in one.manifest.tests) for one in mask]
    return Scoring(
        config,
        chosen,
        with_digests(find_tasks(config, languages), sha256_of),
        tokenizer,
        digests,
        languages=languages,
        sentences=sentences,
        receipts=frozenset.intersection(*checked) if checked and len(mask) == len(corpus) else None,
    )


def _wait(model: Artifact[TrainedModel] | Unfinished[TrainedModel]) -> Artifact[TrainedModel]:
    """Return the finished training."""
    if isinstance(model, Artifact):
        return model
    while (manifest := model.find()) is None:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return Artifact(model.dir, manifest)


def _unscored_checkpoints(
    model: Artifact[TrainedModel] | Unfinished[TrainedModel], scoring: Scoring, ledger: Ledger, store: Path
) -> Iterator[Checkpoint]:
    """Yield the checkpoints that the recipe asks for and that are not in the ledger, the newest first, to the last.

    One that was deleted and has not answered all before, or whose record cannot be read, is written down.
    """
    root, answered = model.dir / CHECKPOINTS, set[CheckpointKey]()
    while True:
        is_finished = isinstance(model, Artifact) or model.find() is not None
        lost = {key: "its record (checkpoint.json) is damaged" for key in _list_damaged(root)}
        found: list[Checkpoint] = [record for record in list_own(root) if not ledger.has(record)]
        # the last of a step, and none that a roll-back has made anew
        gone = {key.step: key for key in list_deleted(root) if not directory_of(root, key.step).exists()}
        for key in (key for key in gone.values() if not ledger.has(key)):
            weights = _weights_of(key, root, scoring)
            if key in answered or scoring.is_answered(weights, _answers_of(store, weights, [key.checksum])):
                answered.add(key)
                found.append(key)
            else:
                lost[key] = "retention deleted it before its turn"
        for key, reason in lost.items():
            if not ledger.has(key):
                ledger.add_failure(key, reason, started=time.time())
        if found:
            yield max(found, key=lambda one: one.step)
        elif is_finished:
            return
        else:
            time.sleep(SECONDS_BETWEEN_LOOKS)


def _weights_of(checkpoint: Checkpoint, root: Path, scoring: Scoring) -> ChosenWeights:
    kind: Literal["ema", "master"] = "ema" if scoring.config.weights == "ema" else "master"
    return ChosenWeights((directory_of(root, checkpoint.step),), kind)


def _list_damaged(root: Path) -> Iterator[CheckpointKey]:
    """Yield the checkpoints of which no more can be read than the step in their name."""
    for path in list_checkpoints(root):
        try:
            read_known_record(path)
        except ValidationError:
            yield CheckpointKey(step=step_of(path), num_tokens=0, checksum="damaged")
        except OSError:  # being deleted, or of no fault of its own: it is looked at again
            continue


def _score_checkpoint(
    checkpoint: Checkpoint, root: Path, scoring: Scoring, ledger: Ledger, out: Path, executor: Executor
) -> None:
    """Score a checkpoint, which stays meanwhile, and write it down; one that cannot be scored is written down, too."""
    weights, started = _weights_of(checkpoint, root, scoring), time.time()
    (directory,) = weights.checkpoints
    try:
        with hold(directory):
            answered = scoring.answer(weights, _answers_of(out.parent, weights, [checkpoint.checksum]), executor)
    except UserError as error:
        if type(error) is not UserError:  # a signal, no room, machines that fail: no fault of the checkpoint's
            raise
        ledger.add_failure(checkpoint, str(error), started=started)
    except FileNotFoundError:
        if (directory / CHECKPOINT_FILE).exists():
            raise
        ledger.add_failure(checkpoint, "it was deleted before it was read", started=started)
    else:
        scoring.write_answers(out / BY_CHECKPOINT / directory.name / SAMPLES, answered)
        bits = scoring.bits(answered, _language_of)
        ledger.add(checkpoint, bits, scoring.task_scores(answered), started=started)


def answers_of(store: Path, weights: ChosenWeights) -> Path:
    """Return where a store keeps what a training's weights answered: after a roll-back a step may have other ones."""
    return _answers_of(store, weights, [read_known_record(path).checksum for path in weights.checkpoints])


def _answers_of(store: Path, weights: ChosenWeights, checksums: Sequence[str]) -> Path:
    """Return the same of weights whose records have these checksums."""
    training = weights.checkpoints[0].resolve().parent.parent.name
    name = f"step-{weights.step:08d}-{checksums[0][:12]}"
    if len(checksums) > 1:
        name += f"-mean-{hashlib.sha256('-'.join(checksums).encode()).hexdigest()[:12]}"
    return store / ANSWERS / f"{training}-{weights.kind}-{name}-{asked_by()}"


def asked_by() -> str:
    """Return what the answers of one model hang on besides: versions of Concord's asking, and of lm-eval."""
    with suppress(PackageNotFoundError):  # which functions and programs do without
        return f"v{ANSWERS_VERSION}-lm-eval-{version('lm_eval')}"
    return f"v{ANSWERS_VERSION}"


def _scores(
    scoring: Scoring,
    answered: Answered,
    weights: ChosenWeights,
    ledger: Ledger,
    baselines: Mapping[str, Answered | str],
) -> Scores:
    domains = scoring.config.domains

    def domains_of(document: Document) -> list[str]:
        return [name for name, sources in domains.items() if document.source in sources]

    return Scores(
        step=weights.step,
        languages=scoring.languages,
        precision=answered.precision,
        bits_per_byte=scoring.bits(answered, _language_of),
        bits_per_byte_by_stream=scoring.bits(answered, lambda document: [f"{document.source}/{document.language}"]),
        bits_per_byte_by_domain=scoring.bits(answered, domains_of),
        tasks=scoring.task_scores(answered),
        lm_eval_version=next(filter(None, (found.get("lm_eval_version") for _, found in answered.tasks)), ""),
        bits_per_sentence=bits_of_sentences(answered.sentences),
        curve=ledger.curve(),
        baselines={name: _baseline_scores(scoring, others) for name, others in baselines.items()},
    )


def _baseline_scores(scoring: Scoring, answered: Answered | str) -> BaselineScores:
    if isinstance(answered, str):
        return BaselineScores(precision="", bits_per_byte={}, tasks=(), failure=answered)
    return BaselineScores(
        precision=answered.precision,
        bits_per_byte=scoring.bits(answered, _language_of),
        tasks=scoring.task_scores(answered, is_ours=False),
        bits_per_sentence=bits_of_sentences(answered.sentences),
    )


def _language_of(document: Document) -> list[str]:
    return [document.language]
