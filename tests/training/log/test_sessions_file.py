"""attempts.jsonl and goodput, over sessions that end in every way."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.training.log.test_metrics_file import line
from training.log.metrics_file import StepMetrics
from training.log.sessions_file import (
    SESSIONS_FILE,
    GangStart,
    SessionEnd,
    SessionEvent,
    SessionStart,
    compute_goodput,
    read_session_events,
    record_gang_start,
    record_session_end,
    record_session_start,
    step_seconds,
)


def session(time: float, name: str = "s") -> SessionStart:
    return SessionStart(time=time, session=name)


def gang_start(time: float, name: str = "s", **changes: Any) -> GangStart:
    values = {
        "step": 0,
        "attempt": 0,
        "world_size": 2,
        "zero_stage": 1,
        "host": "h",
        "hosts": ["h", "i"],
        "device": "cpu",
    }
    return GangStart.model_validate(
        values | {"time": time, "session": name, "lost_steps": 0, "lost_until": None} | changes
    )


def steps(*times: float) -> list[StepMetrics]:
    """Steps of 3 seconds each that end at these times."""
    return [line(i + 1, time=time, tokens_per_second=5.0, useful_seconds=3.0 * (i + 1)) for i, time in enumerate(times)]


def test_events_read_back_in_order(tmp_path: Path) -> None:
    name = record_session_start(tmp_path)
    lost = {"lost_steps": 3, "lost_until": 1.5}
    record_gang_start(
        tmp_path,
        session=name,
        step=7,
        num_restarts=1,
        world_size=4,
        zero_stage=2,
        hosts=["a", "b"],
        device="NVIDIA L4",
        attention="sdpa",
        **lost,
    )
    record_session_end(tmp_path, session=name, why="stopped")
    begun, tried, ended = read_session_events(tmp_path)
    assert isinstance(begun, SessionStart)
    assert isinstance(tried, GangStart)
    assert isinstance(ended, SessionEnd)
    assert {event.session for event in (begun, tried, ended)} == {name}
    assert begun.time <= tried.time <= ended.time
    assert (tried.step, tried.attempt, tried.world_size, tried.zero_stage, tried.device) == (7, 1, 4, 2, "NVIDIA L4")
    assert (tried.lost_steps, tried.lost_until, tried.hosts, ended.why) == (3, 1.5, ("a", "b"), "stopped")


def test_sessions_have_names_of_their_own(tmp_path: Path) -> None:
    assert record_session_start(tmp_path) != record_session_start(tmp_path)


def test_there_are_no_events_before_the_first(tmp_path: Path) -> None:
    assert read_session_events(tmp_path) == []


@pytest.mark.parametrize("cut", [1, 30, -1])
def test_a_line_that_breaks_off_is_as_if_never_written(tmp_path: Path, cut: int) -> None:
    first = record_session_start(tmp_path)
    whole = (tmp_path / SESSIONS_FILE).read_bytes()
    (tmp_path / SESSIONS_FILE).write_bytes(whole + whole[:cut])
    assert [event.session for event in read_session_events(tmp_path)] == [first]
    second = record_session_start(tmp_path)
    assert [event.session for event in read_session_events(tmp_path)] == [first, second]
    assert all(json.loads(text) for text in (tmp_path / SESSIONS_FILE).read_text().splitlines())


def test_goodput_of_nothing_is_nothing() -> None:
    whole = compute_goodput([], None)
    assert (whole.fraction, whole.wall_seconds, whole.num_restarts, whole.lost_steps) == (0, 0, 0, 0)
    assert compute_goodput([session(100)], None).fraction == 0


def test_a_run_without_trouble_loses_its_start_and_its_end() -> None:
    events: list[SessionEvent] = [session(100), gang_start(104), SessionEnd(time=120, session="s", why="finished")]
    whole = compute_goodput(events, steps(108, 111, 114, 117)[-1])
    assert (whole.useful_seconds, whole.wall_seconds, whole.num_restarts) == (12, 20, 0)
    assert whole.fraction == pytest.approx(12 / 20)


def test_a_lost_rank_costs_its_steps_and_the_time_to_come_back() -> None:
    # Steps 1 to 4 end at 108 to 117; a rank dies; from the checkpoint at step 2 steps 3 and 4 are taken again.
    events = [session(100), gang_start(104), gang_start(125, step=2, attempt=1, lost_steps=2, lost_until=117)]
    whole = compute_goodput(events, steps(108, 111, 130, 133)[-1])
    assert (whole.useful_seconds, whole.wall_seconds, whole.num_restarts, whole.lost_steps) == (12, 33, 1, 2)


def test_time_in_which_nothing_ran_is_no_part_of_it() -> None:
    # The driver is killed at an unknown time: its last sign of life is the step at 117, dropped by the next session.
    events = [
        session(100, "a"),
        gang_start(104, "a"),
        session(9_000, "b"),
        gang_start(9_005, "b", step=2, lost_steps=2, lost_until=117),
        SessionEnd(time=9_020, session="b", why="finished"),
    ]
    whole = compute_goodput(events, steps(108, 111, 9_010, 9_013)[-1])
    assert (whole.wall_seconds, whole.useful_seconds) == ((117 - 100) + (9_020 - 9_000), 12)
    assert (whole.num_restarts, whole.lost_steps) == (1, 2)


def test_a_session_that_died_before_its_first_attempt_counts_no_restart() -> None:
    whole = compute_goodput([session(100, "a"), session(200, "b"), gang_start(201, "b")], steps(204)[-1])
    assert (whole.wall_seconds, whole.num_restarts) == (4, 0)


def test_a_step_takes_its_targets_over_their_rate() -> None:
    assert step_seconds(line(1, targets={"a/x": 30, "b/x": 10}, tokens_per_second=8.0)) == 5
    assert step_seconds(line(1, tokens_per_second=0.0)) == 0
