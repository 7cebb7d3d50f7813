import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from cluster.executor import Executor
from cluster.leases.fence import LEASES, fence_of
from cluster.leases.lease import SILENT_AFTER_SECONDS, holder, lease
from configs.base import Artifact, LeaseLost, UserError
from pipeline.store.artifact import RECORD
from tests.pipeline.toys import Repeat, Text, instead_of, planned, repeat, run

STEP = "step 'model'"
ROOT = Path(__file__).parents[3]
ARTIFACT = "train-0123456789ab"
HOLD = """
import sys
from pathlib import Path
from cluster.leases.lease import lease
with lease(Path(sys.argv[1]), sys.argv[2], what="step 'model'"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_holder(store: Path, artifact: str = ARTIFACT):
    """A process that holds the lease until its standard input is closed or it is killed."""
    command = [sys.executable, "-c", HOLD, str(store), artifact]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_second_process_is_refused_and_told_who_holds_it(tmp_path):
    with another_holder(tmp_path) as process:
        with pytest.raises(UserError) as caught, lease(tmp_path, ARTIFACT, what=STEP):
            pass
        message = str(caught.value)
        assert message.startswith(f"step 'model' is being made by process {process.pid} on {socket.gethostname()} ")
        assert "\n" not in message


def test_a_refused_process_leaves_the_holder_and_its_name_alone(tmp_path):
    with another_holder(tmp_path) as process:
        for _ in range(2):
            with pytest.raises(UserError, match=f"process {process.pid} "), lease(tmp_path, ARTIFACT, what=STEP):
                pass
        assert f"process {process.pid} on" in holder(tmp_path, ARTIFACT)


def test_the_lease_of_a_killed_process_is_taken_over(tmp_path):
    with another_holder(tmp_path) as process:
        process.kill()
        process.wait()
        assert holder(tmp_path, ARTIFACT) is None
        with lease(tmp_path, ARTIFACT, what=STEP):
            assert f"process {os.getpid()} on" in holder(tmp_path, ARTIFACT)


def test_a_lease_ends_with_its_block_also_when_that_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), lease(tmp_path, ARTIFACT, what=STEP):
        raise ZeroDivisionError
    assert holder(tmp_path, ARTIFACT) is None
    with another_holder(tmp_path) as process:
        assert f"process {process.pid} on" in holder(tmp_path, ARTIFACT)
        process.stdin.close()
        process.wait()
        assert holder(tmp_path, ARTIFACT) is None


def test_leases_of_other_artifacts_are_free(tmp_path):
    with another_holder(tmp_path), lease(tmp_path, "train-ba9876543210", what=STEP):
        assert holder(tmp_path, "train-000000000000") is None


@contextmanager
def forked_child():
    """A copy of this process, open files and all, which does nothing until the block ends."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    try:
        yield
    finally:
        os.close(write)
        os.close(read)
        os.waitpid(pid, 0)


def test_a_child_process_does_not_keep_the_lease_that_its_parent_gave_up(tmp_path):
    with ExitStack() as children:
        with lease(tmp_path, ARTIFACT, what=STEP):
            children.enter_context(forked_child())
        assert holder(tmp_path, ARTIFACT) is None
        with lease(tmp_path, ARTIFACT, what=STEP):
            pass


@pytest.mark.parametrize("store", ["none", "file", "file/below"])
def test_nobody_holds_anything_in_a_store_that_is_none(tmp_path, store):
    (tmp_path / "file").write_text("")
    assert holder(tmp_path / store, ARTIFACT) is None


def test_asking_who_holds_it_makes_no_file(tmp_path):
    holder(tmp_path, ARTIFACT)
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_refused_while_another_makes_the_step_and_goes_on_after_it(tmp_path):
    artifact = planned().steps["twice"].artifact
    with another_holder(tmp_path, artifact) as process:
        with pytest.raises(UserError, match=f"^step 'twice' is being made by process {process.pid} "):
            run(tmp_path)
        assert not (tmp_path / artifact).exists()
        process.kill()
        process.wait()
        assert run(tmp_path).made == ["twice", "book"]


def age(store: Path, seconds: float) -> None:
    """Have the last beat of the holder lie so far back."""
    path = store / LEASES / ARTIFACT
    past = path.stat().st_mtime - seconds
    os.utime(path, (past, past))


def test_a_holder_that_is_silent_for_long_is_passed_over_and_fenced_off(tmp_path):
    with lease(tmp_path, ARTIFACT, what=STEP) as mine:
        mine.check()
        age(tmp_path, SILENT_AFTER_SECONDS + 1)
        with lease(tmp_path, ARTIFACT, what=STEP) as theirs:
            theirs.check()
            with pytest.raises(LeaseLost, match=f"process {os.getpid()} on .*, who took it over"):
                mine.check()
            with pytest.raises(UserError, match="is being made by"), lease(tmp_path, ARTIFACT, what=STEP):
                pass
        with pytest.raises(LeaseLost):
            mine.check()


def test_a_holder_that_is_silent_for_a_moment_keeps_its_lease(tmp_path):
    with lease(tmp_path, ARTIFACT, what=STEP) as mine:
        age(tmp_path, SILENT_AFTER_SECONDS / 2)
        with pytest.raises(UserError, match="is being made by"), lease(tmp_path, ARTIFACT, what=STEP):
            pass
        mine.check()


def test_a_live_holder_is_passed_over_when_that_is_asked_for(tmp_path):
    with another_holder(tmp_path), lease(tmp_path, ARTIFACT, what=STEP, take_over=True) as mine:
        mine.check()
        assert f"process {os.getpid()} on" in holder(tmp_path, ARTIFACT)
    with pytest.raises(LeaseLost):
        mine.check()


def test_the_old_holders_end_leaves_the_new_one_its_lease(tmp_path):
    with ExitStack() as old:
        old.enter_context(lease(tmp_path, ARTIFACT, what=STEP))
        with lease(tmp_path, ARTIFACT, what=STEP, take_over=True) as mine:
            old.close()
            mine.check()
            assert holder(tmp_path, ARTIFACT) is not None


def test_a_holder_beats(tmp_path, monkeypatch):
    monkeypatch.setattr("cluster.leases.lease.HEARTBEAT_SECONDS", 0.01)
    path = tmp_path / LEASES / ARTIFACT
    with lease(tmp_path, ARTIFACT, what=STEP):
        age(tmp_path, 1000)
        before = path.stat().st_mtime
        deadline = time.monotonic() + 30
        while path.stat().st_mtime == before:
            assert time.monotonic() < deadline


def test_a_lease_leaves_no_other_files(tmp_path):
    with lease(tmp_path, ARTIFACT, what=STEP), suppress(UserError), lease(tmp_path, ARTIFACT, what=STEP):
        pass
    with lease(tmp_path, ARTIFACT, what=STEP, take_over=True):
        pass
    assert [path.name for path in (tmp_path / LEASES).iterdir()] == [ARTIFACT]


def test_the_fence_of_an_artifact_follows_its_lease(tmp_path):
    free = fence_of(tmp_path / ARTIFACT)
    free.check()
    with lease(tmp_path, ARTIFACT, what=STEP) as mine:
        assert fence_of(tmp_path / ARTIFACT) == mine
        with pytest.raises(LeaseLost):
            free.check()
    free.check()


def repeat_and_lose(config: Repeat, *, text: Artifact[Text], out: Path, executor: Executor) -> Text:
    with lease(out.parent, out.name, what="step 'twice'", take_over=True):
        pass
    return repeat(config, text=text, out=out, executor=executor)


def test_a_run_that_was_taken_over_commits_nothing(tmp_path):
    with pytest.raises(LeaseLost):
        run(tmp_path, stages=instead_of("repeat", repeat_and_lose))
    artifact = tmp_path / planned().steps["twice"].artifact
    assert (artifact / "text.txt").exists()
    assert not (artifact / RECORD).exists()
