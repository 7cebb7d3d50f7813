"""Runs of toy stages on stores behind URLs."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from cluster.host.files import sha256_of
from cluster.inline import InlineExecutor
from cluster.storage.objects import open_store
from configs.base import Artifact, InfrastructureError, LeaseLost, UserError
from configs.cluster import StorageConfig
from configs.pools import PoolConfig
from pipeline.runner import Runner
from pipeline.store.artifact import RECORD, commit, describe_files, read_record
from pipeline.store.lineage import render_lineage
from pipeline.store.remote import RemoteStore, local_path, open_remote_store
from tests.pipeline.toys import STAGES, Outcome, instead_of, planned, repeat


def run_on(url: str, work_dir: Path, stages=STAGES, plan=None, tell=None) -> Outcome:
    """One run of the toy recipe by a machine whose work directory is this."""
    outcome, remote = Outcome(), remote_of(url, work_dir, tell)

    def end(step, manifest, seconds):
        (outcome.reused if seconds is None else outcome.made).append(step.name)

    executor = InlineExecutor(PoolConfig())
    runner = Runner(
        plan or planned(stages=stages),
        stages,
        local_path(url, str(work_dir)),
        lambda pool: executor,
        sha256_of,
        on_end=end,
        remote=remote,
    )
    outcome.artifacts = runner.run()
    return outcome


def remote_of(url: str, work_dir: Path, tell=None) -> RemoteStore:
    remote = open_remote_store(url, StorageConfig(work_dir=str(work_dir), num_transfers=2))
    assert remote is not None
    return RemoteStore(remote.url, remote.store, remote.working_copy, 2, tell or print)


@pytest.fixture(params=["memory", "file", "s3"])
def url(request, tmp_path) -> str:
    made = {
        "memory": lambda: f"memory://{uuid4().hex}",
        "file": lambda: (tmp_path / "remote").as_uri(),
        "s3": lambda: f"{request.getfixturevalue('s3_bucket')}/a/store",
    }
    return made[request.param]()


def files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def text_of(artifact: Artifact) -> str:
    return (artifact.dir / artifact.manifest.path).read_text()


def test_a_run_leaves_in_the_store_what_it_made_and_nothing_else(url, tmp_path):
    outcome = run_on(url, tmp_path / "one")
    assert outcome.made == ["first", "other", "twice", "book"]
    store = open_store(url)
    expected = [
        f"{artifact.dir.name}/{file}"
        for artifact in outcome.artifacts.values()
        for file in [*read_record(artifact.dir).files, RECORD]
    ]
    assert store.list_names() == sorted(expected)


def test_another_machine_fetches_what_it_needs_and_no_more(url, tmp_path):
    first = run_on(url, tmp_path / "one")
    again = run_on(url, tmp_path / "two")
    assert (again.made, again.reused) == ([], ["book"])
    here, there = (outcome.artifacts["book"].dir for outcome in (first, again))
    assert here != there
    assert [path.read_bytes() for path in files(here)] == [path.read_bytes() for path in files(there)]
    assert [path.name for path in there.parent.iterdir() if not path.name.startswith(".")] == [there.name]
    assert render_lineage(there) == render_lineage(here)


def test_what_another_machine_made_is_gone_on_from(tmp_path):
    url = f"memory://{uuid4().hex}"
    with pytest.raises(UserError, match="enough"):
        run_on(url, tmp_path / "one", stages=failing_at("repeat"))
    again = run_on(url, tmp_path / "two")
    assert (again.made, again.reused) == (["twice", "book"], ["first", "other"])
    assert text_of(again.artifacts["book"]) == "a book\none one \ntwo "


def failing_at(name: str):
    def fail(config, *, text, out, executor):
        raise UserError("enough")

    return instead_of(name, fail)


def test_what_was_finished_but_not_sent_is_sent_by_the_next_run(tmp_path):
    url = f"memory://{uuid4().hex}"
    book = run_on(url, tmp_path / "one").artifacts["book"].dir
    store = open_store(url)
    store.delete(f"{book.name}/{RECORD}")
    store.delete(f"{book.name}/pages/page.txt")
    assert run_on(url, tmp_path / "one").made == []
    assert store.list_names(f"{book.name}/") == [f"{book.name}/pages/page.txt", f"{book.name}/{RECORD}"]


def test_without_its_record_an_artifact_is_none(url, tmp_path):
    book = run_on(url, tmp_path / "one").artifacts["book"].dir.name
    open_store(url).delete(f"{book}/{RECORD}")
    again = run_on(url, tmp_path / "two")
    assert (again.made, again.reused) == (["book"], ["twice", "other"])


def test_a_damaged_artifact_is_not_used_and_the_sentence_says_what_to_do(tmp_path):
    url = f"memory://{uuid4().hex}"
    book = run_on(url, tmp_path / "one").artifacts["book"].dir.name
    store = open_store(url)
    page = store.read(f"{book}/pages/page.txt")
    store.write(f"{book}/pages/page.txt", page[:-1] + b"!")
    with pytest.raises(UserError, match=r"pages/page\.txt is damaged.* delete memory://\w+/bind-\w+"):
        run_on(url, tmp_path / "two")
    assert not (local_path(url, str(tmp_path / "two")) / book / RECORD).exists()
    for name in store.list_names(f"{book}/"):
        store.delete(name)
    assert run_on(url, tmp_path / "two").made == ["book"]


def test_a_full_disk_while_fetching_is_one_sentence(tmp_path):
    url = f"memory://{uuid4().hex}"
    book = run_on(url, tmp_path / "one").artifacts["book"].dir.name
    staging = local_path(url, str(tmp_path / "two")) / ".fetching" / book / "pages"
    staging.mkdir(parents=True)
    (staging / ".page.txt.partial").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"^step 'book': the disk is full.* storage\.work_dir ") as caught:
        run_on(url, tmp_path / "two")
    assert "\n" not in str(caught.value)


def test_a_record_that_names_files_outside_is_refused(tmp_path):
    url = f"memory://{uuid4().hex}"
    book = run_on(url, tmp_path / "one").artifacts["book"].dir.name
    store = open_store(url)
    record = json.loads(store.read(f"{book}/{RECORD}"))
    record["files"]["../../../../out.txt"] = record["files"]["pages/page.txt"]
    store.write(f"{book}/{RECORD}", json.dumps(record).encode())
    with pytest.raises(UserError, match=rf"{url}/{book}/record\.json names .*not inside it.* delete {url}/{book} "):
        run_on(url, tmp_path / "two")
    assert not list(tmp_path.rglob("out.txt"))


def test_a_record_may_name_no_ancestor_outside_the_store(tmp_path):
    url = f"memory://{uuid4().hex}"
    path = run_on(url, tmp_path / "one").artifacts["book"].dir / RECORD
    record = json.loads(path.read_text())
    record["inputs"]["left"]["artifact"] = "../elsewhere"
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match="not a record this version of Concord can read"):
        read_record(path.parent)


def test_of_two_who_make_one_artifact_at_once_the_first_stands_and_the_second_stops(tmp_path):
    url = f"memory://{uuid4().hex}"
    one, two = pair(url, tmp_path)
    one.publish("repeat-1")
    before = {name: open_store(url).read(name) for name in open_store(url).list_names()}
    two.publish("repeat-1")
    assert {name: open_store(url).read(name) for name in open_store(url).list_names()} == before


def test_whose_files_were_written_over_anothers_makes_the_artifact_whole_again(tmp_path, monkeypatch):
    """The first commits between the second's last look and the end of the second's sending."""
    url = f"memory://{uuid4().hex}"
    one, two = pair(url, tmp_path)
    send, sent = two.store.upload, []

    def late(name, file):
        if name.endswith("text.txt") and not sent:
            sent.append(name)
            one.publish("repeat-1")
        send(name, file)

    monkeypatch.setattr(two.store, "upload", late)
    two.publish("repeat-1")
    third = remote_of(url, tmp_path / "three")
    assert third.fetch("repeat-1")
    assert (third.working_copy / "repeat-1" / "text.txt").read_text() == "by two"


def test_who_finds_anothers_record_sends_no_further_file(tmp_path, monkeypatch):
    url = f"memory://{uuid4().hex}"
    one, two = pair(url, tmp_path)
    send, sent = two.store.upload, []

    def overtaken(name, file):
        sent.append(name)
        one.publish("repeat-1")
        send(name, file)

    monkeypatch.setattr(two.store, "upload", overtaken)
    replace(two, num_transfers=1).publish("repeat-1")
    assert sent == ["repeat-1/same.txt"]
    assert open_store(url).read("repeat-1/text.txt") == b"by one"


def pair(url: str, tmp_path: Path) -> list[RemoteStore]:
    """Two machines that have both made an artifact, with other bytes."""
    made = run_on(f"memory://{uuid4().hex}", tmp_path / "pattern").artifacts["twice"].dir
    remotes = []
    for name in ("one", "two"):
        remote = remote_of(url, tmp_path / name)
        home = remote.working_copy / "repeat-1"
        shutil.copytree(made, home)
        (home / "text.txt").write_text(f"by {name}")
        (home / "same.txt").write_text("by both")
        record = read_record(home)
        commit(home, record.model_copy(update={"files": describe_files(home), "host": name}))
        remotes.append(remote)
    return remotes


def test_what_is_finished_waits_for_a_store_that_is_away(tmp_path, monkeypatch):
    monkeypatch.setattr("cluster.storage.errors.SECONDS_BETWEEN_CALLS", 0)
    url, told = f"memory://{uuid4().hex}", []
    (one, _), away = pair(url, tmp_path), [InfrastructureError("away"), InfrastructureError("away")]
    send = one.store.upload

    def failing(name, file):
        if away:
            raise away.pop()
        send(name, file)

    monkeypatch.setattr(one.store, "upload", failing)
    replace(one, notify=told.append).publish("repeat-1")
    assert one.has("repeat-1")
    assert told == ["away; tried again for 10 minutes"]


def test_who_lost_the_lease_publishes_nothing(tmp_path):
    url = f"memory://{uuid4().hex}"
    one, _ = pair(url, tmp_path)

    def lost() -> None:
        raise LeaseLost("taken over")

    with pytest.raises(LeaseLost):
        one.publish("repeat-1", check=lost)
    assert not one.has("repeat-1")


def test_a_store_that_cannot_be_written_ends_the_run_before_it_begins(s3_environment, tmp_path):
    with pytest.raises(UserError, match=r"^s3://no-such-bucket/\.probe-\w+: there is no such bucket"):
        run_on("s3://no-such-bucket", tmp_path)


def test_checkpoints_of_a_training_outlive_the_disk_they_were_made_on(url, tmp_path):
    """A stage that saves a checkpoint in each attempt and fails twice, each time on another machine."""
    told: list[str] = []

    def train(config, *, text, out, executor):
        before = sorted(path.name for path in out.glob("checkpoints/step-*"))
        step = len(before) + 1
        unit = out / "checkpoints" / f"step-{step:08d}"
        unit.mkdir(parents=True)
        (unit / "rank.bin").write_text(f"{step}")
        (unit / "checkpoint.json").write_text(json.dumps({"step": step}))
        with (out / "metrics.jsonl").open("a") as file:
            file.write(f"{step}\n")
        if step < 3:
            raise InfrastructureError("the machine fails")
        return repeat(config, text=text, out=out, executor=executor)

    stages = instead_of("repeat", train)
    for machine in ("one", "two"):
        with pytest.raises(InfrastructureError):
            run_on(url, tmp_path / machine, stages, tell=told.append)
        shutil.rmtree(tmp_path / machine)
    outcome = run_on(url, tmp_path / "three", stages, tell=told.append)
    twice = outcome.artifacts["twice"].dir
    assert (twice / "metrics.jsonl").read_text() == "1\n2\n3\n"
    assert [path.read_text() for path in sorted(twice.glob("checkpoints/*/rank.bin"))] == ["1", "2", "3"]
    assert read_record(twice).attempts == 3
    assert not open_store(url).list_names(".unfinished/")
    assert told == [f"going on from step-{step:08d}, which {url} has kept" for step in (1, 2)]


def test_what_is_here_and_further_is_gone_on_from(tmp_path):
    url = f"memory://{uuid4().hex}"
    remote = remote_of(url, tmp_path / "one", tell=lambda text: None)

    def unit(step: int) -> None:
        path = remote.working_copy / "train-1" / "checkpoints" / f"step-{step:08d}"
        path.mkdir(parents=True)
        (path / "checkpoint.json").write_text(str(step))

    def here() -> list[str]:
        return sorted(path.name[-1] for path in remote.working_copy.glob("train-1/checkpoints/step-*"))

    def rollback(count: int) -> None:
        line = {"at_step": 2, "to_step": 1, "skipped": [0, 1], "reason": "x", "time": 0}
        (remote.working_copy / "train-1" / "rollbacks.jsonl").write_text(f"{json.dumps(line)}\n" * count)

    unit(1), unit(2)
    with pytest.raises(UserError), remote.mirrored("train-1", check=lambda: None):
        raise UserError("stopped")
    unit(3)
    shutil.rmtree(remote.working_copy / "train-1/checkpoints/step-00000001")
    remote.recover("train-1")
    assert here() == ["2", "3"]
    for step in (2, 3):
        shutil.rmtree(remote.working_copy / f"train-1/checkpoints/step-{step:08d}")
    unit(1)
    rollback(1)
    remote.recover("train-1")
    assert here() == ["1"]
    rollback(0)
    remote.recover("train-1")
    assert here() == ["1", "2"]


@pytest.mark.parametrize("store", ["s3://bucket/some/prefix", "gs://b", "memory://x y/ü", "file:///data/../x"])
def test_the_place_of_a_store_in_the_work_directory_is_a_plain_name(store, tmp_path):
    home = local_path(store, str(tmp_path))
    assert home.parent == tmp_path
    assert all(letter.isascii() and (letter.isalnum() or letter in ".-") for letter in home.name)
    assert home != local_path(f"{store}/y", str(tmp_path))


def test_a_store_that_is_a_directory_is_its_own_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert local_path("store", "work") == tmp_path / "store"
    assert open_remote_store("store", StorageConfig()) is None
