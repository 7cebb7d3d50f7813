"""An untrained network scores chance in every task that ships, over seeds and languages."""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from math import isfinite, sqrt

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
from configs.evaluation import EvaluateConfig
from configs.tasks import SUITES
from eval.likelihood import Scorer
from eval.tasks.answers import Answers
from eval.tasks.harness import answer_task
from eval.tasks.suites import find_tasks
from eval.tasks.task import Task
from tests.eval.tasks.fixtures import write_data
from tests.eval.tasks.made_up import made_tokenizer, untrained

ERRORS = 3.29
"""Errors that a score is from chance in one of a thousand sound tasks."""

NUM_SEEDS, NUM_QUESTIONS = 3, 70
"""Networks, and questions for each of them, which no other is asked: so all answers are independent."""

TOKENIZER = made_tokenizer()


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Scorer, str]]:
    """Return untrained networks, each with data of its own."""
    found = []
    for seed in range(NUM_SEEDS):
        directory = tmp_path_factory.mktemp(f"data-{seed}")
        write_data(directory, seed=seed, num_questions=NUM_QUESTIONS)
        found.append((untrained(seed, len(TOKENIZER)), str(directory)))
    return found


def errors_from_chance(task: Task, found: Sequence[Answers]) -> float:
    """Return how many errors the score of several networks is from that of a guess."""
    answers = [answer for one in found for answer in one.answers]
    values = [answer.value for answer in answers]
    if not all(isfinite(value) for value in values):  # a score of the whole: a correlation, whose chance is 0
        assert task.metric == "mcc" and task.chance == 0
        return sum(one.value or 0.0 for one in found) / len(found) * sqrt(len(answers))
    chances = [1 / answer.num_choices if task.chance is None else task.chance for answer in answers]
    return (sum(values) - sum(chances)) / sqrt(sum(chance * (1 - chance) for chance in chances))


def test_an_untrained_network_scores_chance(asked: list[tuple[Scorer, str]]) -> None:
    tasks, found = {}, defaultdict(list)
    for scorer, data in asked:
        for task in find_tasks(EvaluateConfig(tasks=(), suites=SUITES, data=data)):
            if task.kind == "multiple_choice" or task.chance is not None:
                tasks[task.name] = task
                found[task.name].append(answer_task(task, None, scorer, TOKENIZER, limit=None))
    errors = {name: errors_from_chance(tasks[name], own) for name, own in found.items()}
    assert errors and {name: round(value, 2) for name, value in errors.items() if abs(value) > ERRORS} == {}


def test_a_task_that_is_not_sound_is_found_out(asked: list[tuple[Scorer, str]]) -> None:
    """Sums of likelihoods prefer short answers; and of BBQ's answers lm-eval has twelve, of which ten say one thing."""
    found = defaultdict(list)
    for scorer, data in asked:
        tasks = {task.name: task for task in find_tasks(EvaluateConfig(tasks=(), suites=("safety",), data=data))}
        tasks |= {"bbq": replace(tasks["bbq"], overrides=())}
        for task in (replace(tasks["truthfulqa-multi_mc1_es"], metric="acc"), tasks["bbq"]):
            found[task.name].append(answer_task(task, None, scorer, TOKENIZER, limit=None))
    assert len(found) == 2
    for name, own in found.items():
        assert abs(errors_from_chance(tasks[name], own)) > ERRORS, name
