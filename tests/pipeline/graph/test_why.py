from dataclasses import replace
from pathlib import Path
from typing import Annotated

import pytest

from cluster.executor import Executor
from configs.base import AddedLater, Artifact
from pipeline.graph.plan import Plan
from pipeline.graph.stage import stage
from pipeline.graph.why import why_make
from pipeline.store.artifact import RECORD
from tests.pipeline.toys import STAGES, Bind, Repeat, Text, ToyStep, Write, planned, recipe, run


def why(plan: Plan, name: str, store: Path, *made_anew: str) -> str:
    fingerprints = {step.name: step.fingerprint for step in plan.steps.values()}
    return why_make(plan.steps[name], store, made_anew=set(made_anew), fingerprints=fingerprints)


def test_a_value_that_changed_is_named_with_both_values(tmp_path):
    run(tmp_path)
    plan = planned(recipe(twice=ToyStep("repeat", Repeat(times=3), {"text": "first"})))
    assert why(plan, "twice", tmp_path, "twice") == "because steps.twice.config.times changed from 2 to 3"


def test_an_input_that_is_made_anew_is_named_by_its_step(tmp_path):
    run(tmp_path)
    plan = planned(recipe(first=ToyStep("write", Write(text="another"))))
    assert why(plan, "twice", tmp_path, "first", "twice") == "because its input first is made anew"


def test_an_input_that_is_there_but_another_one_is_named(tmp_path):
    run(tmp_path)
    plan = planned(recipe(book=ToyStep("bind", Bind(), {"left": "first", "right": "other"})))
    assert why(plan, "book", tmp_path, "book") == "because its input first is another one"


def test_a_new_version_of_the_stage_is_named(tmp_path):
    run(tmp_path)
    plan = planned(stages=STAGES | {"write": replace(STAGES["write"], version=2)})
    assert why(plan, "first", tmp_path, "first") == "because stage version 1 -> 2"


def test_of_several_the_one_of_the_same_step_explains(tmp_path):
    run(tmp_path)  # `first` and `other` are of one stage
    plan = planned(recipe(other=ToyStep("write", Write(text="2 "))))
    assert why(plan, "other", tmp_path, "other") == 'because steps.other.config.text changed from "two " to "2 "'


@pytest.mark.parametrize(
    ("before", "now", "names"),
    [
        ({"words": {"a.jsonl": "1", "b.jsonl": "2"}}, {"words": {"a.jsonl": "1", "b.jsonl": "3"}}, "words (b.jsonl)"),
        ({"words": {"a.jsonl": "1"}}, {"words": {"a.jsonl": "1", "c.jsonl": "9"}}, "words (c.jsonl)"),
        ({"packages": {"scipy": "1.15"}}, {"packages": {"scipy": "1.16"}}, "packages (scipy)"),
        ({"code": {"numpy": {"core.py": "1"}}}, {"code": {"numpy": {"core.py": "2"}}}, "code (core.py)"),
        ({}, {"words": {"a.jsonl": "1"}}, "words (new)"),
    ],
)
def test_sources_that_changed_are_named_with_their_files(tmp_path, before, now, names):
    run(tmp_path, planned(first=before))
    assert why(planned(first=now), "first", tmp_path, "first") == f"because the sources changed: {names}"


def test_of_many_changes_the_first_are_named(tmp_path):
    files = {f"{i}.jsonl": "1" for i in range(10)}
    run(tmp_path, planned(first={"words": files}))
    changed = planned(first={"words": dict.fromkeys(files, "2")})
    assert why(changed, "first", tmp_path).endswith("words (0.jsonl, 1.jsonl, 2.jsonl, 7 more)")


def test_without_anything_like_it_that_is_said(tmp_path):
    assert why(planned(), "first", tmp_path) == "nothing like it in the store"
    (tmp_path / planned().steps["first"].artifact).mkdir()
    assert why(planned(), "first", tmp_path) == "begun, not finished"


def test_a_record_that_cannot_be_read_explains_nothing(tmp_path):
    run(tmp_path)
    plan = planned(recipe(twice=ToyStep("repeat", Repeat(times=3), {"text": "first"})))
    for path in tmp_path.glob(f"repeat-*/{RECORD}"):
        path.write_text("{}")
    assert why(plan, "twice", tmp_path) == "nothing like it in the store"


class Longer(Repeat):
    joined_by: Annotated[str, AddedLater()] = ""


def test_a_key_that_a_later_version_added_explains_nothing_while_it_has_its_default(tmp_path):
    run(tmp_path)
    changed = planned(recipe(twice=ToyStep("repeat", Longer(times=3), {"text": "first"})))
    assert why(changed, "twice", tmp_path, "twice") == "because steps.twice.config.times changed from 2 to 3"
    joined = planned(recipe(twice=ToyStep("repeat", Longer(joined_by="-"), {"text": "first"})))
    assert why(joined, "twice", tmp_path, "twice") == 'because steps.twice.config.joined_by is new: "-"'


def glance(
    config: Bind, *, left: Artifact[Text], right: Artifact[Text] | None = None, out: Path, executor: Executor
) -> Text:
    (out / "text.txt").write_text(config.title)
    return Text(path="text.txt")


def test_an_optional_input_that_is_new_or_gone_is_named(tmp_path):
    stages = STAGES | {"glance": stage(glance, version=1)}
    one, both = (
        ToyStep("glance", Bind(), {"left": "first"}),
        ToyStep("glance", Bind(), {"left": "first", "right": "other"}),
    )
    run(tmp_path, stages=stages, plan=planned(recipe(seen=one), stages))
    assert why(planned(recipe(seen=both), stages), "seen", tmp_path) == "because its input right is new: other"
    run(tmp_path / "b", stages=stages, plan=planned(recipe(seen=both), stages))
    assert why(planned(recipe(seen=one), stages), "seen", tmp_path / "b") == "because its input right is gone"
