import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.executor import Executor
from cluster.host.files import FileEntry, sha256_of
from configs.base import Artifact, ConfigError, InfrastructureError, UserError
from pipeline.graph.stage import stage
from pipeline.store.artifact import RECORD, read_record
from tests.pipeline.toys import (
    STAGES,
    Bind,
    Repeat,
    Text,
    ToyStep,
    Write,
    instead_of,
    planned,
    recipe,
    repeat,
    run,
    write,
)


def artifacts(store) -> list[str]:
    return sorted(path.parent.name.split("-")[0] for path in store.glob(f"*/{RECORD}"))


def failing(error: Exception, text: str | None = None):
    """The stage `repeat`, dying of `error` after it has perhaps written half of its work."""

    def half(config, *, text, out, executor):
        (out / "half.txt").write_text("half")
        raise error

    return instead_of("repeat", half)


def test_every_step_is_made_after_its_inputs_and_from_them(tmp_path):
    outcome = run(tmp_path)
    assert outcome.made == ["first", "other", "twice", "book"]
    book = outcome.artifacts["book"]
    assert (book.dir / book.manifest.path).read_text() == "a book\none one \ntwo "


def test_a_second_run_reuses_and_changes_nothing(tmp_path):
    first = run(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in first.artifacts["book"].dir.rglob("*")}
    again = run(tmp_path)
    assert (again.made, again.reused) == ([], ["book"])
    assert again.artifacts["book"] == first.artifacts["book"]
    assert {path: path.stat().st_mtime_ns for path in first.artifacts["book"].dir.rglob("*")} == before


def test_a_change_makes_only_what_depends_on_it(tmp_path):
    run(tmp_path)
    changed = planned(recipe(twice=ToyStep("repeat", Repeat(times=3), {"text": "first"})))
    outcome = run(tmp_path, changed)
    assert outcome.made == ["twice", "book"]
    assert outcome.reused == ["first", "other"]


def test_a_change_taken_back_finds_the_earlier_work(tmp_path):
    run(tmp_path)
    run(tmp_path, planned(recipe(book=ToyStep("bind", Bind(title="x"), {"left": "twice", "right": "other"}))))
    assert run(tmp_path).made == []


def test_another_pool_reuses(tmp_path):
    run(tmp_path)
    moved = planned(recipe(first=ToyStep("write", Write(text="one "), pool="big")))
    assert run(tmp_path, moved).made == []


def test_cadence_reaches_the_stage_and_changing_it_makes_nothing_anew(tmp_path):
    seen = []

    def paced(config: Write, *, cadence: Repeat, out: Path, executor: Executor) -> Text:
        seen.append(cadence)
        return write(config, out=out, executor=executor)

    def with_cadence(times: int):
        return planned(recipe(first=ToyStep("write", Write(text="one "), cadence=Repeat(times=times))))

    stages = STAGES | {"write": stage(paced, version=1)}
    run(tmp_path, with_cadence(7), stages=stages)
    assert seen[0] == Repeat(times=7)
    assert run(tmp_path, with_cadence(8), stages=stages).made == []


def test_a_wanted_artifact_that_exists_needs_nothing_below_it(tmp_path):
    first = run(tmp_path)
    for name in ("first", "other", "twice"):
        shutil.rmtree(first.artifacts[name].dir)
    outcome = run(tmp_path)
    assert (outcome.made, outcome.reused) == ([], ["book"])


def test_only_what_the_wanted_outputs_need_is_made(tmp_path):
    outcome = run(tmp_path, planned(recipe(extra=ToyStep("write", Write(text="x")))))
    assert "extra" in outcome.made
    wanted = planned(recipe(other=ToyStep("write", Write(text="new"))))
    assert run(tmp_path, type(wanted)(wanted.steps, ("twice",))).made == []


def test_two_steps_of_one_identity_are_made_once(tmp_path):
    outcome = run(tmp_path, planned(recipe(other=ToyStep("write", Write(text="one ")))))
    assert (outcome.made, outcome.reused) == (["first", "twice", "book"], ["other"])


def test_an_unfinished_directory_is_gone_on_with(tmp_path):
    path = run(tmp_path).artifacts["twice"].dir
    (path / RECORD).unlink()
    shutil.rmtree(tmp_path / planned().steps["book"].artifact)
    (path / "shard-0.txt").write_text("done before")
    seen = []

    def resume(config, *, text, out, executor):
        seen.append((out / "shard-0.txt").read_text())
        return repeat(config, text=text, out=out, executor=executor)

    outcome = run(tmp_path, stages=instead_of("repeat", resume))
    assert outcome.made == ["twice", "book"]
    assert seen == ["done before"]
    assert outcome.artifacts["twice"].dir == path


def test_attempts_are_counted_over_failures(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            run(tmp_path, stages=failing(ZeroDivisionError()))
    record = json.loads((run(tmp_path).artifacts["twice"].dir / RECORD).read_text(encoding="utf-8"))
    assert record["attempts"] == 3


def test_a_failure_names_the_step_and_keeps_what_was_finished(tmp_path):
    with pytest.raises(UserError) as caught:
        run(tmp_path, stages=failing(UserError("the text is too dull; write another")))
    assert str(caught.value) == "step 'twice': the text is too dull; write another"
    assert artifacts(tmp_path) == ["write", "write"]
    assert (tmp_path / planned().steps["twice"].artifact / "half.txt").exists()
    assert run(tmp_path).made == ["twice", "book"]


def test_a_config_error_of_a_stage_stays_one(tmp_path):
    with pytest.raises(ConfigError, match=r"^step 'twice': the pool is too big$"):
        run(tmp_path, stages=failing(ConfigError("the pool is too big")))


def test_a_bug_in_a_stage_is_not_dressed_up(tmp_path):
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, stages=failing(ZeroDivisionError("ours")))
    assert artifacts(tmp_path) == ["write", "write"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EACCES, "no permission"),
        (errno.EROFS, "no permission"),
        (errno.EIO, "the system refused"),
    ],
)
def test_a_refusal_of_the_system_is_one_sentence(tmp_path, number, words):
    with pytest.raises(UserError) as caught:
        run(tmp_path, stages=failing(OSError(number, os.strerror(number), "/data/shard.bin")))
    message = str(caught.value)
    assert message.startswith(f"step 'twice': {words} (/data/shard.bin)")
    assert isinstance(caught.value, InfrastructureError) == (number == errno.EIO)  # which may pass, and is retried
    assert "\n" not in message
    assert artifacts(tmp_path) == ["write", "write"]


def test_a_stage_may_not_hand_over_files_it_did_not_finish(tmp_path):
    """A stage whose last act fails leaves no record, however much it wrote."""

    def late(config, *, text, out, executor):
        repeat(config, text=text, out=out, executor=executor)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stages=instead_of("repeat", late))
    assert artifacts(tmp_path) == ["write", "write"]


@pytest.mark.parametrize("below", ["store", "store/deeper/still"])
def test_a_store_that_cannot_be_written_is_one_sentence(tmp_path, below):
    (tmp_path / "store").write_text("a file")
    with pytest.raises(UserError) as caught:
        run(tmp_path / below)
    assert str(caught.value).startswith(f"the store {tmp_path / below} cannot be written (")
    assert "--set store=" in str(caught.value)


def test_a_lock_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / ".leases").write_text("a file where a directory should be")
    with pytest.raises(UserError, match=r"^step 'first': .*\.leases"):
        run(tmp_path)


def test_a_damaged_record_stops_the_run_in_one_sentence(tmp_path):
    (run(tmp_path).artifacts["book"].dir / RECORD).write_text("{")
    with pytest.raises(UserError, match=r"delete the directory to have it made again$"):
        run(tmp_path)


def test_a_new_version_of_a_manifest_is_not_read_by_guess(tmp_path):
    record = run(tmp_path).artifacts["book"].dir / RECORD
    tree = json.loads(record.read_text(encoding="utf-8"))
    record.write_text(json.dumps(tree | {"manifest": {"pages": 3}}))
    with pytest.raises(UserError, match="not a record this version of Concord can read"):
        run(tmp_path)


def test_no_hidden_file_of_the_runner_is_left_in_a_finished_artifact(tmp_path):
    for artifact in run(tmp_path).artifacts.values():
        assert isinstance(artifact.manifest, Text)
        assert [path.name for path in artifact.dir.iterdir() if path.name.startswith(".")] == []


def test_sources_that_change_while_they_are_read_make_no_artifact(tmp_path):
    source = tmp_path / "source.txt"
    source.write_text("before")

    def observe(config: Write, digest) -> str:
        return digest(source)

    def careless(config: Write, *, out: Path, executor: Executor) -> Text:
        source.write_text("after")
        return write(config, out=out, executor=executor)

    stages = STAGES | {"write": stage(careless, version=1, observe=observe, reads_to_the_end=True)}
    plan = planned(stages=stages, first=sha256_of(source), other=sha256_of(source))
    with pytest.raises(UserError, match="'first': the sources changed while they were read") as caught:
        run(tmp_path / "store", plan, stages)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "store").glob("write-*"))
    again = planned(stages=stages, first=sha256_of(source), other=sha256_of(source))
    assert run(tmp_path / "store", again, stages).made == ["first", "other", "twice", "book"]


def test_what_was_read_once_may_change_or_go_while_work_goes_on(tmp_path):
    """As the weights that a training of weeks began with."""
    source = tmp_path / "source.txt"
    source.write_text("before")
    died = False

    def observe(config: Write, digest) -> str:
        return digest(source)

    def long_work(config: Write, *, out: Path, executor: Executor) -> Text:
        nonlocal died
        source.unlink(missing_ok=True)
        if not died:
            died = True
            raise UserError("killed; run this again")
        return write(config, out=out, executor=executor)

    stages = STAGES | {"write": stage(long_work, version=1, observe=observe)}
    plan = planned(stages=stages, first=sha256_of(source), other=sha256_of(source))
    with pytest.raises(UserError, match="killed"):
        run(tmp_path / "store", plan, stages)
    made = run(tmp_path / "store", replace(plan, outputs=("first",)), stages).made
    assert made == ["first"]


def test_what_changed_before_it_was_read_makes_nothing(tmp_path):
    source = tmp_path / "source.txt"
    source.write_text("before")
    stages = STAGES | {"write": stage(write, version=1, observe=lambda config, digest: digest(source))}
    plan = planned(stages=stages, first=sha256_of(source), other=sha256_of(source))
    source.write_text("after")
    with pytest.raises(UserError, match="'first': what it reads has changed since this was planned; run this again"):
        run(tmp_path / "store", plan, stages)
    assert not list((tmp_path / "store").glob("write-*/record.json"))


def sign(
    config: Bind, *, left: Artifact[Text], right: Artifact[Text] | None = None, out: Path, executor: Executor
) -> Text:
    (out / "text.txt").write_text(config.title if right is None else (right.dir / right.manifest.path).read_text())
    return Text(path="text.txt")


def test_an_optional_input_may_be_left_out_and_is_then_no_part_of_the_identity(tmp_path):
    stages = STAGES | {"sign": stage(sign, version=1)}
    both = {"left": "first", "right": "other"}
    steps = {"signed": ToyStep("sign", Bind(), {"left": "first"}), "full": ToyStep("sign", Bind(), both)}
    made = run(tmp_path, stages=stages, plan=planned(recipe(**steps), stages)).artifacts
    texts = [(made[name].dir / "text.txt").read_text() for name in steps]
    assert texts == ["a book", "two "]
    assert made["signed"].dir != made["full"].dir


def test_files_whose_digests_a_stage_knows_are_not_read_again(tmp_path, monkeypatch):
    read: list[str] = []

    def digest(path: Path) -> str:
        read.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr("cluster.host.files.sha256_of", digest)
    entry = FileEntry(num_bytes=4, sha256="computed while it was written")
    stages = instead_of("repeat", write_known, file_digests=lambda out: {"known.txt": entry})
    twice = run(tmp_path, stages=stages).artifacts["twice"].dir
    record = read_record(twice)
    assert record is not None and record.files["known.txt"] == entry
    assert "known.txt" not in read and read.count("text.txt") >= 1


def test_a_file_that_is_not_as_it_was_written_is_not_committed(tmp_path):
    entry = FileEntry(num_bytes=5, sha256="computed while it was written")
    stages = instead_of("repeat", write_known, file_digests=lambda out: {"known.txt": entry})
    with pytest.raises(UserError, match=r"known\.txt has 4 bytes instead of the 5 that were written"):
        run(tmp_path, stages=stages)
    assert "repeat" not in artifacts(tmp_path)


def write_known(config: Repeat, *, text: Artifact[Text], out: Path, executor: Executor) -> Text:
    (out / "known.txt").write_text("four")
    (out / "text.txt").write_text("text")
    return Text(path="text.txt")


def test_what_a_killed_process_left_unfinished_is_no_part_of_the_artifact(tmp_path):
    """A process that is killed cannot delete the file that it was writing."""

    def leave(config, *, text, out, executor):
        (out / "pages").mkdir(exist_ok=True)
        for name in (".text.txt.0123abcd.partial", "pages/.page.0123abcd.partial", ".kept", "a.partial"):
            (out / name).write_text("x")
        return repeat(config, text=text, out=out, executor=executor)

    found = run(tmp_path, stages=instead_of("repeat", leave)).artifacts["book"].dir.parent
    left = {path.name for path in found.glob("repeat-*/**/*") if path.is_file()}
    assert {".kept", "a.partial", "text.txt"} <= left and not any(name.endswith("abcd.partial") for name in left)
