"""What is said of runs: by their records alone, from wherever it is asked."""

import json
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from cluster.launch.launcher import LAUNCHERS, DriverStatus
from cluster.leases.lease import store_lease
from configs.base import UserError
from configs.cluster import ClusterConfig
from pipeline.cli.show_lineage import show_lineage
from pipeline.cli.show_run import list_runs, show_run
from pipeline.cli.status import show_steps
from pipeline.cli.subject import StepsSubject, find_subject
from pipeline.recipe import read_recipe
from pipeline.runs.attempt import make_attempt
from pipeline.runs.directory import RunDirectory, lease_name, now, open_run, run_ids
from pipeline.runs.logs import read_logs
from pipeline.runs.state import LAUNCHER_SECONDS, read_status
from pipeline.runs.submit import submit_run
from pipeline.store.artifact import BUILD_COUNT_FILE
from tests.pipeline.runs import test_submit
from tests.pipeline.runs.test_submit import RECIPE, console, finish, resumed, submitted
from tests.pipeline.runs.toy_runs import ToyLauncher, toy_attempt, toy_directory, toy_start

place = test_submit.place


def page_of(directory: RunDirectory) -> str:
    out = console()
    show_run(directory, out, live=False, as_json=False)
    return out.export_text()


def lineage_of(directory: RunDirectory) -> str:
    out = console()
    show_lineage(find_subject(directory.id, store=directory.store), out)
    return out.export_text()


def list_of(store: Path) -> list[str]:
    out = console()
    list_runs(str(store), out)
    return out.export_text().splitlines()


def made(store: str = "store") -> RunDirectory:
    """A run that has made its corpus."""
    chosen = (f"store={store}",)
    loaded = read_recipe(Path("toy.yaml"), chosen)
    submit_run(loaded, "here.yaml", console(), run_id="mine", check_first=False, dry_run=False)
    directory = open_run(store, "mine")
    (start,) = directory.starts()
    make_attempt(directory, start, ClusterConfig.model_validate(start.cluster), console(), take_over=False)
    toy_attempt(directory, outcome="finished", ended=now())
    return directory


@pytest.fixture
def far(place, monkeypatch, tmp_path_factory):
    """A run of a store that is a URL, with a work directory of its own; seen from another directory."""
    (place / "here.yaml").write_text("executor: inline\nstorage: {work_dir: work}\n")
    url = f"file://{place}/remote"
    made(url)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    return url


def test_a_run_is_shown_without_its_sources_and_nothing_is_written(place, monkeypatch, tmp_path_factory):
    directory = made()
    (directory.path / "recipe.yaml").unlink()
    (place / "words.jsonl").unlink()
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    before = sorted(place.rglob("*"))
    assert "corpus  done: 30 documents" in page_of(directory)
    assert "step corpus" in lineage_of(directory)
    assert sorted(place.rglob("*")) == before


def test_sources_that_changed_do_not_change_what_was_made(place):
    directory = made()
    test_submit.write_words(place, 31)
    assert "corpus  done: 30 documents" in page_of(directory)


def test_a_run_that_was_never_started_has_no_steps_yet(place):
    directory = toy_directory(place / "store")
    assert "not started" in page_of(directory) and lineage_of(directory) == ""


def test_records_that_cannot_be_read_hide_no_other_run(place):
    for run_id in ("first", "second", "third", "fourth"):
        toy_start(toy_directory(place / "store", run_id))
    runs = place / "store" / "runs"
    (runs / "first" / "run.json").write_text("{}")
    (runs / "second" / "starts" / "0002.json").write_text("not JSON")
    toy_attempt(open_run(str(place / "store"), "third"))
    (runs / "third" / "attempts" / "0001.json").write_text("[]")
    (runs / "bad id").mkdir()
    shutil.copy(runs / "fourth" / "run.json", runs / "bad id")
    lines = list_of(place / "store")[1:]
    assert [line.split()[:2] for line in lines] == [
        ["first", "unreadable"],
        ["fourth", "not"],
        ["second", "unreadable"],
        ["third", "unreadable"],
    ]
    assert "starts/0002.json is not a record" in lines[2]


def test_a_file_that_is_no_record_is_not_read_as_one(place):
    directory = toy_directory(place / "store")
    toy_start(directory)
    (directory.path / "starts" / "notes.json").write_text("mine")
    assert [start.number for start in directory.starts()] == [1]


def test_a_cluster_file_of_another_version_is_a_sentence(place):
    directory = toy_directory(place / "store")
    start = toy_start(directory, cluster={"launcher": {"kind": "pigeon"}}, handle="7")
    assert read_status(directory).word == "unknown"
    assert "cluster file of start 1" in read_status(directory).detail
    toy_attempt(directory, outcome="bug", reason="ours", start=start.number)
    assert read_status(directory).word == "failed"


def test_a_launcher_that_cannot_be_asked_is_no_failure(place):
    directory, _ = submitted("mine")
    ToyLauncher.seen = DriverStatus("unknown", "the controller does not answer")
    assert read_status(directory).word == "unknown"
    assert "the controller does not answer" in list_of(place / "store")[1]


@pytest.mark.parametrize(("kind", "num_asked"), [("slurm", 2), ("local", 60)])
def test_what_looks_again_and_again_asks_a_schedulers_controller_every_thirty_seconds(
    place, monkeypatch, kind, num_asked
):
    directory, _ = submitted("mine")
    (start,) = directory.starts()
    again = start.model_copy(update={"number": 2, "handle": kind, "cluster": {"launcher": {"kind": kind}}})
    assert directory.add_start(again)
    now, asked = 1000.0, []
    monkeypatch.setitem(LAUNCHERS, kind, "tests.pipeline.runs.toy_runs.ToyLauncher")
    monkeypatch.setattr(ToyLauncher, "status", lambda self, handle: asked.append(now) or DriverStatus("running", ""))
    monkeypatch.setattr("pipeline.runs.state.time.monotonic", lambda: now)
    for _ in range(60):
        assert read_status(directory, launcher_seconds=LAUNCHER_SECONDS).word == "starting"
        now += 1.0
    assert len(asked) == num_asked
    read_status(directory)  # who asks once is told what is true now
    assert len(asked) == num_asked + 1


def test_logs_are_followed_while_the_launcher_is_silent(place, monkeypatch):
    directory, _ = submitted("mine")
    ToyLauncher.seen = DriverStatus("unknown", "")
    directory.log_path(1).parent.mkdir(parents=True, exist_ok=True)
    directory.log_path(1).write_text("one\n")

    def more(seconds: float) -> None:
        directory.log_path(1).write_text("one\ntwo\n")
        finish(directory)

    monkeypatch.setattr("pipeline.runs.logs.time.sleep", more)
    assert "".join(read_logs(directory, follow=True)) == "one\ntwo\n"


def test_a_run_whose_output_was_deleted_is_made_again(place):
    directory = made()
    ToyLauncher.seen = DriverStatus("ended", "")
    assert read_status(directory).word == "finished"
    (artifact,) = directory.starts()[0].artifacts.values()
    shutil.rmtree(directory.home / artifact)
    state = read_status(directory)
    assert (state.word, state.detail) == (
        "failed",
        f"finished before, but {artifact} is no longer in the store; resume makes it again",
    )
    with pytest.raises(UserError, match=f"{artifact} of step 'corpus' .* not made yet, or no longer in the store"):
        lineage_of(directory)
    assert "start 2" in resumed(directory)


@pytest.mark.parametrize("run_id", ["a" * 101, "a" * 300])
def test_an_id_that_is_too_long_is_refused(place, run_id):
    with pytest.raises(UserError, match="no more than 100"):
        open_run("store", run_id)


def test_a_store_with_a_password_is_refused_and_not_repeated(place):
    for ask in (run_ids, lambda store: open_run(store, "mine")):
        with pytest.raises(UserError, match="must hold no user and password") as refused:
            ask("s3://me:hunter2@bucket/x")
        assert "hunter2" not in str(refused.value)


def test_a_relative_store_is_one_place_wherever_one_goes(place, monkeypatch, tmp_path_factory):
    toy_directory(place / "store", "mine")
    directory = RunDirectory("store", "mine", work_dir=".concord")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert directory.store == str(place / "store") and directory.run() is not None and directory.remote is None


def test_requests_of_before_are_dropped(place):
    directory = toy_directory(place / "store")
    directory.add_request("stop")
    directory.drop_requests(now() - timedelta(minutes=1))
    assert len(directory.requests()) == 1
    directory.drop_requests(now() + timedelta(minutes=1))
    assert directory.requests() == {}


def test_the_work_directory_is_that_of_the_last_start(place, far):
    directory = open_run(far, "mine")
    assert directory.home.parent == place / "work" and directory.remote is not None
    assert open_run(far, "mine", work_dir="here").home.parent == Path("here").absolute()


def test_a_run_that_goes_on_is_seen_from_elsewhere(place, far, monkeypatch):
    directory = open_run(far, "mine")
    toy_attempt(directory, 2)
    assert list_of(far)[1].split()[:2] == ["mine", "starting"], "its launcher runs it, though no driver holds it yet"
    monkeypatch.setattr(ToyLauncher, "seen", DriverStatus("ended", "killed"))
    assert list_of(far)[1].split()[:2] == ["mine", "lost"]
    with store_lease(directory.remote, directory.home, lease_name("mine"), what="run 'mine'"):
        assert read_status(open_run(far, "mine")).word == "running"
        assert list_of(far)[1].split()[:2] == ["mine", "running"]
        assert read_status(open_run(far, "mine", work_dir="here")).word == "running"


def test_what_is_only_in_the_store_is_done(place, far, monkeypatch):
    shutil.rmtree(place / "work")
    directory = open_run(far, "mine")
    assert "finished" in page_of(directory) and "corpus  done: 30 documents" in page_of(directory)
    assert "step corpus" in lineage_of(directory)
    monkeypatch.chdir(place)
    out = console()
    (place / "far.yaml").write_text(RECIPE.replace("store: store", f"store: {far}"))
    recipe = find_subject("far.yaml", store="store")
    assert isinstance(recipe, StepsSubject)
    show_steps(recipe, out, as_json=False)
    assert "corpus  done: 30 documents" in out.export_text()


def test_what_the_store_keeps_of_unfinished_work_was_begun(place, far, capsys):
    shutil.rmtree(place / "work")
    directory = open_run(far, "mine")
    (artifact,) = directory.starts()[0].artifacts.values()
    (place / "remote" / artifact / "record.json").unlink()
    (place / "remote" / ".unfinished" / artifact).mkdir(parents=True)
    (place / "remote" / ".unfinished" / artifact / BUILD_COUNT_FILE).write_text("1")
    show_run(directory, console(), live=False, as_json=True)
    assert json.loads(capsys.readouterr().out)["steps"]["corpus"]["state"] == "begun and stopped"
