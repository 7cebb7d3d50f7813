from pathlib import Path

import pytest

from cluster.executor import Executor
from configs.base import Artifact
from pipeline.graph.stage import Slot, stage
from tests.pipeline.toys import Bind, Page, Text, bind


def test_a_stage_is_read_off_its_signature():
    contract = stage(bind, version=3)
    assert (contract.config, contract.output, contract.version) == (Bind, Page, 3)
    assert contract.slots == {"left": Slot(Text, False, False), "right": Slot(Text, False, False)}
    assert contract.observe is None


def glance(
    config: Bind, *, left: Artifact[Text], right: Artifact[Page] | None = None, out: Path, executor: Executor
) -> Text: ...


def paced(config: Bind, *, cadence: Bind, out: Path, executor: Executor) -> Text: ...


def test_cadence_is_no_input():
    assert (stage(paced, version=1).has_cadence, stage(paced, version=1).slots) == (True, {})
    assert not stage(bind, version=3).has_cadence


def cadence_is_a_number(config: Bind, *, cadence: int, out: Path, executor: Executor) -> Text: ...


def test_an_input_that_may_be_none_is_optional():
    contract = stage(glance, version=1)
    assert contract.slots == {"left": Slot(Text, False, False), "right": Slot(Page, False, True)}


def collect(
    config: Bind,
    *,
    some: tuple[Artifact[Text], ...],
    more: tuple[Artifact[Page], ...] = (),
    out: Path,
    executor: Executor,
) -> Text: ...


def test_an_input_may_be_a_list():
    assert stage(collect, version=1).slots == {"some": Slot(Text, True, False), "more": Slot(Page, True, True)}


def no_config(*, out: Path, executor: Executor) -> Text: ...


def no_out(config: Bind, *, executor: Executor) -> Text: ...


def no_executor(config: Bind, *, out: Path) -> Text: ...


def out_is_text(config: Bind, *, out: str, executor: Executor) -> Text: ...


def no_return(config: Bind, *, out: Path, executor: Executor): ...


def returns_a_path(config: Bind, *, out: Path, executor: Executor) -> Path: ...


def config_is_a_dict(config: dict[str, str], *, out: Path, executor: Executor) -> Text: ...


def input_is_a_path(config: Bind, *, text: Path, out: Path, executor: Executor) -> Text: ...


def input_is_a_manifest(config: Bind, *, text: Text, out: Path, executor: Executor) -> Text: ...


def input_is_bare(config: Bind, *, text: Artifact, out: Path, executor: Executor) -> Text: ...


def optional_without_default(config: Bind, *, a: Artifact[Text] | None, out: Path, executor: Executor) -> Text: ...


def required_with_default(config: Bind, *, a: Artifact[Text] = None, out: Path, executor: Executor) -> Text: ...  # type: ignore[assignment]


def a_pair(config: Bind, *, a: tuple[Artifact[Text], Artifact[Text]], out: Path, executor: Executor) -> Text: ...


def a_list_or_none(
    config: Bind, *, a: tuple[Artifact[Text], ...] | None = None, out: Path, executor: Executor
) -> Text: ...


def either_of_two(
    config: Bind, *, a: Artifact[Text] | Artifact[Page] | None = None, out: Path, executor: Executor
) -> Text: ...


@pytest.mark.parametrize(
    "function",
    [
        optional_without_default,
        required_with_default,
        either_of_two,
        a_pair,
        a_list_or_none,
        no_config,
        no_out,
        no_executor,
        out_is_text,
        cadence_is_a_number,
        no_return,
        returns_a_path,
        config_is_a_dict,
        input_is_a_path,
        input_is_a_manifest,
        input_is_bare,
    ],
)
def test_a_function_of_another_shape_is_no_stage(function):
    with pytest.raises(TypeError, match=function.__name__):
        stage(function, version=1)
