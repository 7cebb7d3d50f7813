"""metrics.jsonl through kills and restarts."""

import errno
import math
from pathlib import Path
from typing import Any

import pytest

from configs.base import UserError
from training.log import metrics_file
from training.log.metrics_file import MetricsFile, StepMetrics, read_last_metrics, read_metrics, read_recent_metrics
from training.log.progress_bar import show_progress


def line(step: int, **changes: Any) -> StepMetrics:
    values = {
        "step": step,
        "loss": 1 / 3,
        "first_place": 0,
        "bits_per_byte": 0.25,
        "nats": {"web/sw": 1.0, "web/yo": 4.0},
        "targets": {"web/sw": 5, "web/yo": 10},
        "learning_rate": 1e-17,
        "gradient_norm": 2.0,
        "updated": True,
        "num_skipped": 0,
        "num_rollbacks": 0,
        "num_tokens": 10**13,
        "tokens_per_second": 5.0,
        "mfu": None,
        "memory_bytes": 2**30,
        "seconds": {"data": 0.1, "forward": 0.2},
        "time": 1.7e9,
    }
    return StepMetrics.model_validate(values | changes)


def write(path: Path, steps: range, *, resumed_at: int = 0) -> None:
    file = MetricsFile(path, step=resumed_at)
    for step in steps:
        file.append(line(step))
    file.sync()
    file.close()


def steps(path: Path) -> list[int]:
    return [metrics.step for metrics in read_metrics(path)]


def test_lines_read_back_exactly(tmp_path: Path) -> None:
    write(tmp_path / "m", range(1, 4))
    assert read_metrics(tmp_path / "m") == [line(1), line(2), line(3)]


def test_lines_are_readable_as_soon_as_they_are_appended(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "m", step=0)
    file.append(line(1))
    assert steps(tmp_path / "m") == [1]
    file.close()


def test_lines_after_the_checkpoint_are_dropped_on_resume(tmp_path: Path) -> None:
    write(tmp_path / "m", range(1, 8))
    write(tmp_path / "m", range(6, 9), resumed_at=5)
    assert steps(tmp_path / "m") == list(range(1, 9))


def test_what_was_dropped_on_resume_is_counted(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "m", step=0)
    assert (file.lost_steps, file.lost_until) == (0, None)
    for step in range(1, 8):
        file.append(line(step, time=100.0 + step))
    file.close()
    file = MetricsFile(tmp_path / "m", step=5)
    assert (file.lost_steps, file.lost_until) == (2, 107.0)
    file.close()


def test_when_the_last_step_was_seen_is_known_though_none_was_lost(tmp_path: Path) -> None:
    write(tmp_path / "m", range(1, 8))
    file = MetricsFile(tmp_path / "m", step=7)
    assert (file.lost_steps, file.lost_until, file.last) == (0, 1.7e9, line(7))
    file.close()


@pytest.mark.parametrize("block_bytes", [1, 7, 100, 401, 1 << 16])
def test_the_end_is_read_whatever_the_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    monkeypatch.setattr(metrics_file, "_BLOCK_BYTES", block_bytes)
    write(tmp_path / "m", range(1, 10))
    assert read_recent_metrics(tmp_path / "m", count=3) == [line(7), line(8), line(9)]
    assert read_recent_metrics(tmp_path / "m", up_to=4, count=2) == [line(3), line(4)]
    assert read_recent_metrics(tmp_path / "m", up_to=2, count=9) == [line(1), line(2)]
    file = MetricsFile(tmp_path / "m", step=4)
    assert (file.lost_steps, file.last) == (5, line(4))
    file.close()
    assert steps(tmp_path / "m") == [1, 2, 3, 4]


def test_lines_of_another_version_are_not_dropped_in_silence(tmp_path: Path) -> None:
    write(tmp_path / "m", range(1, 4))
    before = (tmp_path / "m").read_text().replace('"loss"', '"nats_a_token"')
    (tmp_path / "m").write_text(before)
    with pytest.raises(UserError, match=r"m has a line at byte [\d,]+ that this version of Concord did not write"):
        MetricsFile(tmp_path / "m", step=3)
    assert (tmp_path / "m").read_text() == before


def test_what_a_machine_that_died_left_after_the_last_line_is_dropped(tmp_path: Path) -> None:
    write(tmp_path / "m", range(1, 4))
    with (tmp_path / "m").open("ab") as file:
        file.write(b"\0" * 300_000 + b"\n{\xff\n" + b"\0" * 7)
    write(tmp_path / "m", range(4, 6), resumed_at=3)
    assert steps(tmp_path / "m") == [1, 2, 3, 4, 5]


def test_a_start_reads_the_end_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "m", range(1, 1000))
    parsed: list[int] = []
    original = StepMetrics.model_validate

    def count(value: Any) -> StepMetrics:
        parsed.append(value["step"])
        return original(value)

    monkeypatch.setattr(StepMetrics, "model_validate", count)
    MetricsFile(tmp_path / "m", step=990).close()
    assert parsed == list(range(999, 989, -1))


def test_a_roll_back_drops_the_lines_after_it(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "m", step=0)
    for step in range(1, 8):
        file.append(line(step))
    file.truncate_after(5)
    file.append(line(6, learning_rate=0.5))
    file.close()
    assert read_metrics(tmp_path / "m") == [*map(line, range(1, 6)), line(6, learning_rate=0.5)]


def test_a_full_disk_delays_lines_and_loses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = MetricsFile(tmp_path / "m", step=0)
    with monkeypatch.context() as patched:
        patched.setattr("training.log.metrics_file.os.write", full)
        file.append(line(1))
        with pytest.raises(OSError, match="No space"):
            file.sync()
    assert steps(tmp_path / "m") == []
    file.append(line(2))
    file.close()
    assert steps(tmp_path / "m") == [1, 2]


def test_a_run_from_the_start_drops_everything(tmp_path: Path) -> None:
    write(tmp_path / "m", range(1, 8))
    write(tmp_path / "m", range(1, 3))
    assert steps(tmp_path / "m") == [1, 2]


@pytest.mark.parametrize("cut", [1, 2, 50, -1])
def test_a_line_that_breaks_off_is_as_if_never_written(tmp_path: Path, cut: int) -> None:
    write(tmp_path / "m", range(1, 4))
    whole = (tmp_path / "m").read_bytes()
    (tmp_path / "m").write_bytes(whole + whole.splitlines()[-1][:cut])
    assert steps(tmp_path / "m") == [1, 2, 3]
    assert read_last_metrics(tmp_path / "m") == line(3)
    write(tmp_path / "m", range(4, 6), resumed_at=3)
    assert steps(tmp_path / "m") == [1, 2, 3, 4, 5]


def test_a_whole_line_without_its_end_is_kept_on_resume(tmp_path: Path) -> None:
    write(tmp_path / "m", range(1, 4))
    (tmp_path / "m").write_bytes((tmp_path / "m").read_bytes().rstrip(b"\n"))
    write(tmp_path / "m", range(4, 5), resumed_at=3)
    assert steps(tmp_path / "m") == [1, 2, 3, 4]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_gradient_that_overflowed_can_be_read_again(tmp_path: Path, value: float) -> None:
    file = MetricsFile(tmp_path / "m", step=0)
    file.append(line(1, gradient_norm=value))
    file.close()
    (read,), last = read_metrics(tmp_path / "m"), read_last_metrics(tmp_path / "m")
    assert last is not None
    assert repr(read.gradient_norm) == repr(last.gradient_norm) == repr(value)


def test_last_metrics_is_the_last_whole_line(tmp_path: Path) -> None:
    assert read_last_metrics(tmp_path / "m") is None
    write(tmp_path / "m", range(0))
    assert read_last_metrics(tmp_path / "m") is None
    write(tmp_path / "m", range(1, 2))
    assert read_last_metrics(tmp_path / "m") == line(1)
    write(tmp_path / "m", range(2, 500), resumed_at=1)
    assert read_last_metrics(tmp_path / "m") == line(499)
    (tmp_path / "m").write_bytes(b'{"step": 1')
    assert read_last_metrics(tmp_path / "m") is None


def test_reading_what_is_not_there_gives_nothing(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "m") == []


def test_watching_ends_with_the_block_and_lets_errors_rise(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="mine"), show_progress(tmp_path / "m", num_steps=3):
        raise RuntimeError("mine")
