"""Every task that ships is answered, from files as the suites name them, with the columns of the real data."""

import os
from dataclasses import replace
from math import isfinite
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
from configs.evaluation import EvaluateConfig
from configs.tasks import SUITES
from eval.likelihood import Scorer
from eval.tasks.harness import answer_task
from eval.tasks.suites import find_tasks, read_suite
from tests.eval.tasks.fixtures import write_data
from tests.eval.tasks.made_up import made_tokenizer, untrained

TOKENIZER = made_tokenizer()
LIMIT = {"generation": 2, "multiple_choice": 6}


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return untrained(0, len(TOKENIZER))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("data")
    write_data(directory, seed=0, num_questions=21)  # MMLU-Pro shows five of each of three subjects
    return directory


@pytest.mark.parametrize("suite", SUITES)
def test_every_task_of_a_shipped_suite_is_answered(suite: str, data: Path, scorer: Scorer) -> None:
    found = find_tasks(EvaluateConfig(tasks=(), suites=(suite,), data=str(data)))
    answered = {}
    for task in found:
        assert task.kind is not None
        limit = LIMIT[task.kind]
        answers = answer_task(task, None, scorer, TOKENIZER, limit=limit)
        assert (len(answers.answers), answers.kind) == (limit, task.kind), task.name
        assert answers.metric.partition(",")[0] == (task.metric or "").partition(",")[0], task.name
        assert answers.value is not None and isfinite(answers.value), task.name
        if task.kind == "multiple_choice":
            assert answers.num_truncated == 0 and all(one.num_choices > 1 for one in answers.answers), task.name
        answered[task.lm_eval_name] = answers
    for entry in read_suite(suite).tasks:  # none was left out for want of a file
        assert any(name.startswith(entry.task.partition("{")[0]) for name in answered), entry.task


def test_a_score_of_stereotypes_is_worse_the_higher(data: Path, scorer: Scorer) -> None:
    found = find_tasks(EvaluateConfig(tasks=(), suites=("safety",), data=str(data)))
    directions = {
        task.name: answer_task(task, None, scorer, TOKENIZER, limit=2).higher_is_better
        for task in found
        if task.name in ("crows_pairs_french", "bbq")
    }
    assert directions == {"crows_pairs_french": False, "bbq": True}


def test_questions_are_the_same_at_each_load_also_where_lm_eval_shuffles_their_choices(
    data: Path, scorer: Scorer
) -> None:
    found = find_tasks(EvaluateConfig(tasks=(), suites=("science",), data=str(data)))
    (gpqa,) = [task for task in found if task.name.startswith("gpqa")]
    first, second = (answer_task(gpqa, None, scorer, TOKENIZER, limit=None) for _ in range(2))
    assert first.digest == second.digest
    assert [one.question for one in first.answers] == [one.question for one in second.answers]


def test_prompts_that_are_cut_off_are_counted(data: Path, scorer: Scorer) -> None:
    found = find_tasks(EvaluateConfig(tasks=(), suites=("science",), data=str(data)))
    (gsm8k,) = [task for task in found if task.name == "gsm8k"]
    room = {"until": ["Question:"], "do_sample": False}
    cut = replace(gsm8k, overrides=(("generation_kwargs", room | {"max_gen_toks": scorer.context - 2}),))
    assert answer_task(gsm8k, None, scorer, TOKENIZER, limit=1).num_truncated == 0
    assert answer_task(cut, None, scorer, TOKENIZER, limit=1).num_truncated == 1
