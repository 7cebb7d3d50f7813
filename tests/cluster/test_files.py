import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.files import whole_file, write_text

ROOT = Path(__file__).parents[2]
HALF = """
import sys
from pathlib import Path
from cluster.files import whole_file
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
