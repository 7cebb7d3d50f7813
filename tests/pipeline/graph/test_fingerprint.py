import math
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from configs.base import AddedLater, Config
from configs.data.stages import ImportTokenizerConfig
from configs.load import load, shipped
from configs.run import RunConfig
from configs.training.init import InitConfig
from pipeline.graph.fingerprint import fingerprint, identity_of
from pipeline.graph.plan import make_plan
from pipeline.stages import STAGES

BASE = {
    "stage": "train",
    "version": 1,
    "config": {"a": 1, "b": [1.5, None, {"c": "x"}]},
    "inputs": {"tokens": "f" * 64},
    "observed": {"f.txt": "0"},
}


def test_a_fingerprint_is_a_sha256_in_hex():
    assert len(fingerprint(**BASE)) == 64
    int(fingerprint(**BASE), 16)


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "tune"},
        {"version": 2},
        {"config": {"a": 2, "b": [1.5, None, {"c": "x"}]}},
        {"config": {"a": 1, "b": [None, 1.5, {"c": "x"}]}},
        {"config": {"a": "1", "b": [1.5, None, {"c": "x"}]}},
        {"config": {"a": True, "b": [1.5, None, {"c": "x"}]}},
        {"config": {"b": [1.5, None, {"c": "x"}]}},
        {"inputs": {"tokens": "e" * 64}},
        {"inputs": {"corpus": "f" * 64}},
        {"observed": {"f.txt": "1"}},
        {"observed": None},
    ],
)
def test_whatever_decides_the_output_is_in_the_fingerprint(change):
    assert fingerprint(**BASE | change) != fingerprint(**BASE)


def test_the_order_of_keys_is_not_in_the_fingerprint():
    reordered = {"config": {"b": [1.5, None, {"c": "x"}], "a": 1}}
    assert fingerprint(**BASE | reordered) == fingerprint(**BASE)


def test_a_tuple_and_a_list_are_the_same():
    assert fingerprint(**BASE | {"observed": (1, 2)}) == fingerprint(**BASE | {"observed": [1, 2]})


def test_another_process_with_another_hash_seed_gives_the_same_fingerprint():
    program = f"from pipeline.graph.fingerprint import fingerprint; print(fingerprint(**{BASE!r}))"
    root = Path(__file__).parents[3]
    env = {"PYTHONHASHSEED": "4711"}
    printed = subprocess.run([sys.executable, "-c", program], cwd=root, env=env, capture_output=True, text=True)
    assert printed.stdout.strip() == fingerprint(**BASE)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, {1, 2}, frozenset(), object(), b"bytes", Path("p"), {1: "a"}, print]
)
def test_what_has_no_stable_text_is_refused_with_its_place(value):
    with pytest.raises(TypeError, match=r"^train\.config\.model\[1\]"):
        fingerprint(**BASE | {"config": {"model": [0, value]}})


class Filter(Config):
    kind: str = "length"
    least: Annotated[int, AddedLater()] = 0


class Before(Config):
    name: str = "x"
    filters: tuple[Filter, ...] = ()


class After(Before):
    language: Annotated[str | None, AddedLater()] = None
    by_name: Annotated[dict[str, Filter], AddedLater()] = Field(default_factory=dict)
    extra: Annotated[Filter, AddedLater()] = Filter()


def identities(*configs: Config) -> list[str]:
    return [fingerprint("clean", 1, identity_of(config), {}, None) for config in configs]


def test_a_key_added_later_is_left_out_of_the_fingerprint_while_it_has_its_default():
    before, after, spelt_out = identities(Before(), After(), After(language=None, by_name={}, extra=Filter()))
    assert before == after == spelt_out


@pytest.mark.parametrize(
    "change",
    [
        {"language": "en"},
        {"by_name": {"a": Filter()}},
        {"extra": Filter(least=1)},
        {"extra": Filter(kind="symbols")},
        {"filters": (Filter(least=1),)},
        {"by_name": {"a": Filter(least=1)}},
    ],
)
def test_a_key_added_later_is_in_the_fingerprint_with_any_other_value_at_any_depth(change):
    assert len(set(identities(After(), After(**change)))) == 2


def test_a_key_added_later_is_left_out_inside_lists_and_mappings_too():
    nested = After(filters=(Filter(),), by_name={"a": Filter(kind="symbols")})
    assert identity_of(nested) == {
        "name": "x",
        "filters": [{"kind": "length"}],
        "by_name": {"a": {"kind": "symbols"}},
    }


def test_a_key_that_is_not_marked_is_always_in_the_identity():
    assert identity_of(Before()) == {"name": "x", "filters": []}


def test_a_path_whose_content_is_observed_is_hashed_by_that_alone():
    init = {"path": "/models/latest", "mode": "weights", "tokenizer": "tokenizers/a"}
    here, there = (InitConfig.model_validate(init | change) for change in ({}, {"path": "b", "tokenizer": "c"}))
    assert identity_of(here, observed=True) == identity_of(there, observed=True) == {"mode": "weights"}
    assert identity_of(here) != identity_of(there), "where nothing is observed, as for the id of a run"
    assert identity_of(ImportTokenizerConfig(path="a"), observed=True).keys() == {"end_of_text", "begin_of_text"}


SMOKE = {
    "corpus.sentences": "clean-15997c2c5aff",
    "corpus.science": "clean-e5ab4a3d86b3",
    "unique.sentences": "deduplicate-118c72915ca5",
    "unique.science": "deduplicate-308bc3b56ed4",
    "tokenizer": "train_tokenizer-4cf2751f1681",
    "tokens.sentences": "tokenize-c0a657450b92",
    "tokens.science": "tokenize-2d6c130ada68",
    "model": "train-7e551da45d55",
    "scores": "evaluate-abdb1440a365",
    "export": "export-20b8c3bcb560",
    "report": "report-e16933572726",
}
"""What the smoke recipe makes, were its sources to hold what the test says they do, with the 200 steps that it had when
these were written down. A change here means that everybody makes everything anew: mark the key that was added with
AddedLater, or raise the version of the one stage that changed.
"""


@pytest.mark.parametrize(
    "cadence", [(), ("steps.model.cadence={log_every_steps: 10, checkpoint_every_minutes: 30}",)], ids=["", "cadence"]
)
def test_the_smoke_recipe_makes_what_it_always_made_at_any_cadence(cadence):
    recipe = load(shipped("recipes", "smoke"), RunConfig, ("steps.model.config.num_steps=200", *cadence)).config
    plan = make_plan(recipe, STAGES, {"corpus.sentences": {"python": "0" * 64}, "corpus.science": {"python": "1" * 64}})
    assert {name: step.artifact for name, step in plan.steps.items()} == SMOKE
