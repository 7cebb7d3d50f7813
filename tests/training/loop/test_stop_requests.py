"""Asking a training to stop."""

import errno
import os
import signal
import threading
from pathlib import Path

import pytest

from configs.base import RESUME_ME, LeaseLost, UserError
from training.loop.stop_requests import (
    STOP_FILE,
    RequestPoller,
    Stopped,
    TrainingRequests,
    ask_to_resize,
    find_slow_host,
    note_slow_host,
    stop_on_signal,
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_the_driver_reaches_the_rank_that_polls(tmp_path: Path, number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Stopped), stop_on_signal(tmp_path, grace_seconds=60):
        poller = RequestPoller(tmp_path, watches_files=True)
        assert not poller.poll().stop
        os.kill(os.getpid(), number)
        other = RequestPoller(tmp_path, watches_files=True)  # in another process, as a rule
        assert other.poll().stop
        assert not RequestPoller(tmp_path, watches_files=False).poll().stop, "the loop tells the others"
    assert signal.getsignal(number) is before
    assert not (tmp_path / STOP_FILE).exists()


def test_the_driver_gives_up_when_the_grace_is_over(tmp_path: Path) -> None:
    with (
        pytest.raises(Stopped, match=r"within its 0\.05 s of grace") as caught,
        stop_on_signal(tmp_path, grace_seconds=0.05),
    ):
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(30)
    assert caught.value.exit_code == RESUME_ME == 75


def test_a_training_that_ends_of_itself_within_the_grace_stops_the_run_too(tmp_path: Path) -> None:
    with pytest.raises(Stopped, match="the training has ended"), stop_on_signal(tmp_path, grace_seconds=0.05):
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_a_file_system_that_is_away_does_not_hide_why_a_training_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(self: Path, **_: object) -> bool:
        raise OSError(errno.ESTALE, "Stale file handle")

    with pytest.raises(UserError, match=r"^why$"), stop_on_signal(tmp_path, grace_seconds=60):
        for name in ("exists", "unlink", "read_text"):
            monkeypatch.setattr(Path, name, stale)
        raise UserError("why")
    assert find_slow_host(tmp_path) is None


def test_the_host_that_keeps_the_others_waiting_is_known_until_the_ranks_start_anew(tmp_path: Path) -> None:
    with stop_on_signal(tmp_path, grace_seconds=60):
        note_slow_host(tmp_path, "host7")
        assert find_slow_host(tmp_path) == "host7"
        note_slow_host(tmp_path, None)  # fast again
        assert find_slow_host(tmp_path) is None
        note_slow_host(tmp_path, "host7")
        RequestPoller(tmp_path, watches_files=True)
        assert find_slow_host(tmp_path) is None


def test_a_request_of_an_earlier_run_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / STOP_FILE).write_text("SIGTERM")
    with stop_on_signal(tmp_path, grace_seconds=60):
        assert not RequestPoller(tmp_path, watches_files=True).poll().stop


def test_a_rank_hears_its_own_signal(tmp_path: Path) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        poller = RequestPoller(tmp_path, watches_files=False)
        os.kill(os.getpid(), signal.SIGTERM)
        assert poller.poll().stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_another_thread_sets_no_handlers(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work() -> None:
        with stop_on_signal(tmp_path, grace_seconds=1):
            seen.append(RequestPoller(tmp_path, watches_files=True).poll().stop)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_save_is_asked_for_by_a_signal_and_is_wanted_once(tmp_path: Path) -> None:
    with stop_on_signal(tmp_path, grace_seconds=60):
        poller = RequestPoller(tmp_path, watches_files=True)
        os.kill(os.getpid(), signal.SIGUSR2)
        assert poller.poll() == TrainingRequests(save=True)
        poller.clear_save_request()
        assert poller.poll() == TrainingRequests()
        assert RequestPoller(tmp_path, watches_files=True).poll() == TrainingRequests()


def test_a_resize_is_asked_for_by_a_file_and_forgotten_by_the_ranks_that_start_then(tmp_path: Path) -> None:
    poller = RequestPoller(tmp_path, watches_files=True)
    ask_to_resize(tmp_path)
    assert poller.poll() == TrainingRequests(resize=True)
    assert RequestPoller(tmp_path, watches_files=False).poll() == TrainingRequests()
    assert RequestPoller(tmp_path, watches_files=True).poll() == TrainingRequests()


def test_a_lost_lease_is_seen_by_the_rank_that_polls(tmp_path: Path) -> None:
    def lost() -> None:
        raise LeaseLost("somebody else has it")

    with pytest.raises(LeaseLost):
        RequestPoller(tmp_path, watches_files=True, on_poll=lost).poll()
    assert RequestPoller(tmp_path, watches_files=False, on_poll=lost).poll() == TrainingRequests()
