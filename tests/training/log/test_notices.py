"""Notices of ranks reach whoever started them, each once and while it is news."""

import errno
import threading
from pathlib import Path

import pytest

from training.log import notices
from training.log.notices import NOTICES_FILE, show_notices, write_notices


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was shown."""
    texts: list[str] = []
    monkeypatch.setattr(notices, "print_line", texts.append)
    monkeypatch.setattr(notices, "SECONDS_BETWEEN_POLLS", 0.001)
    return texts


def test_notices_are_shown_once_and_only_new_ones(tmp_path: Path, said: list[str]) -> None:
    write_notices(tmp_path, ["of an attempt before"])
    with show_notices(tmp_path):
        write_notices(tmp_path, ["one", "two"])
        write_notices(tmp_path, [])
    with show_notices(tmp_path):
        write_notices(tmp_path, ["drei Größen"])
    assert said == ["one", "two", "drei Größen"]


def test_a_notice_is_shown_while_the_work_goes_on(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = threading.Event()
    monkeypatch.setattr(notices, "print_line", lambda text: (said.append(text), heard.set()))
    with show_notices(tmp_path):
        write_notices(tmp_path, ["now"])
        assert heard.wait(10)
        assert said == ["now"]
    assert said == ["now"]


def test_a_line_that_is_being_written_is_shown_whole(tmp_path: Path, said: list[str]) -> None:
    with show_notices(tmp_path), (tmp_path / NOTICES_FILE).open("a") as file:
        file.write("first\nsec")
        file.flush()
        file.write("ond\nthe end")
    assert said == ["first", "second", "the end"]


def test_notices_of_work_that_fails_are_shown(tmp_path: Path, said: list[str]) -> None:
    with pytest.raises(RuntimeError), show_notices(tmp_path):
        write_notices(tmp_path, ["why"])
        raise RuntimeError
    assert said == ["why"]


def test_what_many_ranks_say_at_once_is_shown_once(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with show_notices(tmp_path):
        for _ in range(64):
            write_notices(tmp_path, ["the checkpoint of step 15 could not be written"])
    assert said == ["the checkpoint of step 15 could not be written"]
    monkeypatch.setattr(notices, "SECONDS_BETWEEN_EQUAL_LINES", 0.0)
    with show_notices(tmp_path):
        write_notices(tmp_path, ["again"])
        write_notices(tmp_path, ["again"])
    assert said[1:] == ["again", "again"]


def test_a_file_system_that_is_away_for_a_while_ends_no_reader_and_loses_no_notice(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    size, write, away = notices._size, notices.write_notices, threading.Event()
    polled = threading.Event()

    def fail_while_away(path: Path) -> int:
        polled.set()
        if away.is_set():
            raise OSError(errno.ESTALE, "Stale file handle")
        return size(path)

    def refuse(directory: Path, texts: list[str]) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    of_rank = notices.Notices(tmp_path)
    with show_notices(tmp_path):
        monkeypatch.setattr(notices, "_size", fail_while_away)
        away.set()
        polled.clear()
        assert polled.wait(10)
        monkeypatch.setattr(notices, "write_notices", refuse)
        of_rank.add("a warning")
        assert capsys.readouterr().err == "a warning\n"  # in the rank's own output, too
        monkeypatch.setattr(notices, "write_notices", write)
        away.clear()
        assert of_rank.flush()
    assert said == ["a warning"]
