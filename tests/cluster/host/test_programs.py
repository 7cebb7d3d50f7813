"""Other programs: what they print, and that none is waited for without end."""

import sys

import pytest

from cluster.host.programs import ProgramFailed, ProgramUnavailable, call_program, require_program, run_program
from configs.base import ConfigError


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_what_a_program_prints_is_returned_with_its_exit_code() -> None:
    result = run_program(python("import sys; print(sys.stdin.read().upper())"), stdin="text", timeout_seconds=60)
    assert (result.exit_code, result.output, result.ok) == (0, "TEXT", True)


def test_a_program_that_fails_gives_what_it_says_of_it() -> None:
    result = run_program(python("import sys; print('out'); sys.exit('first\\nlast')"), timeout_seconds=60)
    assert (result.exit_code, result.ok, result.last_line) == (1, False, "last")
    with pytest.raises(ProgramFailed, match=r"^last$"):
        call_program(python("import sys; sys.exit('first\\nlast')"), timeout_seconds=60)
    with pytest.raises(ProgramFailed, match=r"^exit code 3$"):
        call_program(python("raise SystemExit(3)"), timeout_seconds=60)


def test_a_program_that_hangs_is_ended_at_its_time_limit() -> None:
    hanging = python("import signal; signal.pause()")
    result = run_program(hanging, timeout_seconds=0.2)
    assert result.exit_code is None and "did not end within 0.2 s" in result.output
    with pytest.raises(ProgramUnavailable, match=r"did not end within 0\.2 s"):
        call_program(hanging, timeout_seconds=0.2)


def test_a_program_that_is_not_there_is_one_sentence() -> None:
    assert run_program(["no-such-program"]).output.startswith("`no-such-program` cannot be run on this machine: ")
    with pytest.raises(ConfigError, match="there is no `no-such-program` on this machine's PATH; install it"):
        require_program("no-such-program", hint="install it")


def test_output_that_is_no_utf_8_is_read_all_the_same() -> None:
    result = run_program(python("import sys; sys.stdout.buffer.write(bytes([255]) + b'ok')"), timeout_seconds=60)
    assert result.ok and result.output.endswith("ok")
