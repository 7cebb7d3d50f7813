"""The summary of scores, and the means of tasks over languages."""

from typing import Any

import pytest

from eval.manifests import BitsPerByte, Scores, TaskScore, mean_scores


def task(name: str, language: str = "und", **given: Any) -> TaskScore:
    known = {"suite": "", "kind": "multiple_choice", "formulation": "cloze", "metric": "acc", "version": "1"}
    numbers = {"num_questions": 8, "num_truncated": 0, "value": 0.375, "low": 0.1, "high": 0.7, "chance": 0.25}
    rest = {"detectable": 0.3, "digest": "", "licence": "", "source": "", "is_decontaminated": True, "failure": ""}
    family = name.removesuffix(f"_{language}")
    return TaskScore.model_validate(
        {"task": name, "family": family, "language": language} | known | numbers | rest | given
    )


def scores(*tasks: TaskScore, **bits: float) -> Scores:
    by_language = {
        name: BitsPerByte(num_documents=1, num_bytes=9, bits_per_byte=value, low=None, high=None)
        for name, value in bits.items()
    }
    return Scores(
        step=1,
        precision="float32",
        bits_per_byte=by_language,
        bits_per_byte_by_stream={},
        bits_per_byte_by_domain={},
        tasks=tasks,
        lm_eval_version="1",
    )


def test_every_language_counts_the_same_in_the_mean() -> None:
    assert scores(en=1.0, sw=2.0, lo=6.0).mean_bits_per_byte == pytest.approx(3)
    tasks = (task("xcopa_sw", "sw", value=0.5, num_questions=900), task("xcopa_th", "th", value=0.7))
    assert mean_scores(tasks) == {"xcopa": (pytest.approx(0.6), 0.25, 2)}


def test_summary_names_the_best_and_the_worst_language_the_tasks_and_what_failed() -> None:
    failed = task("piqa", value=None, failure="no data")
    summary = scores(task("sciq"), failed, en=1.0, sw=2.0, lo=6.0).summary()
    assert "best en 1.00, worst lo 6.00" in summary
    assert "sciq 37.5%, chance 25%" in summary and "1 tasks failed: piqa" in summary
    assert "\n" not in summary


def test_rows_from_before_there_were_families_are_read() -> None:
    old = task("arc_easy").model_dump()
    del old["family"]
    assert TaskScore.model_validate(old).family == "arc_easy"


def test_scores_without_held_out_documents_have_a_summary_all_the_same() -> None:
    empty = scores(task("sciq"))
    assert empty.summary() == "no held-out document was scored; sciq 37.5%, chance 25%"
    assert empty.mean_bits_per_byte != empty.mean_bits_per_byte  # NaN
