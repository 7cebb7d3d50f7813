"""Progress of training in the process that started it: follows metrics.jsonl, wherever the ranks run."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

from cluster.host.console import ProgressMeter
from training.log.metrics_file import StepMetrics, Validation, iterate_metrics_backwards, read_last_metrics

SECONDS_BETWEEN_POLLS = 0.5


@contextmanager
def show_progress(path: Path, *, num_steps: int) -> Iterator[None]:
    """Show step, loss and tokens per second while the block runs."""
    done = threading.Event()
    thread = threading.Thread(target=_follow, args=(path, num_steps, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _follow(path: Path, num_steps: int, done: threading.Event) -> None:
    started, shown, validation = time.time(), 0, None
    with ProgressMeter("training", num_steps) as meter:
        while not done.wait(SECONDS_BETWEEN_POLLS):
            line = read_last_metrics(path)
            if line is not None and line.time >= started and line.step != shown:  # and not of a session before
                validation = _last_validation(path, after=shown) or validation
                shown = line.step
                meter.update(line.step, _describe_step(line, validation))


def _last_validation(path: Path, *, after: int) -> Validation | None:
    lines = takewhile(lambda line: line.step > after, iterate_metrics_backwards(path))
    return next((line.validation for line in lines if line.validation is not None), None)


def _describe_step(line: StepMetrics, validation: Validation | None) -> str:
    held_out = f", held out {validation.loss:.3f} ({validation.bits_per_byte:.3f} bits a byte)" if validation else ""
    return f"loss {line.loss:.3f}{held_out}, {line.tokens_per_second:,.0f} tokens/s"
