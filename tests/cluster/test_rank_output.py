"""What ranks print goes to files, whatever prints it, and a full disk loses it alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.rank_output import MAX_BYTES, last_words, output_file, read_end


def in_process(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, whose descriptors may be changed."""
    program = f"import os, sys\nfrom pathlib import Path\nfrom cluster.rank_output import redirect_output\n{code}"
    return subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True)


def test_what_python_and_what_is_below_it_print_goes_to_the_file(tmp_path: Path) -> None:
    code = """
print("before")
with redirect_output(Path(sys.argv[1]), start=2):
    print("from Python")
    print("from Python, too", file=sys.stderr)
    os.write(2, b"NCCL WARN from below\\n")
    os.system("echo from a child")
print("after")
"""
    file = output_file(tmp_path / "ranks", 3)
    ended = in_process(code, file)
    assert (ended.stdout, ended.stderr) == ("before\nafter\n", "")
    heading, *lines = file.read_text().splitlines()
    assert heading.startswith("=== start 2 on ")
    assert lines == ["from Python", "from Python, too", "NCCL WARN from below", "from a child"]
    assert file.name == "rank-00003.log"


def test_the_last_words_of_a_process_that_aborts_are_there(tmp_path: Path) -> None:
    file = tmp_path / "rank.log"
    code = """
with redirect_output(Path(sys.argv[1]), start=0):
    print("working")
    os.write(2, b"device-side assert triggered\\n\\n")
    os.abort()
"""
    assert in_process(code, file).returncode == -6
    assert last_words(file) == "working | device-side assert triggered"


def test_last_words_are_those_of_the_last_start_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rank.log"
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    file.write_text("=== start 0 on a, process 1, now ===\nold\n=== start 1 on b, process 2, now ===\n\n")
    assert last_words(file) == ""
    with file.open("a") as opened:
        opened.write("".join(f"{number} {'x' * 200}\n" for number in range(9)) + "key " + "k" * 40 + "\n")
    assert last_words(file).endswith("| key [redacted]") and len(last_words(file)) <= 400
    assert last_words(tmp_path / "none.log") == ""


def test_why_a_rank_ends_itself_is_read_of_its_last_start_alone(tmp_path: Path) -> None:
    file = tmp_path / "rank.log"
    code = """
from cluster.rank_output import print_end
with redirect_output(Path(sys.argv[1]), start=int(sys.argv[2])):
    print("no progress")
    if sys.argv[3]:
        print_end(sys.argv[3])
        os._exit(1)
"""
    assert read_end(file) is None
    for start, why in enumerate(("waited", "hung", "")):
        in_process(code, file, start, why)
        assert read_end(file) == (why or None)
        assert last_words(file) == "no progress"


def test_a_traceback_is_printed_and_a_users_error_is_not(tmp_path: Path) -> None:
    file = tmp_path / "rank.log"
    code = """
from configs.base import UserError

for error in (ValueError("a bug"), UserError("a mistake; mend it")):
    try:
        with redirect_output(Path(sys.argv[1]), start=0):
            raise error
    except (ValueError, UserError):
        pass
"""
    assert in_process(code, file).stderr == ""
    text = file.read_text()
    assert "ValueError: a bug" in text and text.endswith("UserError: a mistake; mend it\n")


@pytest.mark.parametrize("target", ["/dev/full", "/proc/nowhere/rank.log"])
def test_a_disk_that_takes_nothing_ends_nothing(target: str) -> None:
    code = """
with redirect_output(Path(sys.argv[1]), start=0):
    print("lost " * 100_000)
    print("lost, too", file=sys.stderr)
    sys.stdout.flush()
print("done")
"""
    ended = in_process(code, target)
    assert ended.returncode == 0 and ended.stdout.endswith("done\n"), ended.stderr


def test_a_file_that_grew_long_is_put_aside_at_the_next_start(tmp_path: Path) -> None:
    file = tmp_path / "rank-00000.log"
    file.touch()
    os.truncate(file, MAX_BYTES + 1)
    assert in_process("with redirect_output(Path(sys.argv[1]), start=1): print('new')", file).returncode == 0
    assert file.with_suffix(".old").stat().st_size == MAX_BYTES + 1
    assert file.read_text().splitlines()[1:] == ["new"]
