"""A copy of metrics.jsonl on Weights & Biases: one run for one artifact, each step logged once.

No other module imports wandb.
"""

import os
import shutil
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any

from cluster.host.files import write_text
from configs.cluster import WandbConfig
from configs.text import one_line
from training.log.metrics_file import METRICS_FILE, StepMetrics, iterate_metrics


class WandbLog:
    """Logs lines to a wandb run, which a restart resumes. A context manager; does nothing without a config.

    A thread does it all: to import wandb and to open the run takes seconds, to a far server a minute, and after a
    restart the lines that wandb lacks may be a million. It is a copy: what fails there is told once, and training goes
    on without.
    """

    CLOSING_SECONDS = 10.0
    """How long a training that failed waits for a run that is not yet open, before it is left as it is."""

    FINISHING_SECONDS = 300.0
    """How long one waits for what wandb has not sent yet, before the copy is left as it is."""

    def __init__(
        self, config: WandbConfig | None, directory: Path, *, name: str, notify: Callable[[str], None]
    ) -> None:
        """Prepare the run of the artifact in `directory`; `notify` passes a sentence to the user.

        The lines that its metrics.jsonl has already, those of before a restart, are logged first if wandb does not have
        them. What wandb had buffered is lost with a killed process, so the server is asked for its last step. Offline
        it has none: the file of a killed process is incomplete, so it is deleted and written again.
        """
        self._config, self._directory, self._name, self._notify = config, directory, name, notify
        self._run: Any = None
        self._next = 0
        self._exit_code = 0
        self._lines = SimpleQueue[StepMetrics | None]()
        self._thread: threading.Thread | None = None
        self._failure = ""
        self._is_told = False
        self._abandons_history = threading.Event()

    def __enter__(self) -> "WandbLog":
        if self._config is None:
            return self
        size = (self._directory / METRICS_FILE).stat().st_size if (self._directory / METRICS_FILE).exists() else 0
        self._thread = threading.Thread(target=self._work, args=(self._config, size), name="wandb", daemon=True)
        self._thread.start()
        return self

    def log(self, metrics: StepMetrics) -> None:
        """Have a line copied. Tells the user if wandb has failed on one before."""
        if self._failure:
            self._tell_failure()
        elif self._thread is not None:
            self._lines.put(metrics)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None:
            return
        if error is not None:  # the next start copies what is missing; a training that is pre-empted has no time to
            self._abandons_history.set()
            self._exit_code = 1
        self._lines.put(None)
        is_opening = error is not None and self._run is None
        self._thread.join(self.CLOSING_SECONDS if is_opening else self.FINISHING_SECONDS)
        if self._thread.is_alive() and not is_opening:
            self._failure = f"it did not take the rest within {self.FINISHING_SECONDS:g} s"
        if self._failure:
            self._tell_failure()

    def _tell_failure(self) -> None:
        """Notify the user, once, from the thread that trains."""
        if not self._is_told:
            self._is_told = True
            self._notify(
                f"the copy of the metrics on Weights & Biases ends here ({self._failure}); training goes on, and "
                f"{METRICS_FILE} has them all"
            )

    def _work(self, config: WandbConfig, size: int) -> None:
        """Open the run; log the first `size` bytes of metrics.jsonl, then the lines that come until there is None."""
        try:
            self._open(config)
            self._log_all(size)
            self._run.finish(exit_code=self._exit_code)
        except (Exception, SystemExit) as error:  # whatever wandb, or the network below it, raises
            self._failure = f"{type(error).__name__}: {one_line(error)}"

    def _log_all(self, size: int) -> None:
        for line in iterate_metrics(self._directory / METRICS_FILE, num_bytes=size):
            if self._abandons_history.is_set():
                return
            self._log_new(line)
        while (new := self._lines.get()) is not None:
            self._log_new(new)

    def _open(self, config: WandbConfig) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        mode, run_id = _mode(config), _run_id(self._directory)
        place = Path(os.environ.get("WANDB_DIR", self._directory))
        if mode == "offline":
            for fragment in (place / "wandb").glob(f"offline-run-*-{run_id}"):
                shutil.rmtree(fragment)
        is_default = config.project == WandbConfig().project
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", config.project) if is_default else config.project,
            entity=config.entity,  # None: that of WANDB_ENTITY, or the account's
            id=run_id,
            name=os.environ.get("WANDB_NAME", self._name),
            resume="allow",
            mode=mode,
            dir=str(place),
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


def _mode(config: WandbConfig) -> Any:
    """Return W&B's mode: the config's, or of `auto` that of WANDB_MODE, or else by whether there is a key."""
    if config.mode != "auto":
        return config.mode
    if given := os.environ.get("WANDB_MODE"):
        return given
    import wandb

    return "online" if wandb.api.api_key else "offline"
