"""A copy of metrics.jsonl on Weights & Biases: one run for one artifact, each step logged once.

No other module imports wandb.
"""

import os
import shutil
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from cluster.host.files import write_text
from configs.cluster import WandbConfig
from training.log.metrics_file import StepMetrics


class WandbLog:
    """Logs steps to a wandb run, which a restart resumes. A context manager; does nothing without a config."""

    def __init__(self, config: WandbConfig | None, directory: Path, *, name: str, so_far: list[StepMetrics]) -> None:
        """Prepare the run. `so_far` are the steps before a restart; those that wandb does not have are logged first.

        What wandb had buffered is lost with a killed process, so the server is asked for its last step. Offline it has
        none: the file of a killed process is incomplete, so it is deleted and written again.
        """
        self._config, self._directory, self._name, self._so_far = config, directory, name, so_far
        self._run: Any = None
        self._next = 0

    def __enter__(self) -> "WandbLog":
        if self._config is None:
            return self
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        mode = _mode(self._config)
        if mode == "offline":
            for fragment in (self._directory / "wandb").glob("offline-run-*"):
                shutil.rmtree(fragment)
        self._run = wandb.init(
            project=self._config.project,
            entity=self._config.entity,
            id=_run_id(self._directory),
            name=self._name,
            resume="allow",
            mode=mode,
            dir=str(self._directory),
            settings=wandb.Settings(x_disable_stats=True, console="off"),
        )
        self._next = self._run.step  # the first step it lacks
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        for metrics in self._so_far:
            self.log(metrics)
        return self

    def log(self, metrics: StepMetrics) -> None:
        """Copy a step, unless wandb has it: after a roll-back, steps that are taken again are not logged again."""
        if self._run is None or metrics.step < self._next:
            return
        self._run.log(_row(metrics), step=metrics.step)
        self._next = metrics.step + 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if error is None else 1)


def _row(metrics: StepMetrics) -> dict[str, Any]:
    """Return the step's numbers under flat names; those that are not known are left out."""
    row = metrics.model_dump(exclude={"seconds", "nats", "targets", "time"}, exclude_none=True)
    row |= {f"seconds/{part}": value for part, value in metrics.seconds.items()}
    by_stream = {stream: metrics.nats[stream] / number for stream, number in metrics.targets.items() if number}
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
