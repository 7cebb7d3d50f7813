"""The recipe that a page shows makes what the page is about."""

from datetime import UTC, datetime
from pathlib import Path

import yaml

from configs.load import load, shipped
from configs.run import RunConfig
from pipeline.graph.plan import Plan, make_plan
from pipeline.report.recipe import write_recipe
from pipeline.stages import STAGES
from pipeline.store.artifact import Input, Record

OBSERVED = {"corpus": {"sentences": "0"}}


def plan(path: Path) -> Plan:
    return make_plan(load(path, RunConfig).config, STAGES, OBSERVED)


def input_of(plan: Plan, name: str) -> Input:
    return Input(artifact=plan.steps[name].artifact, fingerprint=plan.steps[name].fingerprint)


def records_of(plan: Plan) -> dict[str, Record]:
    """Return the records that the runner would write of a plan's steps, but for the report's."""
    return {
        step.artifact: Record(
            step=step.name,
            stage=step.stage,
            version=step.version,
            fingerprint=step.fingerprint,
            config=step.config.model_dump(mode="json"),
            observed=step.observed,
            inputs={
                slot: input_of(plan, given) if isinstance(given, str) else tuple(input_of(plan, one) for one in given)
                for slot, given in step.inputs.items()
            },
            manifest={},
            files={},
            started=datetime(2026, 11, 28, tzinfo=UTC),
            seconds=1.0,
            attempts=1,
            placement={},
            code="0",
            packages={},
            host="here",
        )
        for step in plan.steps.values()
        if step.stage != "report"
    }


def written(records: dict[str, Record], smoke: Plan) -> str:
    report = smoke.steps["report"]
    inputs = {
        slot: smoke.steps[given].artifact if isinstance(given, str) else [smoke.steps[one].artifact for one in given]
        for slot, given in report.inputs.items()
    }
    config = report.config.model_dump(mode="json")
    return write_recipe(records, title="A title: of words!", config=config, inputs=inputs)


def test_the_written_recipe_has_the_fingerprints_of_the_records(tmp_path: Path) -> None:
    smoke = plan(shipped("recipes", "smoke"))
    (tmp_path / "again.yaml").write_text(written(records_of(smoke), smoke), encoding="utf-8")
    again = plan(tmp_path / "again.yaml")
    assert {step.name: step.fingerprint for step in again.steps.values()} == {
        step.name: step.fingerprint for step in smoke.steps.values()
    }


def test_the_written_recipe_is_short_and_its_name_follows_the_title() -> None:
    smoke = plan(shipped("recipes", "smoke"))
    text = written(records_of(smoke), smoke)
    assert yaml.safe_load(text)["name"] == "A-title-of-words"
    assert "weight_decay" not in text  # a default
    assert yaml.safe_load(text)["steps"]["tokens.science"] == {
        "stage": "tokenize",
        "inputs": {"corpus": "corpus.science", "mask": "unique.science", "tokenizer": "tokenizer"},
    }


def test_steps_of_one_name_get_numbers_and_what_is_gone_is_said() -> None:
    smoke = plan(shipped("recipes", "smoke"))
    records = records_of(smoke)
    first, second = (smoke.steps[name].artifact for name in ("corpus.sentences", "tokenizer"))
    records[second] = records[second].model_copy(update={"step": records[first].step})
    gone = smoke.steps["tokens.science"].artifact
    del records[gone]
    report = {"model": smoke.steps["model"].artifact}
    text = write_recipe(records, title="", config={}, inputs=report)
    assert text.startswith(
        f"# step 'model' had {gone} as 'tokens', whose record is no longer in the store\nname: recipe\n"
    )
    steps = yaml.safe_load(text)["steps"]
    assert steps["model"]["inputs"] == {"tokens": ["tokens.sentences"], "tokenizer": "corpus.sentences-2"}
    assert steps["report"] == {"stage": "report", "inputs": {"model": "model"}}


def test_settings_that_this_version_does_not_know_are_written_as_they_are() -> None:
    smoke = plan(shipped("recipes", "smoke"))
    records = records_of(smoke)
    name = smoke.steps["tokenizer"].artifact
    records[name] = records[name].model_copy(update={"config": {"vocabulary": 7, "tag": "no"}})
    steps = yaml.safe_load(written(records, smoke))["steps"]
    assert steps["tokenizer"]["config"] == {"vocabulary": 7, "tag": "no"}
