"""`--profile` reaches the training from every command that starts a run, and makes no other run or artifact of it."""

from pathlib import Path

import pytest
from rich.console import Console

from cluster.launch.launcher import DriverStatus
from configs.base import UserError
from configs.cluster import ClusterConfig
from configs.training.train import CadenceConfig
from pipeline.prepare import Prepared
from pipeline.recipe import read_recipe
from pipeline.runs.attempt import make_attempt
from pipeline.runs.directory import RunDirectory, open_run
from pipeline.runs.resume import resume_run
from pipeline.runs.submit import submit_run
from tests.pipeline.runs.test_submit import console, place
from tests.pipeline.runs.toy_runs import ToyLauncher

assert place, "a fixture"
OVERRIDES = ("store='store'", "steps.corpus.config.sources.1.packages=[networkx]")


def submitted(*, run_id: str | None = None, profile: str | None = None) -> tuple[RunDirectory, str]:
    out = console()
    options = {"run_id": run_id, "check_first": False, "dry_run": False, "profile": profile}
    name = submit_run(read_recipe(Path("smoke"), OVERRIDES), "here.yaml", out, **options)
    return open_run(str(Path("store").absolute()), name), out.export_text()


def attempted(directory: RunDirectory, number: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int] | None:
    """The steps that an attempt of a start would record."""
    seen: list[Prepared] = []
    monkeypatch.setattr("pipeline.run.run_prepared", lambda ready, *_, **__: seen.append(ready))
    machines, start = ClusterConfig(executor="inline"), directory.starts()[number - 1]
    make_attempt(directory, start, machines, Console(), take_over=False)
    cadence = seen[0].plan.steps["model"].cadence
    assert isinstance(cadence, CadenceConfig)
    return cadence.profile_steps


def test_a_start_has_the_steps_to_profile_and_the_next_one_has_its_own(place, monkeypatch):
    directory, _ = submitted(profile="2-3")
    again, said = submitted(profile="4")
    assert again.id == directory.id, "the same recipe is the same run"
    assert "--profile does nothing here; give it to `concord resume`, after `concord stop`" in said
    ToyLauncher.seen = DriverStatus("ended", "")
    options = {"cluster": None, "yes": False, "take_over": False, "check_first": False}
    resume_run(directory, console(), **options)
    resume_run(directory, console(), **options, profile="10")
    assert [start.profile for start in directory.starts()] == ["2-3", None, "10"]
    assert len({tuple(start.artifacts.values()) for start in directory.starts()}) == 1
    assert [attempted(directory, number, monkeypatch) for number in (1, 2, 3)] == [(2, 3), None, (10, 10)]


def test_steps_that_the_training_has_not_are_refused_before_anything_is_written(place):
    with pytest.raises(UserError, match=r"^--profile 99-101: no training of this recipe has 101 steps; give earlier"):
        submitted(profile="99-101")
    assert not (place / "store" / "runs").exists()
