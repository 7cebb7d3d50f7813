"""The driver of a run: attempts, what becomes of each, and what it does about that."""

import errno
import os
import signal
from datetime import timedelta
from pathlib import Path

import pytest

from cluster.leases.lease import lease
from configs.base import InfrastructureError, LeaseLost, UserError
from configs.cluster import ClusterConfig
from pipeline.runs import driver as driver_module
from pipeline.runs.directory import lease_name, now
from pipeline.runs.driver import Driver, drive_run
from tests.pipeline.runs.toy_runs import toy_attempt, toy_directory, toy_drive, toy_driver, toy_start

FINE = "print('fine')"
MISTAKE = "import sys; print('concord: line 7 is wrong; mend it'); sys.exit(1)"
BUG = "raise ZeroDivisionError('ours')"
KILLED = "import os; os.kill(os.getpid(), 9)"
RAY_DIED = "import sys; print('concord: Ray itself has died'); sys.exit(71)"
PREEMPTED = "import sys; sys.exit(75)"
CHECKPOINT = """
import os, sys
path = os.path.join(sys.argv[1], 'train-0123456789ab', 'checkpoints', 'step-%08d')
os.makedirs(path)
open(os.path.join(path, 'checkpoint.json'), 'w').close()
sys.exit(71)
"""
WAITS_FOR_SIGTERM = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: (print('concord: stopped after step 3, which is saved'), sys.exit(75)))
open(sys.argv[1] + '/ready', 'w').close()
signal.pause()
"""
ASKED_TO_SAVE = """
import signal, sys
signal.signal(signal.SIGUSR2, lambda *_: (print('saved'), sys.exit(0)))
open(sys.argv[1] + '/ready', 'w').close()
signal.pause()
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Looks are close together, and the signals of this process stay what they were."""
    monkeypatch.setattr("pipeline.runs.driver.SECONDS_BETWEEN_CHECKS", 0.02)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def outcomes(directory) -> list[str | None]:
    return [attempt.outcome for attempt in directory.attempts()]


def test_an_attempt_that_finishes_is_the_last(tmp_path, capfd):
    directory = toy_directory(tmp_path)
    assert toy_drive(directory, FINE) == 0
    assert outcomes(directory) == ["finished"]
    assert "fine" in capfd.readouterr().out


def test_a_users_mistake_is_not_tried_again_and_its_sentence_is_kept(tmp_path):
    directory = toy_directory(tmp_path)
    assert toy_drive(directory, MISTAKE) == 1
    assert [(a.outcome, a.reason) for a in directory.attempts()] == [("user", "line 7 is wrong; mend it")]


def test_a_bug_is_tried_again_as_it_may_be_a_machine_that_failed(tmp_path):
    directory = toy_directory(tmp_path)
    assert toy_drive(directory, BUG, BUG, BUG) == 1
    assert outcomes(directory) == ["bug"] * 3
    assert directory.attempts()[0].reason == "ZeroDivisionError: ours"


def test_a_killed_attempt_and_a_dead_ray_are_tried_again(tmp_path):
    directory = toy_directory(tmp_path)
    assert toy_drive(directory, KILLED, RAY_DIED, PREEMPTED, FINE) == 0
    assert outcomes(directory) == ["infrastructure", "infrastructure", "preempted", "finished"]
    assert directory.attempts()[0].reason == "the attempt's process was ended by SIGKILL"


def test_attempts_that_get_nowhere_end_with_their_budget(tmp_path):
    directory = toy_directory(tmp_path)
    retries = {"infrastructure": 1, "backoff_seconds": 0}
    assert toy_drive(directory, RAY_DIED, RAY_DIED, retries=retries) == 71


def test_a_scheduler_that_starts_the_driver_again_does_not_fill_the_budget_up(tmp_path):
    directory = toy_directory(tmp_path)
    retries = {"preemption": 1, "backoff_seconds": 0}
    assert toy_drive(directory, PREEMPTED, FINE, retries=retries) == 0
    assert toy_drive(directory, PREEMPTED, retries=retries) == 1
    assert outcomes(directory) == ["preempted", "finished", "preempted"]


def test_a_stop_between_attempts_is_heard(tmp_path, monkeypatch):
    directory = toy_directory(tmp_path)
    monkeypatch.setattr(
        "pipeline.runs.driver.wait_before_next", lambda *_: 60 if directory.add_request("stop") else None
    )
    assert toy_drive(directory, RAY_DIED) == 0
    assert [(a.outcome, a.reason) for a in directory.attempts()] == [("stopped", "Ray itself has died")]


def test_attempts_that_leave_checkpoints_have_a_new_budget(tmp_path):
    directory = toy_directory(tmp_path)
    retries = {"infrastructure": 1, "backoff_seconds": 0}
    programs = [CHECKPOINT % 1, CHECKPOINT % 2, CHECKPOINT % 3, FINE]
    assert toy_drive(directory, *programs, retries=retries) == 0
    assert [attempt.progressed for attempt in directory.attempts()] == [True, True, True, False]


def test_a_stop_reaches_the_attempt_and_ends_the_run_without_failure(tmp_path):
    directory = toy_directory(tmp_path)
    toy_start(directory)
    directory.add_request("stop")
    assert toy_drive(directory, WAITS_FOR_SIGTERM) == 0
    (attempt,) = directory.attempts()
    assert attempt.outcome == "stopped"
    assert directory.requests() == {}


def test_a_wish_for_a_checkpoint_reaches_the_attempt(tmp_path, monkeypatch):
    directory = toy_directory(tmp_path)
    ask_when_ready(monkeypatch, directory, tmp_path / "ready", lambda: directory.add_request("checkpoint"))
    assert toy_drive(directory, ASKED_TO_SAVE) == 0
    assert outcomes(directory) == ["finished"]


def test_a_wish_for_a_checkpoint_harms_no_attempt_that_does_not_train(tmp_path):
    directory = toy_directory(tmp_path)
    toy_start(directory)
    directory.add_request("checkpoint")
    until_heard = "import os, sys\nwhile os.listdir(sys.argv[1] + '/runs/toy/requests'): pass"
    assert toy_drive(directory, until_heard) == 0
    assert outcomes(directory) == ["finished"]


def test_a_stop_that_the_start_before_did_not_hear_is_dropped(tmp_path):
    directory = toy_directory(tmp_path)
    directory.add_request("stop")
    toy_start(directory, time=now())
    assert toy_drive(directory, FINE) == 0
    assert outcomes(directory) == ["finished"]
    assert directory.requests() == {}


def test_a_stopped_attempt_that_dies_otherwise_is_not_followed_by_another(tmp_path, monkeypatch):
    directory = toy_directory(tmp_path)
    ask_when_ready(monkeypatch, directory, tmp_path / "ready", lambda: directory.add_request("stop"))
    dies = WAITS_FOR_SIGTERM.replace("sys.exit(75)", "__import__('os').kill(__import__('os').getpid(), 9)")
    assert toy_drive(directory, dies) == 0
    assert outcomes(directory) == ["stopped"]


def test_an_attempt_that_hears_no_signal_is_killed_when_its_grace_is_over(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.runs.attempt.MARGIN_SECONDS", 0.0)
    directory = toy_directory(tmp_path)
    ask_when_ready(monkeypatch, directory, tmp_path / "ready", lambda: directory.add_request("stop"))
    deaf = (
        "import signal, sys\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nopen(sys.argv[1] + '/ready', 'w').close()"
    )
    pools = {"default": {"grace_seconds": 0.1}}
    assert toy_drive(directory, f"{deaf}\nwhile True: signal.pause()", pools=pools) == 0
    (attempt,) = directory.attempts()
    assert (attempt.outcome, attempt.exit_code) == ("stopped", -9)
    assert attempt.reason == "it did not end within 0.1 s of grace and was killed"


def test_an_attempt_that_was_done_when_the_stop_came_has_finished(tmp_path, monkeypatch):
    directory = toy_directory(tmp_path)
    ask_when_ready(monkeypatch, directory, tmp_path / "ready", lambda: directory.add_request("stop"))
    made = "import os, sys\nos.makedirs(sys.argv[1] + '/train-0123456789ab')\n"
    made += "open(sys.argv[1] + '/train-0123456789ab/record.json', 'w').close()\n"
    assert toy_drive(directory, made + WAITS_FOR_SIGTERM) == 0
    assert outcomes(directory) == ["finished"]


def test_a_start_that_was_followed_by_another_leaves_the_run_to_it(tmp_path):
    directory = toy_directory(tmp_path)
    first = toy_start(directory)
    toy_start(directory, number=2, take_over=True)
    with pytest.raises(UserError, match="start 1 of run toy was followed by start 2"):
        drive_run(directory, first, ClusterConfig(), ray_address=None)
    assert directory.attempts() == []


def test_only_the_first_attempt_of_a_start_passes_over_others(tmp_path):
    directory = toy_directory(tmp_path)
    start = toy_start(directory, take_over=True)
    with lease(tmp_path, lease_name("toy"), what="run 'toy'") as fence:
        driver = Driver(directory, start, ClusterConfig(), fence, None)
        assert "--take-over" in driver._command(1)
        toy_attempt(directory)
        assert "--take-over" not in driver._command(2)


def test_a_store_that_does_not_answer_for_a_while_ends_no_attempt(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("pipeline.runs.driver.SECONDS_OF_SILENCE", 0.0)
    directory = toy_directory(tmp_path)
    honest, asked = type(directory).requests, []

    def silent(self):
        if directory.attempts():
            asked.append(1)
        if 0 < len(asked) < 4:
            raise InfrastructureError("the store does not answer")
        if not asked:
            return {}
        (tmp_path / "go").touch()
        return honest(self)

    toy_start(directory)
    monkeypatch.setattr(type(directory), "requests", silent)
    until = "import os, sys\nwhile not os.path.exists(sys.argv[1] + '/go'): pass"
    assert toy_drive(directory, until) == 0
    assert "the store does not answer; the attempt goes on" in capfd.readouterr().err


def test_a_store_whose_handles_are_stale_for_a_while_ends_no_driver(tmp_path, monkeypatch, capfd):
    """What has been made is counted in the store's files themselves, before and after each attempt."""
    directory = toy_directory(tmp_path)
    honest, asked = driver_module.list_finished, []

    def stale(home, artifacts):
        asked.append(1)
        if len(asked) % 3:
            raise OSError(errno.ESTALE, "Stale file handle")
        return honest(home, artifacts)

    monkeypatch.setattr(driver_module, "list_finished", stale)
    assert toy_drive(directory, FINE) == 0
    assert outcomes(directory) == ["finished"] and len(asked) == 6
    assert "Stale file handle; trying again" in capfd.readouterr().err


def test_an_attempts_end_is_written_down_when_the_store_answers_again(tmp_path, monkeypatch):
    directory = toy_directory(tmp_path)
    honest, asked = type(directory).end_attempt, []

    def silent(self, record):
        asked.append(1)
        if len(asked) < 3:
            raise InfrastructureError("the store does not answer")
        honest(self, record)

    monkeypatch.setattr(type(directory), "end_attempt", silent)
    assert toy_drive(directory, FINE) == 0
    assert outcomes(directory) == ["finished"]


def test_a_signal_to_the_driver_ends_it_with_the_code_that_says_start_me_again(tmp_path, monkeypatch):
    directory = toy_directory(tmp_path)
    ask_when_ready(monkeypatch, directory, tmp_path / "ready", lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert toy_drive(directory, WAITS_FOR_SIGTERM) == 75
    assert [(a.outcome, a.reason) for a in directory.attempts()] == [
        ("preempted", "stopped after step 3, which is saved")
    ]


def test_the_time_limit_saves_and_ends(tmp_path, monkeypatch):
    directory = toy_directory(tmp_path)
    ask_when_ready(monkeypatch, directory, tmp_path / "ready", lambda: None)
    assert toy_drive(directory, WAITS_FOR_SIGTERM, time_limit_minutes=0.01) == 1
    assert directory.attempts()[0].outcome == "time_limit"


def test_time_spent_before_counts_towards_the_limit(tmp_path):
    directory = toy_directory(tmp_path)
    assert toy_drive(directory, FINE) == 0
    first = directory.attempts()[0]
    hour_ago = first.began.replace(year=first.began.year - 1)
    directory.end_attempt(first.model_copy(update={"began": hour_ago, "outcome": "stopped"}))
    assert toy_drive(directory, WAITS_FOR_SIGTERM, time_limit_minutes=60) == 1
    assert directory.attempts()[1].outcome == "time_limit"


def test_secrets_are_taken_out_of_what_attempts_print(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567")
    directory = toy_directory(tmp_path)
    program = "import os, sys; print('concord: key', os.environ['WANDB_API_KEY'], 'is refused'); sys.exit(1)"
    toy_drive(directory, program)
    assert "0123456789abcdef" not in capfd.readouterr().out
    assert directory.attempts()[0].reason == "key [redacted] is refused"


def test_an_attempt_whose_driver_died_is_written_off_by_the_next_as_of_its_last_beat(tmp_path):
    directory = toy_directory(tmp_path)
    began = now() - timedelta(hours=9)
    toy_attempt(directory, pid=12345, began=began)
    start = toy_start(directory)
    with lease(tmp_path, lease_name("toy"), what="run 'toy'") as fence:
        driver = toy_driver(directory, start, ClusterConfig(), fence, FINE)
        driver.last_heartbeat = began + timedelta(minutes=5)
        assert driver.run() == 0
    assert outcomes(directory) == ["lost", "finished"]
    lost = directory.attempts()[0]
    assert "process 12345 on here" in lost.reason
    assert lost.ended == began + timedelta(minutes=5)


def test_a_second_driver_is_told_who_is_at_it(tmp_path):
    directory = toy_directory(tmp_path)
    held = pytest.raises(UserError, match=f"'toy' is being made by process {os.getpid()} on")
    with lease(tmp_path, lease_name("toy"), what="run 'toy'"), held:
        toy_drive(directory, FINE)
    assert directory.attempts() == []


def test_a_driver_that_lost_its_lease_ends_its_attempt_and_writes_nothing_more(tmp_path, monkeypatch):
    directory = toy_directory(tmp_path)

    def take() -> None:
        with lease(tmp_path, lease_name("toy"), what="run 'toy'", take_over=True):
            pass

    ask_when_ready(monkeypatch, directory, tmp_path / "ready", take)
    program = WAITS_FOR_SIGTERM.replace("sys.exit(75)", "open(sys.argv[1] + '/ended', 'w').close(), sys.exit(75)")
    with pytest.raises(LeaseLost):
        toy_drive(directory, program)
    assert (tmp_path / "ended").exists()
    assert outcomes(directory) == [None]


def ask_when_ready(monkeypatch, directory, ready: Path, ask) -> None:
    """Do something once, at the first look of the driver after the attempt is ready; before that it hears nothing."""
    honest, done = type(directory).requests, []

    def requests(self):
        if not ready.exists():
            return {}
        if not done:
            done.append(ask())
        return honest(self)

    monkeypatch.setattr(type(directory), "requests", requests)
