"""Submitting and resuming again after something went wrong, or in another place."""

import shlex

import pytest

from cluster.launch.launcher import DriverStatus
from cluster.leases.lease import lease
from configs.base import UserError
from pipeline.runs.directory import lease_name
from pipeline.runs.stop import save_checkpoint_now, stop_run
from pipeline.runs.submit import command_words, default_id
from tests.pipeline.runs.test_submit import console, place, resumed, submitted
from tests.pipeline.runs.toy_runs import ToyLauncher, toy_attempt

assert place, "a fixture"


def failing(monkeypatch) -> None:
    """Have the launcher refuse until the end of the context."""
    monkeypatch.setattr(ToyLauncher, "submit", lambda *_: (_ for _ in ()).throw(UserError("no such partition")))


def test_runs_of_one_id_in_two_stores_are_two_for_a_launcher(place, monkeypatch):
    keys = iter("ab")
    monkeypatch.setattr("pipeline.runs.submit.secrets.token_hex", lambda _: next(keys))
    submitted("mine", store="one")
    submitted("mine", store="two")
    assert [submission.name for submission in ToyLauncher.submissions] == ["mine-a-1", "mine-b-1"]


def test_a_cluster_file_that_was_mended_is_what_the_next_submission_starts_with(place, monkeypatch):
    with monkeypatch.context() as broken:
        failing(broken)
        with pytest.raises(UserError, match="no such partition"):
            submitted("mine")
    (place / "here.yaml").write_text("executor: inline\ntime_limit_minutes: 7\n")
    directory, _ = submitted("mine")
    assert [(start.number, start.handle is not None) for start in directory.starts()] == [(1, False), (2, True)]
    assert directory.starts()[1].cluster["time_limit_minutes"] == 7
    assert ToyLauncher.submissions[0].command[-3:] == ("--start", "2", "mine")


def test_of_two_recipes_under_one_id_at_once_one_is_refused(place, monkeypatch):
    directory, _ = submitted("mine")
    kind = type(directory)
    honest, asked = kind.run, []

    def not_yet(self):
        asked.append(1)
        return None if len(asked) == 1 else honest(self)

    monkeypatch.setattr(kind, "run", not_yet)
    with pytest.raises(UserError, match="with another recipe"):
        submitted("mine", "steps.corpus.config.min_characters=7")


def test_a_store_in_memory_is_not_submitted_to(place):
    with pytest.raises(UserError, match="in the memory of this process"):
        submitted("mine", store="memory://x")


def test_the_longest_recipes_name_gives_an_id():
    run_id = default_id("x" * 100, {"name": "x" * 100})
    assert len(run_id) == 100


def test_commands_that_are_proposed_can_be_pasted_into_a_shell(place):
    directory, said = submitted("mine", store="a store")
    assert shlex.split(command_words(directory)) == ["mine", "--store", str(place / "a store")]
    assert said.count(command_words(directory)) == 2


def test_a_run_whose_time_is_over_says_how_to_give_it_more(place):
    (place / "here.yaml").write_text("executor: inline\ntime_limit_minutes: 0.1\n")
    directory, _ = submitted("mine")
    began = directory.run().submitted
    toy_attempt(directory, outcome="time_limit", began=began.replace(year=began.year - 1), ended=began)
    ToyLauncher.seen = DriverStatus("ended", "")
    with pytest.raises(UserError, match=r"time limit of 0\.1 minutes of run mine is over; raise time_limit_minutes"):
        resumed(directory)
    (place / "more.yaml").write_text("executor: inline\n")
    assert "start 2" in resumed(directory, cluster="more.yaml")


def test_a_cluster_file_that_changed_is_told_and_the_old_one_counts(place):
    directory, _ = submitted("mine")
    ToyLauncher.seen = DriverStatus("ended", "")
    (place / "here.yaml").write_text("executor: inline\nretries: {preemption: 1}\n")
    said = resumed(directory)
    assert "here.yaml has changed since (retries.preemption)" in said
    assert directory.starts()[1].cluster["retries"]["preemption"] == 100


def test_a_stop_is_said_by_the_launcher_where_the_store_takes_no_request(place, monkeypatch):
    directory, _ = submitted("mine")
    told: list[str] = []
    monkeypatch.setattr(ToyLauncher, "stop", lambda self, handle: told.append(handle))
    monkeypatch.setattr(
        type(directory), "add_request", lambda self, what: (_ for _ in ()).throw(OSError(28, "disk full"))
    )
    out = console()
    stop_run(directory, out)
    assert len(told) == 1 and "the launcher was told" in out.export_text()


def test_no_checkpoint_is_waited_for_where_nothing_trains(place):
    directory, _ = submitted("mine")
    toy_attempt(directory)
    working = lease(directory.home, lease_name("mine"), what="run 'mine'")
    with working, pytest.raises(UserError, match="no training of run mine goes on now"):
        save_checkpoint_now(directory, console())
