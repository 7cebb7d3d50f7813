"""A recipe made ready to be run."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from configs.base import ConfigError, InfrastructureError, UserError
from configs.cluster import ClusterConfig
from pipeline import prepare as preparing
from pipeline.prepare import Prepared, check_profile, describe_unused, unused_pools, with_profile
from pipeline.recipe import read_recipe
from pipeline.stages import STAGES


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (
            InfrastructureError(f"source 'python': a.py cannot be read ({os.strerror(errno.ESTALE)})"),
            InfrastructureError,
        ),
        (UserError("source 'python': a.py cannot be read (Permission denied)"), ConfigError),
    ],
)
def test_a_file_system_that_does_not_answer_is_no_mistake_in_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: UserError, kind: type
) -> None:
    def observe(config: object, digest: object) -> None:
        raise error

    monkeypatch.setitem(STAGES, "clean", replace(STAGES["clean"], observe=observe))
    with pytest.raises(UserError, match=r"a\.py cannot be read") as caught:
        preparing.prepare(read_recipe(Path("smoke"), (f"store={tmp_path}",)))
    assert type(caught.value) is kind


def test_each_training_that_has_the_steps_is_profiled_and_is_the_same_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (f"store={tmp_path}", "steps.corpus.config.sources.1.packages=[networkx]")
    plain = preparing.prepare(read_recipe(Path("smoke"), overrides))
    model = plain.plan.steps["model"]
    short = replace(model, name="short", config=model.config.model_copy(update={"num_steps": 50}))
    plain = replace(plain, plan=replace(plain.plan, steps={**plain.plan.steps, "short": short}))
    profiled = with_profile(plain, "50-60")
    assert profiled.plan.steps["model"].cadence.profile_steps == (50, 60)  # type: ignore[union-attr]
    assert profiled.plan.steps["short"] == short
    assert {n: s.artifact for n, s in profiled.plan.steps.items()} == {
        n: s.artifact for n, s in plain.plan.steps.items()
    }
    assert with_profile(plain, None) is plain
    check_profile(profiled, "50-60")
    monkeypatch.setattr(Prepared, "has", lambda self, step: step.name == "model")
    with pytest.raises(UserError, match=r"--profile 50-60: no training .* is still to be made"):
        check_profile(profiled, "50-60")


GPUS = {"accelerator": "H100", "slurm": {"partition": "gpu"}}


@pytest.mark.parametrize(
    ("launcher", "pools", "lines"),
    [
        ({"kind": "local"}, {"default": {}}, []),
        ({"kind": "slurm", "num_nodes": 4}, {"default": {}}, []),
        ({"kind": "slurm", "num_nodes": 4}, {"default": {"num_nodes": 4}}, []),
        ({"kind": "local"}, {"default": {}, "gpus": GPUS}, ["pool 'gpus' is used by no step that is to be made"]),
        (
            {"kind": "slurm", "num_nodes": 4},
            {"default": {"num_nodes": 1}},
            [
                "the launcher asks for 4 nodes, and the pools that are used have 1 by their num_nodes: the others "
                "would be idle"
            ],
        ),
        (
            {"kind": "slurm"},
            {"default": {"num_nodes": 1}, "gpus": {**GPUS, "num_nodes": 2}},
            ["pool 'gpus' is used by no step that is to be made; nodes that only it needs are not asked for"],
        ),
    ],
)
def test_pools_and_nodes_that_nothing_uses_are_named(
    tmp_path: Path, launcher: dict[str, object], pools: dict[str, object], lines: list[str]
) -> None:
    overrides = (f"store={tmp_path}", "steps.corpus.config.sources.1.packages=[networkx]")
    ready = preparing.prepare(read_recipe(Path("smoke"), overrides))
    assert describe_unused(ready, ClusterConfig.model_validate({"launcher": launcher, "pools": pools})) == lines


def test_where_nothing_is_to_be_made_no_pool_is_called_unused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = (f"store={tmp_path}", "steps.corpus.config.sources.1.packages=[networkx]")
    ready = preparing.prepare(read_recipe(Path("smoke"), overrides))
    monkeypatch.setattr(Prepared, "has", lambda self, step: True)
    assert unused_pools(ready, ClusterConfig()) == []
