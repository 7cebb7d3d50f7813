"""Notices of ranks reach whoever started them, each once and while it is news."""

import threading
from pathlib import Path

import pytest

from training.log import notices
from training.log.notices import FILE, notify, pass_on


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was shown."""
    texts: list[str] = []
    monkeypatch.setattr(notices, "say", texts.append)
    monkeypatch.setattr(notices, "SECONDS_BETWEEN_LOOKS", 0.001)
    return texts


def test_notices_are_shown_once_and_only_new_ones(tmp_path: Path, said: list[str]) -> None:
    notify(tmp_path, ["of an attempt before"])
    with pass_on(tmp_path):
        notify(tmp_path, ["one", "two"])
        notify(tmp_path, [])
    with pass_on(tmp_path):
        notify(tmp_path, ["drei Größen"])
    assert said == ["one", "two", "drei Größen"]


def test_a_notice_is_shown_while_the_work_goes_on(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = threading.Event()
    monkeypatch.setattr(notices, "say", lambda text: (said.append(text), heard.set()))
    with pass_on(tmp_path):
        notify(tmp_path, ["now"])
        assert heard.wait(10)
        assert said == ["now"]
    assert said == ["now"]


def test_a_line_that_is_being_written_is_shown_whole(tmp_path: Path, said: list[str]) -> None:
    with pass_on(tmp_path), (tmp_path / FILE).open("a") as file:
        file.write("first\nsec")
        file.flush()
        file.write("ond\nthe end")
    assert said == ["first", "second", "the end"]


def test_notices_of_work_that_fails_are_shown(tmp_path: Path, said: list[str]) -> None:
    with pytest.raises(RuntimeError), pass_on(tmp_path):
        notify(tmp_path, ["why"])
        raise RuntimeError
    assert said == ["why"]
