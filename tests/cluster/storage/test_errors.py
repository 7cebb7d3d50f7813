"""Which OSErrors are the user's to mend, and which may pass: for steps, stores and sources alike."""

import errno
import os
import ssl
from pathlib import Path

import pytest

from cluster.storage.errors import explain_os_error, is_outage, is_transient, store_errors, wait_until_answers
from configs.base import InfrastructureError, UserError
from data_prep.sources.file_parts import cannot_open

USERS = ["ENOSPC", "EDQUOT", "EACCES", "EPERM", "EROFS", "ENOENT", "ENOTDIR", "EISDIR", "ENAMETOOLONG", "EINVAL"]
USERS += ["ENOSYS", "EMFILE", "EEXIST"]
TRANSIENT = ["ESTALE", "EIO", "ETIMEDOUT", "ECONNRESET", "EHOSTDOWN", "EAGAIN", "EINTR", "EBUSY", "ENFILE", "ENOLCK"]


def os_error(name: str) -> OSError:
    return OSError(getattr(errno, name), os.strerror(getattr(errno, name)), "/data/shard.bin")


def explained_by_store(error: OSError) -> UserError:
    with pytest.raises(UserError) as caught, store_errors("s3://bucket/x"):
        raise error
    return caught.value


@pytest.mark.parametrize("name", [*USERS, *TRANSIENT])
def test_an_os_error_is_of_the_same_class_wherever_it_is_met(name: str) -> None:
    error, wanted = os_error(name), UserError if name in USERS else InfrastructureError
    assert is_transient(error) == (name in TRANSIENT)
    assert type(explain_os_error(error, where="step 'x'", elsewhere="give another store")) is wanted
    assert type(explained_by_store(error)) is wanted
    assert type(cannot_open("words", "words.jsonl", error)) is wanted


def test_too_many_open_files_names_the_limit() -> None:
    error = os_error("EMFILE")
    for told in (explain_os_error(error, where="step 'x'", elsewhere=""), explained_by_store(error)):
        assert "ulimit -n" in str(told)


def test_an_error_that_a_library_made_itself_is_not_retried_but_a_time_out_is() -> None:
    made, away = OSError("gpt2 is not a local folder"), TimeoutError()
    assert type(explain_os_error(made, where="step 'x'", elsewhere="")) is UserError
    assert type(explain_os_error(away, where="step 'x'", elsewhere="")) is InfrastructureError


def test_a_sentence_names_the_step_the_file_and_the_way_out() -> None:
    error = OSError(errno.ENOSPC, "No space left on device", str(Path("/data/shard.bin")))
    assert str(explain_os_error(error, where="step 'x'", elsewhere="give another store")) == (
        "step 'x': the disk is full (/data/shard.bin); free space, or give another store, and run this again: "
        "what is finished is kept"
    )


def test_the_number_of_a_librarys_error_is_no_errno() -> None:
    handshake = ssl.SSLError(1, "decryption failed or bad record mac")  # 1 would be EPERM
    assert is_transient(handshake)
    assert type(explained_by_store(handshake)) is InfrastructureError


def test_a_file_system_that_is_away_is_waited_for_and_one_that_refuses_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries, said, slept = iter(["ESTALE", "EIO", "ENOENT"]), [], []
    monkeypatch.setattr(Path, "stat", lambda self: (_ for _ in ()).throw(os_error(next(tries))))
    monkeypatch.setattr("cluster.host.retry.time.sleep", slept.append)
    wait_until_answers(tmp_path, notify=said.append)
    assert slept == [1.0, 1.0]
    assert said == [f"{tmp_path} cannot be reached (Stale file handle); tried again for 10 minutes"]


def test_an_os_error_that_may_pass_is_an_outage() -> None:
    assert [is_outage(os_error(name)) for name in ("ESTALE", "EIO", "ENOSPC", "ENOENT")] == [True, True, False, False]
