from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from configs.base import Config
from configs.cluster import ClusterConfig
from configs.run import RunConfig, Step
from pipeline.stages import STAGES


def definitions(model: type[Config]) -> Iterator[tuple[str, dict[str, Any]]]:
    schema = model.model_json_schema()
    yield model.__name__, schema
    yield from schema["$defs"].items()


def configs(kind: type[Config] = Config) -> Iterator[type[Config]]:
    for child in kind.__subclasses__():
        if child.__module__.startswith("configs."):
            yield child
            yield from configs(child)


@pytest.mark.parametrize("model", [RunConfig, ClusterConfig])
def test_every_field_of_the_schema_is_described(model):
    bare = [
        f"{name}.{field}"
        for name, definition in definitions(model)
        for field, shape in definition.get("properties", {}).items()
        if not shape.get("description")
    ]
    assert bare == []


def test_every_config_is_part_of_one_of_the_two_schemas():
    reached = {name for model in (RunConfig, ClusterConfig) for name, _ in definitions(model)}
    assert {config.__name__ for config in configs() if not config.__name__.startswith("_")} <= reached


@pytest.mark.parametrize("config", list(configs()), ids=lambda config: config.__name__)
def test_every_config_says_what_it_is_and_is_frozen_and_strict(config):
    assert config.__doc__ or config.__name__.startswith("_")
    assert config.model_config["frozen"]
    assert config.model_config["extra"] == "forbid"


def test_a_config_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        ClusterConfig().executor = "inline"


def test_recipes_and_the_table_of_stages_agree_on_names_and_config_types():
    steps = get_args(get_args(Step)[0])
    schema = {
        get_args(step.model_fields["stage"].annotation)[0]: step.model_fields["config"].annotation for step in steps
    }
    assert schema == {name: stage.config for name, stage in STAGES.items()}


def test_every_stage_takes_something_that_a_stage_makes():
    made = {stage.output for stage in STAGES.values()}
    assert {kind for stage in STAGES.values() for kind in stage.inputs.values()} <= made
