"""Asking a training to stop."""

import os
import signal
import threading
from pathlib import Path

import pytest

from training.control import RESUME_ME, STOP_FILE, Stopped, StopRequest, stop_on_signal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_the_driver_reaches_the_rank_that_looks(tmp_path: Path, number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Stopped), stop_on_signal(tmp_path, grace_seconds=60):
        request = StopRequest(tmp_path, watches_file=True)
        assert not request.asked()
        os.kill(os.getpid(), number)
        other = StopRequest(tmp_path, watches_file=True)  # in another process, as a rule
        assert other.asked()
        assert not StopRequest(tmp_path, watches_file=False).asked(), "the loop tells the others"
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


def test_a_wish_of_an_earlier_run_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / STOP_FILE).write_text("SIGTERM")
    with stop_on_signal(tmp_path, grace_seconds=60):
        assert not StopRequest(tmp_path, watches_file=True).asked()


def test_a_rank_hears_its_own_signal(tmp_path: Path) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        request = StopRequest(tmp_path, watches_file=False)
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.asked()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_another_thread_sets_no_handlers(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work() -> None:
        with stop_on_signal(tmp_path, grace_seconds=1):
            seen.append(StopRequest(tmp_path, watches_file=True).asked())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
    assert signal.getsignal(signal.SIGTERM) is before
