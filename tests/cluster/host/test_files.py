import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.host.files import inside, is_partial, whole_file, write_text
from configs.base import UserError

ROOT = Path(__file__).parents[3]
HALF = """
import sys
from pathlib import Path
from cluster.host.files import whole_file
with whole_file(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    print("half", flush=True)
    sys.stdin.read()
"""


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "folder" / "data.bin"
    with whole_file(path) as partial:
        partial.write_bytes(b"a" * 100_000)
        assert not path.exists()
    assert path.read_bytes() == b"a" * 100_000
    assert names(path.parent) == ["data.bin"]


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "data.txt"
    path.write_text("old")
    with whole_file(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
@pytest.mark.parametrize("begun", [True, False])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error, begun):
    path = tmp_path / "data.txt"
    path.write_text("old")
    with pytest.raises(error), whole_file(path) as partial:
        if begun:
            partial.write_text("new")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["data.txt"]


def test_a_block_that_writes_nothing_is_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "data.txt"):
        pass
    assert names(tmp_path) == []


def test_two_writers_do_not_disturb_each_other_and_the_last_one_wins(tmp_path):
    path = tmp_path / "data.txt"
    with whole_file(path) as slow:
        slow.write_text("slow")
        with whole_file(path) as fast:
            fast.write_text("fast")
        assert path.read_text() == "fast"
        assert slow.read_text() == "slow"
    assert path.read_text() == "slow"
    assert names(tmp_path) == ["data.txt"]


def test_a_killed_writer_leaves_no_file_that_looks_whole(tmp_path):
    path = tmp_path / "data.txt"
    command = [sys.executable, "-c", HALF, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "half\n"
        os.kill(process.pid, signal.SIGKILL)
    assert not path.exists()
    assert [name for name in names(tmp_path) if not name.startswith(".")] == []
    write_text(path, "whole")
    assert path.read_text() == "whole"


def test_text_is_written_as_utf_8(tmp_path):
    write_text(tmp_path / "a.txt", "žluťoučký kůň 語\n")
    assert (tmp_path / "a.txt").read_bytes() == "žluťoučký kůň 語\n".encode()


def test_the_first_of_two_writers_wins_where_nothing_may_be_replaced(tmp_path):
    path = tmp_path / "data.txt"
    with whole_file(path, replace=False) as partial:
        partial.write_text("first")
    with pytest.raises(FileExistsError), whole_file(path, replace=False) as partial:
        partial.write_text("second")
    assert path.read_text() == "first"
    assert names(tmp_path) == ["data.txt"]


def test_a_file_that_is_not_finished_is_known_by_its_name(tmp_path):
    with whole_file(tmp_path / "data.txt") as partial:
        partial.touch()
        assert is_partial(partial.name)
    assert not any(map(is_partial, ["data.txt", ".attempts", "data.partial"]))


@pytest.mark.parametrize("relative", ["a.txt", "deep/er/a.txt", "a..b", "dots/...", "to-inside/a.txt"])
def test_a_path_inside_a_directory_is_given(tmp_path, relative):
    (tmp_path / "deep").mkdir()
    (tmp_path / "to-inside").symlink_to(tmp_path / "deep")
    assert inside(tmp_path, relative) == tmp_path / relative


@pytest.mark.parametrize("relative", ["../a", "a/../../b", "a/..", "/etc/passwd", "", ".", "to-outside/a", "a\0b"])
def test_a_path_that_leaves_its_directory_is_refused(tmp_path, relative):
    directory = tmp_path / "artifact"
    directory.mkdir()
    (directory / "to-outside").symlink_to(tmp_path)
    with pytest.raises(UserError, match="is not inside it") as caught:
        inside(directory, relative)
    assert "\n" not in str(caught.value)
