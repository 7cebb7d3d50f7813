"""Tasks that lm-eval does not ask: of Python functions, and of programs with an environment of their own."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configs.base import ConfigError, UserError
from configs.evaluation import EvaluateConfig
from configs.load import dump_yaml
from eval.tasks.answers import read_answers
from eval.tasks.asked import answer_python_task
from eval.tasks.programs import answer_by_program
from eval.tasks.suites import find_tasks
from eval.tasks.task import Task


def task(**given: Any) -> Task:
    return Task("mine", "mine", "mine", None, "sw", "multiple_choice", adapter="command", **given)


def answered(command: list[str], *, reads: str = "answers", limit: int | None = None, **given: Any) -> Any:
    def write(directory: Path) -> Path:
        directory.mkdir()
        (directory / "config.json").write_text("{}")
        return directory

    return answer_by_program(task(command=tuple(command), reads=reads, **given), write, limit=limit)


def program(code: str) -> list[str]:
    head = "import json, pathlib, sys\nmodel, out = map(pathlib.Path, sys.argv[1:])"
    return [sys.executable, "-c", f"{head}\n{code}", "{model}", "{out}"]


def lines(name: str, rows: list[Any]) -> str:
    text = "\n".join(json.dumps(row) for row in rows)
    return f"path = out / {name!r}; path.parent.mkdir(parents=True, exist_ok=True); path.write_text({text!r})"


def test_a_program_is_given_the_model_and_its_answers_are_read() -> None:
    rows = [{"question": f"q{n}", "value": n % 2, "num_choices": 4, "cluster": f"p{n // 2}"} for n in range(4)]
    found = answered(program(f"assert (model / 'config.json').is_file()\n{lines('answers.jsonl', rows)}"))
    assert [one.value for one in found.answers] == [0, 1, 0, 1]
    assert [one.document for one in found.answers] == ["q0", "q1", "q2", "q3"]
    assert found.answers[0].cluster == found.answers[1].cluster != found.answers[2].cluster
    again = answered(program(lines("answers.jsonl", rows)), limit=2)
    assert [one.question for one in again.answers] == [one.question for one in found.answers[:2]]


def test_a_report_of_garak_is_read_by_output_and_clustered_by_prompt() -> None:
    def attempt(seq: int, scores: list[float | None], **given: Any) -> dict[str, Any]:
        known = {"entry_type": "attempt", "uuid": f"u{seq}", "seq": seq, "probe_classname": "dan.Dan", "status": 2}
        outputs = [{"text": "said"} for _ in scores]
        return known | {"outputs": outputs, "detector_results": {"dan.DAN": scores}} | given

    rows = [
        {"entry_type": "init", "garak_version": "0.17.1"},
        attempt(0, [0.0, 1.0]),
        attempt(0, [], detector_results={}, status=1),
        attempt(1, [0.4, None]),
        attempt(2, [0.0], outputs=[None]),
        attempt(3, [0.0], detector_results={"any.Other": [1.0]}, outputs=[{"text": ""}]),
        {"entry_type": "eval", "probe": "dan.Dan", "passed": 2, "total_evaluated": 3},
        {"entry_type": "completion", "run": "1"},
    ]
    found = answered(program(lines("garak.report.jsonl", rows)), reads="garak", metric="dan.DAN")
    assert [one.value for one in found.answers] == [1, 0, 1]
    assert found.answers[0].cluster == found.answers[1].cluster != found.answers[2].cluster
    assert len(answered(program(lines("garak.report.jsonl", rows)), reads="garak").answers) == 4
    with pytest.raises(
        UserError, match=r"no answer of 'mine', the task's metric; it has some of: any\.Other, dan\.DAN"
    ):
        answered(program(lines("garak.report.jsonl", rows)), reads="garak", metric="mine")
    for damaged in ([], rows[:-1]):  # garak's exit code is 0, too, for a probe that is not there
        with pytest.raises(UserError, match="garak wrote no whole report"):
            answered(program(lines("garak.report.jsonl", damaged)), reads="garak")


def test_a_log_of_inspect_is_read_and_one_that_says_error_is_a_failure() -> None:
    samples = [
        {"id": n, "epoch": 1, "scores": {"match": {"value": value}}} for n, value in enumerate(["C", "I", "P", 0.25])
    ]
    counts = {"total_samples": 4, "completed_samples": 4}
    log = {"status": "success", "eval": {"task": "mine"}, "samples": samples, "results": counts}
    found = answered(program(lines("logs/a.json", [log])), reads="inspect")
    assert [one.value for one in found.answers] == [1, 0, 0.5, 0.25]
    with pytest.raises(UserError, match="inspect's log says 'error'"):
        answered(
            program(lines("logs/a.json", [log | {"status": "error", "error": {"message": "no"}}])), reads="inspect"
        )
    partial = log | {"results": counts | {"completed_samples": 3}}
    with pytest.raises(UserError, match="inspect scored 3 of 4 samples"):
        answered(program(lines("logs/a.json", [partial])), reads="inspect")
    several = log | {"samples": [{"id": 1, "scores": {"multi": {"value": {"a": 1}}}}]}
    with pytest.raises(UserError, match="is no finite number"):
        answered(program(lines("logs/a.json", [several])), reads="inspect")


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["/nowhere/garak"], "`/nowhere/garak` cannot be run on this machine"),
        (program("sys.exit('no such probe')"), "ended with code 1: no such probe"),
        (program("pass"), "wrote no answers.jsonl"),
        (program("(out / 'answers.jsonl').write_text('')"), "there is no answer"),
        (program("(out / 'answers.jsonl').write_text('{')"), "answers.jsonl:1 is no JSON"),
        (program(lines("answers.jsonl", [{"question": "a"}])), "has no `question` and `value`"),
        (program(lines("answers.jsonl", [{"question": "a", "value": "yes"}])), "'yes' is no finite number"),
        (program(lines("answers.jsonl", [{"question": "a", "value": 1}] * 2)), "answer 2: the question is that of"),
    ],
)
def test_what_a_program_does_wrong_is_one_sentence(command: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told) as raised:
        answered(command)
    assert "\n" not in str(raised.value)


def test_a_program_that_does_not_end_is_ended() -> None:
    with pytest.raises(UserError, match=r"did not end within 0\.36 s"):
        answered(program("import time; time.sleep(60)"), timeout_hours=0.0001)


def test_values_that_are_no_numbers_of_python_are_taken() -> None:
    import numpy as np

    found = read_answers(task(), [{"question": "a", "value": np.float32(0.5)}], where="here", limit=None)
    assert (found.answers[0].value, found.kind, found.higher_is_better) == (0.5, "multiple_choice", True)


def read(rows: list[Any], **given: Any) -> Any:
    return read_answers(task(**given), rows, where="here", limit=None).answers


def test_only_none_and_an_empty_text_are_no_passage() -> None:
    found = read([{"question": f"q{n}", "value": 1, "cluster": n} for n in (0, 1, None, "", False, 0.0)])
    assert [bool(one.cluster) for one in found] == [True, True, False, False, True, True]


def test_numbers_of_choices_are_integers_of_any_kind() -> None:
    import numpy as np

    found = read([{"question": "a", "value": 1, "num_choices": np.int64(2)}, {"question": "b", "value": 1}])
    assert [one.num_choices for one in found] == [2, 0]
    for given in (2.5, "2", -1):
        with pytest.raises(UserError, match="is no number of choices"):
            read([{"question": "a", "value": 1, "num_choices": given}])


@pytest.mark.parametrize(
    ("row", "given", "told"),
    [
        ({"value": 2.5, "num_choices": 2}, {}, "value 2.5 is not between 0 and 1"),
        ({"value": -3}, {"chance": 0.5}, "value -3 is not between 0 and 1"),
        ({"value": 10**400}, {}, "is no finite number"),
    ],
)
def test_values_that_no_score_can_be_are_refused(row: dict[str, Any], given: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told) as raised:
        read([{"question": "a"} | row], **given)
    assert len(str(raised.value)) < 300
    assert [one.value for one in read([{"question": "a", "value": 2.5}])] == [2.5]


def test_texts_that_are_no_unicode_can_be_written() -> None:
    (one,) = read([{"question": "\ud800 a", "value": 1}])
    assert one.document.encode() == b"\\ud800 a"


class Model:
    """In the place of a model, which the functions here do not ask."""


@pytest.mark.parametrize("body", ["return {'question': 'a', 'value': 1}", "return 'abc'", "return None"])
def test_a_function_that_returns_no_list_is_told_what_it_returned(tmp_path: Path, body: str) -> None:
    (tmp_path / "mine.py").write_text(f"def ask(model):\n    {body}\n")
    made = replace(task(), adapter="python", file=tmp_path / "mine.py", function="ask")
    with pytest.raises(UserError, match=r"ask returned (one dict|one str|NoneType); yield a dict for each question"):
        answer_python_task(made, Model(), limit=None)  # type: ignore[arg-type]


def test_what_a_function_prints_is_no_output_of_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(
        "import os\nprint('imported')\n"
        "def ask(model):\n"
        "    print('asked')\n"
        "    os.system('echo started')\n"
        "    yield {'question': 'a', 'value': 1}\n"
    )
    made = replace(task(), adapter="python", file=tmp_path / "mine.py", function="ask")
    print("before")
    answer_python_task(made, Model(), limit=None)  # type: ignore[arg-type]
    print("after")
    said = capfd.readouterr()
    assert said.out == "before\nafter\n" and {"imported", "asked", "started"} <= set(said.err.split())


def suite(path: Path, **entry: Any) -> str:
    known = {"task": "mine", "kind": "multiple_choice", "licence": "CC0-1.0", "source": "made here"}
    path.write_text(dump_yaml({"description": "Mine.", "tasks": [known | entry]}))
    return str(path)


def test_a_suite_names_programs_and_functions(tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text("def ask(model):\n    yield {'question': 'a', 'value': 1}\n")
    by_function = suite(tmp_path / "a.yaml", adapter="python", function=f"{script}:ask", chance=0.5, language="sw")
    (found,) = find_tasks(EvaluateConfig(tasks=(), suites=(by_function,)), ["sw"])
    assert (found.name, found.file, found.function, found.chance) == ("mine", script, "ask", 0.5)
    assert find_tasks(EvaluateConfig(tasks=(), suites=(by_function,), languages=("th",), data=str(tmp_path))) == []
    command = ["garak", "--target_name", "{model}"]
    by_program = suite(tmp_path / "b.yaml", adapter="command", command=command, reads="garak", higher_is_better=False)
    (found,) = find_tasks(EvaluateConfig(tasks=(), suites=(by_program,), data=str(tmp_path)), ["sw"])
    assert (found.command, found.reads, found.higher_is_better) == (tuple(command), "garak", False)
    (found,) = find_tasks(EvaluateConfig(tasks=(f"{script}:ask",)))
    assert (found.name, found.adapter, found.is_local) == ("ask", "python", True)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"adapter": "python"}, "needs the key function"),
        ({"adapter": "command", "folder": "arc"}, "needs the key command"),
        ({}, "needs the key folder"),
        ({"folder": "arc", "command": ["garak"]}, "command is for adapter command"),
        ({"adapter": "python", "function": "nofile"}, "function"),
    ],
)
def test_keys_of_another_adapter_are_refused(tmp_path: Path, entry: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        find_tasks(EvaluateConfig(tasks=(), suites=(suite(tmp_path / "a.yaml", **entry),)))


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.py is not there"):
        find_tasks(EvaluateConfig(tasks=(f"{tmp_path}/nowhere.py:ask",)))
    made = replace(task(), adapter="python")
    assert made.is_local


def test_a_function_that_its_file_does_not_have_is_told_before_anything_is_made(tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text("from os import path as given\nmade = lambda model: []\ndef ask(model):\n    yield\n")
    for name in ("given", "made", "ask"):
        assert find_tasks(EvaluateConfig(tasks=(f"{script}:{name}",)))[0].function == name
    with pytest.raises(UserError, match=r"mine\.py has no function 'aks'; did you mean 'ask'\?"):
        find_tasks(EvaluateConfig(tasks=(f"{script}:aks",)))
    with pytest.raises(UserError, match=r"has no function 'aks'"):
        by_function = suite(tmp_path / "a.yaml", adapter="python", function=f"{script}:aks")
        find_tasks(EvaluateConfig(tasks=(), suites=(by_function,)))
    script.write_text("from os import *\n")  # what that gives is not read
    assert find_tasks(EvaluateConfig(tasks=(f"{script}:aks",)))
    script.write_text("def ask(:\n")
    with pytest.raises(UserError, match=r"mine\.py is no Python file \(invalid syntax.*\); correct it"):
        find_tasks(EvaluateConfig(tasks=(f"{script}:ask",)))
