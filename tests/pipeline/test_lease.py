import os
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from configs.base import UserError
from pipeline.lease import holder, lease
from tests.pipeline.toys import planned, run

ROOT = Path(__file__).parents[2]
ARTIFACT = "train-0123456789ab"
HOLD = """
import sys
from pathlib import Path
from pipeline.lease import lease
with lease(Path(sys.argv[1]), sys.argv[2], step="model"):
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
        with pytest.raises(UserError) as caught, lease(tmp_path, ARTIFACT, step="model"):
            pass
        message = str(caught.value)
        assert message.startswith(f"step 'model' is being made by process {process.pid} on {socket.gethostname()} ")
        assert "\n" not in message


def test_a_refused_process_leaves_the_holder_and_its_name_alone(tmp_path):
    with another_holder(tmp_path) as process:
        for _ in range(2):
            with pytest.raises(UserError, match=f"process {process.pid} "), lease(tmp_path, ARTIFACT, step="model"):
                pass
        assert f"process {process.pid} on" in holder(tmp_path, ARTIFACT)


def test_the_lease_of_a_killed_process_is_taken_over(tmp_path):
    with another_holder(tmp_path) as process:
        process.kill()
        process.wait()
        assert holder(tmp_path, ARTIFACT) is None
        with lease(tmp_path, ARTIFACT, step="model"):
            assert f"process {os.getpid()} on" in holder(tmp_path, ARTIFACT)


def test_a_lease_ends_with_its_block_also_when_that_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), lease(tmp_path, ARTIFACT, step="model"):
        raise ZeroDivisionError
    assert holder(tmp_path, ARTIFACT) is None
    with another_holder(tmp_path) as process:
        assert f"process {process.pid} on" in holder(tmp_path, ARTIFACT)
        process.stdin.close()
        process.wait()
        assert holder(tmp_path, ARTIFACT) is None


def test_leases_of_other_artifacts_are_free(tmp_path):
    with another_holder(tmp_path), lease(tmp_path, "train-ba9876543210", step="model"):
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
        with lease(tmp_path, ARTIFACT, step="model"):
            children.enter_context(forked_child())
        assert holder(tmp_path, ARTIFACT) is None
        with lease(tmp_path, ARTIFACT, step="model"):
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
        assert run(tmp_path).made == ["twice", "other", "book"]
