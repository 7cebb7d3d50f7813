"""What is wrong with the questions of a task that lm-eval asks, in sentences. Else they would be scored as wrong."""

import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from configs.base import UserError

_TEMPLATES = ("doc_to_text", "doc_to_choice", "doc_to_target", "target_delimiter", "description")
_SHOWN = 12
"""Names of fields that a sentence tells, at most."""


def check_data(config: Mapping[str, Any]) -> None:
    """Raise UserError if lm-eval's task does not say where its data are."""
    if not any(config.get(key) for key in ("dataset_path", "custom_dataset", "class")):
        raise UserError("it has no dataset_path; give the dataset, or `json` with the files in dataset_kwargs")


def check_metric(config: Mapping[str, Any], metric: str, known: Collection[str]) -> None:
    """Raise UserError if neither the task nor lm-eval has a metric; `known` are lm-eval's."""
    listed = [one for one in config.get("metric_list") or [] if isinstance(one, Mapping)]
    names = [one.get("metric") for one in listed]
    is_computed = callable(config.get("process_results")) or config.get("class")
    unknown = [one.get("metric") for one in listed if "aggregation" not in one and one.get("metric") not in known]
    if metric and not is_computed and metric not in names and metric not in known:
        unknown.insert(0, metric)
    if texts := [name for name in unknown if isinstance(name, str)]:  # others are functions
        close = get_close_matches(texts[0], known, n=1)
        meant = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(sorted(known))}"
        raise UserError(f"lm-eval has no metric {texts[0]!r}; {meant}")


def explain_load(config: Mapping[str, Any], error: BaseException) -> UserError | None:
    """Return the sentence for a task whose first question cannot be asked, with the key of it; None for other errors.

    That is a template that cannot be filled, and a right answer that is none of the choices.
    """
    kind = type(error).__name__
    if isinstance(error, IndexError) and config.get("doc_to_choice"):
        return UserError(
            "the right answer of the first question is none of its choices, or one of them is empty; doc_to_target "
            "gives the number of a choice, from 0 on, or its text"
        )
    if kind not in ("UndefinedError", "TemplateSyntaxError"):
        return None
    found = re.search(r"'([^']+)' is undefined|attribute '([^']+)'", str(error))
    field, text = (found[1] or found[2]) if found else "", getattr(error, "source", None)
    templates = {key: config[key] for key in _TEMPLATES if isinstance(config.get(key), str)}
    keys = [key for key, own in templates.items() if own == text or _names(own, field)]
    where = f"{keys[0]} {templates[keys[0]]!r}" if keys else "a template of the task"
    todo = "name a field that the questions have" if kind == "UndefinedError" else "correct it"
    return UserError(f"{where}: {str(error).rstrip('.')}; {todo}")


def _names(template: str, field: str) -> bool:
    return bool(field) and re.search(rf"\b{re.escape(field)}\b", template) is not None


def check_clusters(field: str | None, documents: Sequence[Mapping[str, Any]]) -> None:
    """Raise UserError if a question does not have the field that tells what it shares with others."""
    lacking = [document for document in documents if field is not None and field not in document]
    if lacking:
        known = ", ".join([*map(str, lacking[0])][:_SHOWN])
        raise UserError(
            f"cluster: {len(lacking):,} of {len(documents):,} questions have no field {field!r}; they have {known}"
        )


def check_gold(loaded: Any, samples: Sequence[Mapping[str, Any]]) -> None:
    """Raise UserError if right answers are none of the choices: lm-eval would count them as answered wrong."""
    config = loaded.config
    is_choice = config.output_type == "multiple_choice"
    is_written_choice = config.output_type == "generate_until" and config.doc_to_choice is not None
    if callable(config.process_results) or not (is_choice or is_written_choice):
        return
    lost: list[tuple[Any, int]] = []
    for sample in samples:
        document = sample["doc"]
        choices = list(loaded.doc_to_choice(document))
        gold = loaded.doc_to_text(document) if loaded.multiple_input else sample["target"]
        if not all(_is_choice(one, choices) for one in (gold if isinstance(gold, list) else [gold])):
            lost.append((gold, len(choices)))
    if lost:
        gold, number = lost[0]
        raise UserError(
            f"the right answer of {len(lost):,} of {len(samples):,} questions is none of their choices, such as "
            f"{str(gold)[:60]!r} of {number}; doc_to_target gives the number of a choice, from 0 on, or its text"
        )


def _is_choice(gold: Any, choices: Sequence[Any]) -> bool:
    return gold in choices if isinstance(gold, str) else 0 <= int(gold) < len(choices)
