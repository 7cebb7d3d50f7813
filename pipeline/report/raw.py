"""The numbers beside the page, for other programs: every score, those of checkpoints, and the whole manifest."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from cluster.host.files import write_text
from cluster.host.redact import redact
from configs.data.languages import usual_script
from eval.manifests import BitsPerByte, BitsPerSentence, Scores, TaskScore
from pipeline.report.recipe import without_secrets

SCORES_CSV, CHECKPOINTS_CSV, SCORES_JSON = "scores.csv", "checkpoints.csv", "scores.json"

SCORE_COLUMNS = (
    *("measure", "task", "suite", "language", "script", "model", "metric", "value", "low", "high", "chance"),
    *("num_questions", "num_truncated", "digest", "failure"),
)
"""Measure is `bits_per_byte`, `bits_per_sentence` or the task without its language; model `this`, `untrained` or the
name of a baseline; one that could not be scored has one row, with the failure alone. num_questions counts documents or
sentences where there are no questions, num_truncated requests that were longer than the context."""

CHECKPOINT_COLUMNS = ("step", "num_tokens", "measure", "value", "num_languages", "failure")
"""Measure is `bits_per_byte`, the mean over languages, `bits_per_byte/LANGUAGE`, or a task, and num_languages how many
languages a mean is over. A task that failed has a row with its own name, language and all, and the failure. A
checkpoint that could not be scored has one row, with the failure alone."""

Row = Mapping[str, object]


def write_raw(scores: Scores, out: Path) -> list[tuple[str, str]]:
    """Write the files, without secrets, and return their names, each with what it holds."""
    _write_csv(out / SCORES_CSV, SCORE_COLUMNS, _score_rows(scores))
    written = [(SCORES_CSV, "every score, a row for each measure, language and model")]
    if scores.curve:
        _write_csv(out / CHECKPOINTS_CSV, CHECKPOINT_COLUMNS, _checkpoint_rows(scores))
        written.append((CHECKPOINTS_CSV, "what each checkpoint scored"))
    whole = without_secrets(scores.model_dump(mode="json"))
    write_text(out / SCORES_JSON, json.dumps(whole, ensure_ascii=False, indent=1) + "\n")
    return [*written, (SCORES_JSON, "all of it, as the step wrote it")]


def _write_csv(path: Path, columns: Iterable[str], rows: Iterable[Row]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: redact(value) if isinstance(value, str) else value for key, value in row.items()})
    write_text(path, text.getvalue())


def _score_rows(scores: Scores) -> Iterator[Row]:
    yield from _bits_rows("this", scores.bits_per_byte)
    yield from _bits_rows("this", scores.bits_per_sentence)
    yield from _task_rows("this", scores.tasks)
    yield from _task_rows("untrained", scores.untrained)
    for name, other in scores.baselines.items():
        yield from _bits_rows(name, other.bits_per_byte)
        yield from _bits_rows(name, other.bits_per_sentence)
        yield from _task_rows(name, other.tasks)
        if other.failure:
            yield {"model": name, "failure": other.failure}


def _bits_rows(model: str, bits: Mapping[str, BitsPerByte] | Mapping[str, BitsPerSentence]) -> Iterator[Row]:
    for language, one in bits.items():
        if isinstance(one, BitsPerByte):
            measure, value, number = "bits_per_byte", one.bits_per_byte, one.num_documents
        else:
            measure, value, number = "bits_per_sentence", one.bits_per_sentence, one.num_sentences
        yield {
            "measure": measure,
            "language": language,
            "script": usual_script(language),
            "model": model,
            "metric": measure,
            "value": value,
            "low": one.low,
            "high": one.high,
            "num_questions": number,
        }


def _task_rows(model: str, tasks: Iterable[TaskScore]) -> Iterator[Row]:
    same = ("task", "suite", "language", "metric", "value", "low", "high", "chance", "num_questions", "num_truncated")
    for one in tasks:
        yield {
            "measure": one.family,
            "script": usual_script(one.language),
            "model": model,
            "digest": one.digest,
            "failure": one.failure,
            **{key: getattr(one, key) for key in same},
        }


def _checkpoint_rows(scores: Scores) -> Iterator[Row]:
    for one in scores.curve:
        known = {"step": one.step, "num_tokens": one.num_tokens, "failure": one.failure}
        bits = one.bits_per_byte
        measured = {"bits_per_byte": sum(bits.values()) / len(bits)} if bits else {}
        measured |= {f"bits_per_byte/{language}": value for language, value in bits.items()} | one.tasks
        languages = {"bits_per_byte": len(bits)} | one.num_languages
        if not measured and not one.failed:
            yield known
        for measure, value in measured.items():
            yield {**known, "measure": measure, "value": value, "num_languages": languages.get(measure)}
        for task, failure in one.failed.items():
            yield {**known, "measure": task, "failure": failure}
