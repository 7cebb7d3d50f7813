"""Tasks are found by their names, in files and in suites, and what is not there is told."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from configs.base import UserError
from configs.data.languages import normalize_language
from configs.evaluation import EvaluateConfig
from configs.tasks import SUITES
from eval.tasks.observed import check_tasks, observe_tasks
from eval.tasks.suites import find_tasks, names_in, read_suite
from eval.tasks.task import Task


def config(**given: Any) -> EvaluateConfig:
    return EvaluateConfig.model_validate({"tasks": []} | given)


def named(tasks: list[Task]) -> dict[str, Task]:
    return {task.name: task for task in tasks}


def test_tasks_are_found_by_lm_evals_names() -> None:
    found = find_tasks(config(tasks=["continuation", "hellaswag", "belebele_swh_Latn", "sciq"]))
    assert [task.name for task in found] == ["continuation", "hellaswag", "belebele_swh_Latn", "sciq"]
    assert [task.language for task in found] == ["und", "und", "sw", "und"]
    assert found[1].file is not None and found[1].file.name == "hellaswag.yaml"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("hellaswagg", "has no task 'hellaswagg'; did you mean 'hellaswag'?"),
        ("no_such_thing", "has no task 'no_such_thing'; `lm-eval ls tasks` lists them"),
        ("missing.yaml", "missing.yaml is not there"),
    ],
)
def test_a_task_that_is_not_there_is_one_line(name: str, says: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=says):
        find_tasks(config(tasks=[name]))


def test_a_file_of_ones_own_is_a_task_and_its_bytes_are_hashed(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("task: mine_swh_Latn\ndataset_path: json\n")
    given = config(tasks=["mine.yaml"])
    (task,) = find_tasks(given)
    assert (task.name, task.language, task.file) == ("mine_swh_Latn", "sw", tmp_path / "mine.yaml")
    seen = observe_tasks(given, lambda path: path.read_text())
    Path("mine.yaml").write_text("task: mine_swh_Latn\ndataset_path: csv\n")
    assert seen != observe_tasks(given, lambda path: path.read_text())
    Path("mine.yaml").write_text("dataset_path: json\n")
    with pytest.raises(UserError, match="no line `task: NAME`"):
        find_tasks(given)
    assert observe_tasks(config(tasks=["continuation"]), lambda path: "") is None


@pytest.mark.parametrize("name", SUITES)
def test_every_task_of_a_shipped_suite_is_in_the_installed_lm_eval(name: str) -> None:
    suite = read_suite(name)
    found = find_tasks(config(suites=[name]))
    assert len({task.name for task in found}) == len(found) >= len(suite.tasks)
    for task in found:
        assert task.suite == name and task.licence and task.source and task.kind is not None
        assert (task.digest, task.revision) == (None, None)  # none is told that was not read
        if task.language != "und":
            assert normalize_language(task.language) == task.language
    for entry in suite.tasks:
        assert (entry.kind == "multiple_choice") == (entry.formulation != "none")
        assert entry.files, f"{entry.task} has no local form"


def test_a_suite_is_taken_in_the_languages_of_the_corpora() -> None:
    early = {task.language for task in find_tasks(config(suites=["early"]), ["sw", "zh", "x-made"])}
    assert early == {"sw", "zh", "zh-Hant"}
    assert {task.language for task in find_tasks(config(suites=["early"], languages=["yor_Latn"]), ["sw"])} == {"yo"}
    with pytest.raises(UserError, match="suite 'early' has no task in x-made"):
        find_tasks(config(suites=["early"]), ["x-made"])


def test_data_on_disk_take_the_place_of_the_hub_and_are_hashed(tmp_path: Path) -> None:
    suite = tmp_path / "own.yaml"
    entry = {
        "task": "xcopa_{alpha2}",
        "folder": "xcopa",
        "kind": "multiple_choice",
        "formulation": "cloze",
        "licence": "CC-BY-4.0",
        "source": "cambridgeltl/xcopa",
        "files": {"test": "xcopa/test.{alpha2}"},
    }
    suite.write_text(json.dumps({"description": "One.", "tasks": [entry]}))
    given = config(suites=[str(suite)], data=str(tmp_path / "data"))
    with pytest.raises(
        UserError, match=r"xcopa/test\.sw is not there, with one of .*, which task .xcopa_sw. reads \(cambridgeltl"
    ):
        find_tasks(given, ["sw"])
    for code in ("sw", "th"):
        path = tmp_path / f"data/xcopa/test.{code}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    (task,) = find_tasks(given, ["sw"])
    assert dict(task.files) == {"test": tmp_path / "data/xcopa/test.sw.jsonl"} and task.is_local
    assert set(named(find_tasks(given))) == {"xcopa_sw", "xcopa_th"}
    seen: Any = observe_tasks(given, lambda path: path.read_text())
    assert sorted(seen["data"].values()) == ["sw", "th"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"tasks": ["a", "a"]}, "tasks names 'a' twice"),
        ({"suites": ["early", "early"]}, "suites names 'early' twice"),
        ({"domains": {"one": ["web"], "two": ["web"]}}, "domains has the source 'web' twice"),
        ({"baselines": {"this": "models/a"}}, "baselines has the name 'this', which tables have"),
        ({"baselines": {"untrained": "models/a"}}, "baselines has the name 'untrained'"),
    ],
)
def test_what_is_named_twice_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        config(**given)


def test_names_are_read_once_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text('task: "one"\n')
    (tmp_path / "b.yaml").write_text("group: two # a comment\ntask:\n  - one\n")
    assert names_in(tmp_path) == {"one": tmp_path / "a.yaml", "two": tmp_path / "b.yaml"}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../../esc", "cannot have the name"),
        ("bits_per_byte", "cannot have the name"),
        ("continuation", "which files get"),
    ],
)
def test_a_task_cannot_be_called_as_files_are(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "own.yaml").write_text(f"task: {name}\n")
    with pytest.raises(UserError, match=says):
        find_tasks(config(tasks=[str(tmp_path / "own.yaml")]))


def test_groups_second_names_and_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="belebele is a group of tasks"):
        find_tasks(config(tasks=["belebele"]))
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "one.yaml").write_text("task: one\n")
    with pytest.raises(UserError, match="is a second task of the name 'one'"):
        find_tasks(config(tasks=[str(tmp_path / "a/one.yaml"), str(tmp_path / "b/one.yaml")]))
    (tmp_path / "bytes.yaml").write_bytes(b"task: \xff\n")
    with pytest.raises(UserError, match="is no UTF-8 text"):
        find_tasks(config(tasks=[str(tmp_path / "bytes.yaml")]))


def test_code_and_data_that_a_task_takes_are_hashed(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("1")
    own = f"task: own\ndataset_kwargs: {{data_files: {tmp_path}/rows.jsonl}}\ninclude: base.yaml\n"
    (tmp_path / "own.yaml").write_text(own)
    (tmp_path / "base.yaml").write_text("doc_to_text: !function utils.text\n")
    (tmp_path / "utils.py").write_text("from helper import a\n")
    (tmp_path / "helper.py").write_text("a = 1")
    (tmp_path / "recipe.yaml").write_text("name: mine\n")
    given = config(tasks=[str(tmp_path / "own.yaml")])
    seen: Any = [observe_tasks(given, lambda path: path.read_text())]
    for name in ("utils.py", "rows.jsonl", "base.yaml", "helper.py"):
        (tmp_path / name).write_text((tmp_path / name).read_text() + "# changed")
        seen.append(observe_tasks(given, lambda path: path.read_text()))
        assert seen[-1] != seen[-2], name
    (tmp_path / "recipe.yaml").write_text("name: other\n")
    assert observe_tasks(given, lambda path: path.read_text()) == seen[-1]  # it is no part of the task
    with pytest.raises(UserError, match=r"gone is no directory"):
        check_tasks(config(data=str(tmp_path / "gone")))


def test_a_family_is_a_task_without_its_language_and_nothing_more() -> None:
    suites = EvaluateConfig(tasks=(), suites=("early", "multilingual", "science", "safety"))
    families = {task.name: task.family for task in find_tasks(suites)}
    wanted = {
        "belebele_cloze_swh_Latn": "belebele_cloze",
        "multiblimp_eng": "multiblimp",
        "flores_eng_Latn_swh_Latn": "flores_eng_Latn",
        "include_base_44_swahili": "include_base_44",
        "arc_easy": "arc_easy",
        "arc_challenge": "arc_challenge",
        "wmdp_bio": "wmdp_bio",
        "truthfulqa-multi_mc1_es": "truthfulqa-multi_mc1",
    }
    assert {name: families.get(name, family) for name, family in wanted.items()} == wanted
    named = find_tasks(EvaluateConfig(tasks=("belebele_swh_Latn", "arc_easy")))
    assert [task.family for task in named] == ["belebele", "arc_easy"]
