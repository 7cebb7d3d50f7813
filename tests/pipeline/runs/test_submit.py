"""Submitting, resuming, stopping and looking at runs, with a launcher that starts nothing."""

import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from cluster.launch.launcher import LAUNCHERS, DriverStatus
from cluster.leases.lease import lease
from configs.base import UserError
from pipeline.cli.show_lineage import show_lineage
from pipeline.cli.show_run import list_runs, show_run
from pipeline.cli.subject import find_subject
from pipeline.recipe import read_recipe
from pipeline.runs.attempt import make_attempt
from pipeline.runs.directory import RunDirectory, lease_name, open_run
from pipeline.runs.logs import read_logs
from pipeline.runs.resume import resume_run
from pipeline.runs.state import read_status
from pipeline.runs.stop import save_checkpoint_now, stop_run
from pipeline.runs.submit import submit_run
from pipeline.store.artifact import RECORD
from tests.pipeline.runs.toy_runs import ToyLauncher, toy_attempt

RECIPE = """\
name: toy
store: store
steps:
  corpus:
    stage: clean
    config:
      sources:
        - {name: words, kind: json_lines, paths: [words.jsonl], language: en}
      held_out: {share: 0.1}
"""
CLUSTER = "executor: inline\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory to submit from, and a launcher that starts nothing."""
    write_words(tmp_path, 30)
    (tmp_path / "toy.yaml").write_text(RECIPE)
    (tmp_path / "here.yaml").write_text(CLUSTER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(LAUNCHERS, "local", "tests.pipeline.runs.toy_runs.ToyLauncher")
    monkeypatch.setattr(ToyLauncher, "submissions", [])
    monkeypatch.setattr(ToyLauncher, "killed", [])
    monkeypatch.setattr(ToyLauncher, "seen", DriverStatus("running", "process 7"))
    monkeypatch.setattr("pipeline.runs.submit.secrets.token_hex", lambda _: "key")
    return tmp_path


def write_words(directory: Path, number: int) -> None:
    texts = [{"text": f"document number {i} says something of its own"} for i in range(number)]
    (directory / "words.jsonl").write_text("".join(f"{json.dumps(text)}\n" for text in texts))


def console() -> Console:
    return Console(record=True, width=400, file=open(os.devnull, "w"))


def submitted(
    run_id: str | None = None, *overrides: str, cluster: str = "here.yaml", store: str = "store"
) -> tuple[RunDirectory, str]:
    """The run's directory, and what was printed."""
    out = console()
    overrides = (*overrides, f"store='{store}'")
    loaded = read_recipe(Path("toy.yaml"), overrides)
    run_id = submit_run(loaded, cluster, out, run_id=run_id, check_first=False, dry_run=False)
    return open_run(str(Path(store).absolute()), run_id), out.export_text()


def resumed(directory: RunDirectory, *, cluster=None, yes=False, take_over=False) -> str:
    out = console()
    resume_run(directory, out, cluster=cluster, yes=yes, take_over=take_over, check_first=False)
    return out.export_text()


def finish(directory: RunDirectory) -> None:
    for artifact in directory.starts()[-1].artifacts.values():
        (directory.home / artifact).mkdir(exist_ok=True)
        (directory.home / artifact / RECORD).touch()
    toy_attempt(directory, outcome="finished", ended=directory.run().submitted)


def test_a_recipe_is_submitted_with_all_that_its_driver_needs(place, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    directory, said = submitted()
    (submission,) = ToyLauncher.submissions
    assert submission.run == directory.id and directory.id.startswith("toy-")
    assert submission.command[:3] == ("-m", "pipeline.cli", "drive") and submission.command[-1] == directory.id
    assert (submission.directory, submission.log) == (place, place / f"store/runs/{directory.id}/logs/start-0001.log")
    assert submission.environment["WANDB_API_KEY"] == "k" * 40
    assert f"concord status {directory.id}" in said
    written = "".join(file.read_text() for file in (place / "store/runs").rglob("*.json"))
    assert "kkkk" not in written


def test_submitting_twice_is_one_run(place):
    directory, _ = submitted()
    again, said = submitted()
    assert again.id == directory.id and len(ToyLauncher.submissions) == 1
    assert "was submitted already: starting" in said
    assert len(directory.starts()) == 1


def test_another_recipe_is_another_run(place):
    first, _ = submitted()
    second, _ = submitted(None, "steps.corpus.config.min_characters=7")
    assert first.id != second.id and len(ToyLauncher.submissions) == 2


def test_an_id_that_stands_for_another_recipe_is_refused(place):
    submitted("mine")
    with pytest.raises(UserError, match=r"another recipe: steps.corpus.config.min_characters is 20 in it, and 7"):
        submitted("mine", "steps.corpus.config.min_characters=7")


@pytest.mark.parametrize("run_id", ["../mine", "a b", "", ".hidden", "a/b", "-x"])
def test_an_id_that_is_no_name_is_refused(place, run_id):
    with pytest.raises(UserError, match="is no run's id"):
        RunDirectory("store", run_id, work_dir=".concord")


def test_a_submission_that_died_before_the_driver_started_is_completed_by_the_next(place, monkeypatch):
    monkeypatch.setattr(ToyLauncher, "submit", lambda self, submission: (_ for _ in ()).throw(OSError("died here")))
    with pytest.raises(OSError, match="died here"):
        submitted("mine")
    monkeypatch.undo()
    monkeypatch.chdir(place)
    monkeypatch.setitem(LAUNCHERS, "local", "tests.pipeline.runs.toy_runs.ToyLauncher")
    monkeypatch.setattr(ToyLauncher, "submissions", [])
    directory, _ = submitted("mine")
    assert [start.handle for start in directory.starts()] == ["handle of mine-key-1"]


def test_a_dry_run_starts_and_writes_nothing(place):
    out = console()
    submit_run(read_recipe(Path("toy.yaml"), ()), "here.yaml", out, run_id="mine", check_first=False, dry_run=True)
    assert "would start mine-key-1" in out.export_text()
    assert ToyLauncher.submissions == [] and not (place / "store" / "runs").exists()


SPLIT = """\
executor: inline
launcher: {kind: slurm, num_nodes: 3}
pools:
  default: {num_nodes: 1}
  gpus: {accelerator: H100, num_nodes: 2, slurm: {partition: gpu}}
"""


def test_nodes_that_only_unused_pools_need_are_not_asked_for(place, monkeypatch):
    (place / "split.yaml").write_text(SPLIT)
    out = console()
    submit_run(read_recipe(Path("toy.yaml"), ()), "split.yaml", out, run_id="mine", check_first=False, dry_run=True)
    *script, last = out.export_text().strip().splitlines()
    assert "#SBATCH --nodes=1" in script and "#SBATCH hetjob" not in script
    assert last == "# pool 'gpus' is used by no step that is to be made; nodes that only it needs are not asked for"
    monkeypatch.setitem(LAUNCHERS, "slurm", "tests.pipeline.runs.toy_runs.ToyLauncher")
    directory, printed = submitted("mine", cluster="split.yaml")
    assert last.removeprefix("# ") in printed
    assert list(ToyLauncher.submissions[0].cluster.pools) == ["default"]
    assert list(directory.starts()[0].cluster["pools"]) == ["default", "gpus"]  # which a later step may need


def test_the_states_of_a_run(place):
    directory, _ = submitted("mine")
    assert read_status(directory).word == "starting"
    ToyLauncher.seen = DriverStatus("waiting", "PENDING (Resources)")
    assert (read_status(directory).word, read_status(directory).detail) == ("waiting", "PENDING (Resources)")
    ToyLauncher.seen = DriverStatus("ended", "exit code 1")
    assert read_status(directory).word == "failed"
    assert read_status(directory).detail.endswith("(exit code 1); its last words: last line")
    with lease(directory.home, lease_name("mine"), what="run 'mine'"):
        assert read_status(directory).word == "running"
    attempt = toy_attempt(directory)
    assert read_status(directory).word == "lost"
    for outcome in (None, "preempted", "lost", "infrastructure"):  # queued again, and starting: it has no lease yet
        directory.end_attempt(attempt.model_copy(update={"outcome": outcome}))
        ToyLauncher.seen = DriverStatus("running", "RUNNING")
        assert read_status(directory).word == "starting" and read_status(directory).is_live
        ToyLauncher.seen = DriverStatus("ended", "FAILED")
        assert not read_status(directory).is_live
    ToyLauncher.seen = DriverStatus("running", "RUNNING")  # its Ray is still being ended
    directory.end_attempt(attempt.model_copy(update={"outcome": "memory", "reason": "the GPU is full"}))
    assert (read_status(directory).word, read_status(directory).detail) == (
        "failed",
        "attempt 1: memory: the GPU is full",
    )
    directory.end_attempt(attempt.model_copy(update={"outcome": "finished"}))
    assert read_status(directory).word == "failed"
    assert "is no longer in the store; resume makes it again" in read_status(directory).detail
    artifact = directory.home / directory.starts()[0].artifacts["corpus"]
    artifact.mkdir()
    (artifact / RECORD).touch()
    assert read_status(directory).word == "finished"


def test_a_run_that_ended_is_resumed_by_a_new_start(place):
    directory, _ = submitted("mine")
    toy_attempt(directory, outcome="infrastructure")
    ToyLauncher.seen = DriverStatus("ended", "")
    assert "start 2" in resumed(directory)
    assert [submission.name for submission in ToyLauncher.submissions] == ["mine-key-1", "mine-key-2"]
    assert [start.handle for start in directory.starts()] == ["handle of mine-key-1", "handle of mine-key-2"]


def test_a_live_run_is_resumed_only_by_taking_over(place):
    directory, _ = submitted("mine")
    with lease(directory.home, lease_name("mine"), what="run 'mine'"):
        with pytest.raises(UserError, match=r"run mine is running .*--take-over"):
            resumed(directory)
        resumed(directory, take_over=True)
    assert [start.take_over for start in directory.starts()] == [False, True]


def test_a_finished_run_is_not_resumed(place):
    directory, _ = submitted("mine")
    finish(directory)
    assert "is finished" in resumed(directory)
    assert len(directory.starts()) == 1


def test_other_sources_are_another_run(place):
    directory, _ = submitted("mine")
    ToyLauncher.seen = DriverStatus("ended", "")
    write_words(place, 31)
    with pytest.raises(UserError, match=r"what step corpus makes differs .* under another --id"):
        resumed(directory)
    assert len(directory.starts()) == 1


def test_another_recipe_file_and_other_versions_are_asked_about(place, monkeypatch):
    directory, _ = submitted("mine")
    ToyLauncher.seen = DriverStatus("ended", "")
    (place / "toy.yaml").write_text(RECIPE.replace("share: 0.1", "share: 0.2"))
    monkeypatch.setattr("pipeline.runs.submit.package_versions", lambda: {"torch": "9.9", "wandb": "0.1"})
    with pytest.raises(UserError, match=r"version of torch, .*recipe: steps.corpus.config.held_out.* --yes"):
        resumed(directory)
    said = resumed(directory, yes=True)
    assert "version of wandb" in said and "no change" in said
    assert directory.run().recipe["steps"]["corpus"]["config"]["held_out"]["share"] == 0.1


def test_another_cluster_is_told_and_not_asked_about(place):
    directory, _ = submitted("mine")
    ToyLauncher.seen = DriverStatus("ended", "")
    (place / "there.yaml").write_text("executor: inline\npools: {default: {num_ranks: 3, max_restarts: 9}}\n")
    said = resumed(directory, cluster="there.yaml")
    assert "cluster: pools.default.num_ranks: None -> 3  the samples stay" in said
    assert "cluster: pools.default.max_restarts: 3 -> 9  no change" in said


def test_a_run_is_resumed_from_any_directory(place, monkeypatch, tmp_path_factory):
    directory, _ = submitted("mine")
    ToyLauncher.seen = DriverStatus("ended", "")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    resumed(directory)
    assert ToyLauncher.submissions[1].directory == place


def test_an_attempt_makes_what_was_submitted_and_not_what_the_file_says_now(place):
    directory, _ = submitted("mine")
    (place / "toy.yaml").write_text("name: other\n")
    out = console()
    from configs.cluster import ClusterConfig

    make_attempt(directory, directory.starts()[0], ClusterConfig(executor="inline"), out, take_over=False)
    assert (place / "store" / directory.starts()[0].artifacts["corpus"] / "record.json").exists()
    finish(directory)
    lineage = console()
    show_lineage(find_subject(directory.id, store=directory.store), lineage)
    assert "step corpus" in lineage.export_text()


def test_an_attempt_refuses_sources_that_changed(place):
    directory, _ = submitted("mine")
    write_words(place, 31)
    from configs.cluster import ClusterConfig

    with pytest.raises(UserError, match=r"'corpus' would make clean-\w+ now, and not clean-\w+"):
        make_attempt(directory, directory.starts()[0], ClusterConfig(executor="inline"), console(), take_over=False)


def test_a_run_that_waits_is_withdrawn(place):
    directory, _ = submitted("mine")
    ToyLauncher.seen = DriverStatus("waiting", "PENDING")
    out = console()
    stop_run(directory, out)
    assert ToyLauncher.killed == ["handle of mine-key-1"]
    ToyLauncher.seen = DriverStatus("ended", "")
    assert read_status(directory).word == "stopped"


def test_a_run_that_does_not_stop_in_its_grace_is_killed(place, monkeypatch):
    monkeypatch.setattr("pipeline.runs.stop.MARGIN_SECONDS", -60.0)
    directory, _ = submitted("mine")
    out = console()
    with lease(directory.home, lease_name("mine"), what="run 'mine'"):
        stop_run(directory, out)
    assert ToyLauncher.killed == ["handle of mine-key-1"]
    assert directory.requests() == {}, "or it would stop the next start"
    assert "was killed; its newest checkpoint is kept" in out.export_text()


def test_a_run_that_has_ended_is_not_stopped(place):
    directory, _ = submitted("mine")
    finish(directory)
    out = console()
    stop_run(directory, out)
    assert "is finished already" in out.export_text() and ToyLauncher.killed == []


def test_nothing_is_saved_of_a_run_that_does_not_work(place):
    directory, _ = submitted("mine")
    with pytest.raises(UserError, match="run mine is starting"):
        save_checkpoint_now(directory, console())


def test_runs_are_listed_and_shown(place):
    directory, _ = submitted("mine")
    toy_attempt(directory, outcome="memory", reason="the GPU is full", ended=directory.run().submitted)
    out = console()
    list_runs(str(place / "store"), out)
    show_run(directory, out, live=True, as_json=False)
    text = out.export_text()
    assert "mine" in text and "failed" in text and "memory: the GPU is full" in text and "corpus  not begun" in text


def test_a_run_is_shown_as_json(place, capsys):
    directory, _ = submitted("mine")
    show_run(directory, console(), live=False, as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert (shown["run"], shown["state"], shown["steps"]["corpus"]["state"]) == ("mine", "starting", "not begun")


def test_a_store_without_the_run_says_which_it_has(place):
    submitted("mine")
    with pytest.raises(UserError, match=r"has no run 'yours' \(it has mine\)"):
        open_run(str(place / "store"), "yours")
    with pytest.raises(UserError, match="it has no runs"):
        open_run(str(place / "empty"), "yours")


def test_logs_are_those_of_all_starts_in_order(place):
    directory, _ = submitted("mine")
    ToyLauncher.seen = DriverStatus("ended", "")
    resumed(directory)
    directory.log_path(1).parent.mkdir(parents=True, exist_ok=True)
    directory.log_path(1).write_text("one\n")
    directory.log_path(2).write_text("two\nhalf")
    assert "".join(read_logs(directory, follow=True)) == "one\ntwo\nhalf"


def test_logs_are_followed_until_the_run_ends(place, monkeypatch):
    directory, _ = submitted("mine")
    log = directory.log_path(1)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("one\nha")

    def more(seconds: float) -> None:
        log.write_text("one\nhalf\ntwo\n")
        finish(directory)

    monkeypatch.setattr("pipeline.runs.logs.time.sleep", more)
    assert list(read_logs(directory, follow=True)) == ["one\n", "half\ntwo\n"]
