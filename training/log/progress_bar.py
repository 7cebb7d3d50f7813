"""Progress of training in the process that started it: follows metrics.jsonl, wherever the ranks run."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.host.console import ProgressMeter
from cluster.storage.errors import ignore_transient
from training.log.metrics_file import StepMetrics, Validation, read_last_metrics, read_last_validated

SECONDS_BETWEEN_POLLS = 0.5


@contextmanager
def show_progress(path: Path, *, num_steps: int) -> Iterator[None]:
    """Show step, loss, tokens per second and eta (StepMetrics.eta) while the block runs."""
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
            with ignore_transient():
                line = read_last_metrics(path)
                if line is not None and line.time >= started and line.step != shown:  # and not of a session before
                    validated = read_last_validated(path, after=shown)
                    validation = validated.validation if validated else validation
                    shown = line.step
                    meter.update(line.step, _describe_step(line, validation))


def _describe_step(line: StepMetrics, validation: Validation | None) -> str:
    held_out = f", held out {validation.loss:.3f} ({validation.bits_per_byte:.3f} bits a byte)" if validation else ""
    eta = f", eta {line.eta:.2f}" if line.eta is not None else ""
    return f"loss {line.loss:.3f}{held_out}, {line.tokens_per_second:,.0f} tokens/s{eta}"
