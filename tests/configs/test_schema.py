from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from configs.base import AddedLater, Config
from configs.cluster import ClusterConfig
from configs.data.filters import Thresholds
from configs.run import RunConfig, Step
from configs.tasks import SuiteConfig
from pipeline.stages import STAGES

FILES = [RunConfig, ClusterConfig, Thresholds, SuiteConfig]
"""What people write."""


def definitions(model: type[Config]) -> Iterator[tuple[str, dict[str, Any]]]:
    schema = model.model_json_schema()
    yield model.__name__, schema
    yield from schema["$defs"].items()


def configs(kind: type[Config] = Config) -> Iterator[type[Config]]:
    for child in kind.__subclasses__():
        if child.__module__.startswith("configs."):
            yield child
            yield from configs(child)


@pytest.mark.parametrize("model", FILES)
def test_every_field_of_the_schema_is_described(model):
    bare = [
        f"{name}.{field}"
        for name, definition in definitions(model)
        for field, shape in definition.get("properties", {}).items()
        if not shape.get("description")
    ]
    assert bare == []


def test_every_config_is_part_of_one_of_the_schemas():
    reached = {name for model in FILES for name, _ in definitions(model)}
    alone = {config.__name__ for config in configs() if not config.__subclasses__()}
    assert {name for name in alone if not name.startswith("_")} <= reached


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
    assert {slot.kind for stage in STAGES.values() for slot in stage.slots.values()} <= made


def hashed_classes() -> dict[str, type[BaseModel]]:
    """The classes of all that a step's config may hold, by name: what fingerprints are made of."""
    found: dict[str, type[BaseModel]] = {}

    def visit(kind: object) -> None:
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind.__name__ not in found:
            found[kind.__name__] = kind
            for field in kind.model_fields.values():
                visit(field.annotation)
        for inner in get_args(kind):
            visit(inner)

    for stage in STAGES.values():
        visit(stage.config)
    return found


def test_a_mark_of_a_key_that_was_added_stands_on_the_key_itself_and_the_key_has_a_default():
    for name, kind in hashed_classes().items():
        for key, field in kind.model_fields.items():
            assert "AddedLater" not in repr(field.annotation), f"{name}.{key}: mark the whole key"
            assert AddedLater not in field.metadata, f"{name}.{key}: AddedLater() has parentheses"
            if any(isinstance(mark, AddedLater) for mark in field.metadata):
                assert not field.is_required(), f"{name}.{key} has no default to be left out with"


KEYS = {
    "BatchRampConfig": 3,
    "BlocklistConfig": 3,
    "Bounds": 2,
    "CleanConfig": 6,
    "CosineSchedule": 3,
    "CsvSource": 10,
    "DecontaminateConfig": 2,
    "DeduplicateConfig": 1,
    "DocstringsSource": 5,
    "EmaConfig": 1,
    "EvaluateConfig": 12,
    "ExportConfig": 1,
    "FilterConfig": 5,
    "HeldOutConfig": 3,
    "HuggingFaceSource": 13,
    "IdentifyConfig": 6,
    "ImportTokenizerConfig": 3,
    "InitConfig": 3,
    "JsonLinesSource": 9,
    "LatexSource": 5,
    "LearnConfig": 5,
    "Limits": 27,
    "MarkupSource": 7,
    "MixtureConfig": 2,
    "ModelConfig": 12,
    "NearDuplicatesConfig": 2,
    "OptimizerConfig": 9,
    "PackageTextSource": 9,
    "ParagraphsConfig": 3,
    "ParquetSource": 9,
    "PersonalDataConfig": 1,
    "PhaseConfig": 2,
    "PlainTextSource": 6,
    "ReportConfig": 1,
    "ScoreConfig": 8,
    "SpikeConfig": 3,
    "StabilityConfig": 3,
    "TokenizeConfig": 1,
    "TrainConfig": 15,
    "TrainTokenizerConfig": 5,
    "ValidationConfig": 2,
    "WsdSchedule": 4,
    "WarcSource": 6,
}
"""How many keys each class has in the hash. A class that grows makes everybody's artifacts anew: mark the new key with
AddedLater (CONTRIBUTING.md), or raise the stage's version and the number here."""


def test_no_class_has_grown_a_key_that_is_hashed():
    marked = {name: [f.metadata for f in kind.model_fields.values()] for name, kind in hashed_classes().items()}
    counts = {
        name: sum(not any(isinstance(mark, AddedLater) for mark in marks) for marks in fields)
        for name, fields in marked.items()
    }
    assert counts == KEYS
