"""What the process that started a training shows of it."""

import threading
import time
from pathlib import Path

import pytest

from tests.training.log.test_metrics_file import line
from training.log import metrics_file, progress_bar
from training.log.metrics_file import StepMetrics, Validation, read_last_validated
from training.log.progress_bar import show_progress

NOTHING_BY_STREAM: dict[str, dict[str, float]] = {"nats": {}, "targets": {}, "bits_per_byte_by_stream": {}}


class Meter:
    """Stands in for the meter: what is shown, and a word when there is more of it."""

    shown: list[str]
    more: threading.Condition

    def __init__(self, label: str, total: int) -> None:
        self.label = label

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, step: int, text: str) -> None:
        with self.more:
            self.shown.append(f"{step} {text}")
            self.more.notify()


def test_the_newest_validation_is_looked_for_in_the_last_lines_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a long training without one, not in a history of gigabytes."""
    path, found = tmp_path / "metrics.jsonl", Validation(**NOTHING_BY_STREAM, loss=2.5, bits_per_byte=1.25)
    lines = [line(1, time=0.0, validation=found), *(line(step, time=0.0) for step in range(2, 13))]
    path.write_text("".join(f"{one.model_dump_json()}\n" for one in lines))
    assert read_last_validated(path) == lines[0]
    assert read_last_validated(path, after=1) is None
    monkeypatch.setattr(metrics_file, "_MAX_LINES_BACK", 10)
    assert read_last_validated(path) is None


def test_the_newest_validation_stays_in_sight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one of a line that came and went between two looks at the file."""
    Meter.shown, Meter.more = [], threading.Condition()
    monkeypatch.setattr(progress_bar, "ProgressMeter", Meter)
    monkeypatch.setattr(progress_bar, "SECONDS_BETWEEN_POLLS", 0.01)
    path = tmp_path / "metrics.jsonl"

    def add(*lines: StepMetrics) -> None:
        with Meter.more:
            number = len(Meter.shown)
            with path.open("a") as file:
                file.write("".join(f"{one.model_dump_json()}\n" for one in lines))
            assert Meter.more.wait_for(lambda: len(Meter.shown) > number, timeout=30)

    now = time.time() + 60
    found = Validation(**NOTHING_BY_STREAM, loss=2.5, bits_per_byte=1.25)
    with show_progress(path, num_steps=9):
        add(line(1, time=now))
        add(line(2, time=now, validation=found), line(3, time=now))
        add(line(4, time=now))
    assert Meter.shown == [
        "1 loss 0.333, 5 tokens/s",
        "3 loss 0.333, held out 2.500 (1.250 bits a byte), 5 tokens/s",
        "4 loss 0.333, held out 2.500 (1.250 bits a byte), 5 tokens/s",
    ]
