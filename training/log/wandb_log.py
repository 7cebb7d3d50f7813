"""A copy of metrics.jsonl on Weights & Biases: one run for one artifact, each step logged once.

No other module imports wandb.
"""

import os
import shutil
import threading
import uuid
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Literal

from cluster.host.files import write_text
from configs.cluster import WandbConfig
from training.log.metrics_file import METRICS_FILE, StepMetrics, iterate_metrics


class WandbLog:
    """Logs lines to a wandb run, which a restart resumes. A context manager; does nothing without a config.

    A thread does it all: to import wandb and to open the run takes seconds, to a far server a minute, and after a
    restart the lines that wandb lacks may be a million. What fails there is raised at the next line or at the end.
    """

    CLOSING_SECONDS = 10.0
    """How long a training that failed waits for a run that is not yet open, before it is left as it is."""

    def __init__(self, config: WandbConfig | None, directory: Path, *, name: str) -> None:
        """Prepare the run of the artifact in `directory`.

        The lines that its metrics.jsonl has already, those of before a restart, are logged first if wandb does not have
        them. What wandb had buffered is lost with a killed process, so the server is asked for its last step. Offline
        it has none: the file of a killed process is incomplete, so it is deleted and written again.
        """
        self._config, self._directory, self._name = config, directory, name
        self._run: Any = None
        self._next = 0
        self._lines = SimpleQueue[StepMetrics | None]()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._abandons_history = threading.Event()

    def __enter__(self) -> "WandbLog":
        if self._config is None:
            return self
        size = (self._directory / METRICS_FILE).stat().st_size if (self._directory / METRICS_FILE).exists() else 0
        self._thread = threading.Thread(target=self._work, args=(self._config, size), name="wandb", daemon=True)
        self._thread.start()
        return self

    def log(self, metrics: StepMetrics) -> None:
        """Have a line copied. Raises what wandb raised on one before."""
        if self._error is not None:
            raise self._error
        if self._thread is not None:
            self._lines.put(metrics)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None:
            return
        if error is not None:  # the next start copies what is missing; a training that is pre-empted has no time to
            self._abandons_history.set()
        self._lines.put(None)
        self._thread.join(None if error is None or self._run is not None else self.CLOSING_SECONDS)
        if self._run is not None:
            self._run.finish(exit_code=0 if error is None else 1)
        if error is None and self._error is not None:
            raise self._error

    def _work(self, config: WandbConfig, size: int) -> None:
        """Open the run; log the first `size` bytes of metrics.jsonl, then the lines that come until there is None."""
        try:
            self._open(config)
            for line in iterate_metrics(self._directory / METRICS_FILE, num_bytes=size):
                if self._abandons_history.is_set():
                    return
                self._log_new(line)
            while (new := self._lines.get()) is not None:
                self._log_new(new)
        except Exception as error:
            self._error = error

    def _open(self, config: WandbConfig) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        mode = _mode(config)
        if mode == "offline":
            for fragment in (self._directory / "wandb").glob("offline-run-*"):
                shutil.rmtree(fragment)
        run = wandb.init(
            project=config.project,
            entity=config.entity,
            id=_run_id(self._directory),
            name=self._name,
            resume="allow",
            mode=mode,
            dir=str(self._directory),
            settings=wandb.Settings(x_disable_stats=True, console="off"),
        )
        self._next = run.step  # the first step it lacks
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        self._run = run

    def _log_new(self, metrics: StepMetrics) -> None:
        """Log a line, unless wandb has it: after a roll-back, steps that are taken again are not logged again."""
        if metrics.step >= self._next:
            self._run.log(_row(metrics), step=metrics.step)
            self._next = metrics.step + 1


def _row(metrics: StepMetrics) -> dict[str, Any]:
    """Return the step's numbers under flat names; those that are not known are left out."""
    nested = {"seconds", "nats", "targets", "terms", "expert_load", "gradient_norms", "validation"}
    row = metrics.model_dump(exclude=nested | {"time"}, exclude_none=True)
    row |= metrics.terms
    row |= {f"gradient_norms/{part}": norm for part, norm in metrics.gradient_norms.items()}
    row |= {f"seconds/{part}": value for part, value in metrics.seconds.items()}
    by_stream = {stream: metrics.nats[stream] / number for stream, number in metrics.targets.items() if number}
    for which, by_layer in metrics.expert_load.items():
        row |= {f"expert_load/{which}/layer_{layer}": load for layer, load in enumerate(by_layer)}
    if (found := metrics.validation) is not None:
        row |= {"validation/loss": found.loss, "validation/bits_per_byte": found.bits_per_byte}
        row |= {f"validation/bits_per_byte/{stream}": value for stream, value in found.bits_per_byte_by_stream.items()}
    return row | {f"loss_by_stream/{stream}": loss for stream, loss in by_stream.items()}


def _run_id(directory: Path) -> str:
    """Return the id of the artifact's wandb run, which is made once, so that a restart resumes that run."""
    path = directory / "wandb.id"
    if not path.exists():
        write_text(path, uuid.uuid4().hex[:12])
    return path.read_text(encoding="utf-8")


def _mode(config: WandbConfig) -> Literal["online", "offline"]:
    if config.mode != "auto":
        return config.mode
    import wandb

    return "online" if wandb.api.api_key else "offline"
