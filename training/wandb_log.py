"""The wandb door: a copy of metrics.jsonl on Weights & Biases. One run for one artifact, each step logged once."""

import json
import os
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from cluster.files import write_text
from configs.cluster import WandbConfig
from training.metrics import StepMetrics


class WandbLog:
    """Logs steps to a wandb run that a restart continues. A context manager; does nothing if not configured."""

    def __init__(self, config: WandbConfig | None, directory: Path, *, name: str) -> None:
        self._config, self._directory, self._name = config, directory, name
        self._state = directory / "wandb.json"
        self._run: Any = None
        self._last_step = 0

    def __enter__(self) -> "WandbLog":
        if self._config is None:
            return self
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        if not self._state.exists():
            write_text(self._state, json.dumps({"id": uuid.uuid4().hex[:12], "last_step": 0}))
        state = json.loads(self._state.read_text(encoding="utf-8"))
        self._id, self._last_step = state["id"], state["last_step"]
        self._run = wandb.init(
            project=self._config.project,
            entity=self._config.entity,
            id=self._id,
            name=self._name,
            resume="allow",
            mode=_mode(self._config),
            dir=str(self._directory),
            settings=wandb.Settings(x_disable_stats=True, console="off"),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        return self

    def log(self, metrics: StepMetrics) -> None:
        """Copy a step, unless it was copied before a restart."""
        if self._run is None or metrics.step <= self._last_step:
            return
        row = metrics.model_dump(exclude={"seconds", "time"})
        row |= {f"seconds/{part}": value for part, value in metrics.seconds.items()}
        self._run.log(row, step=metrics.step)
        self._last_step = metrics.step
        self._note()

    def _note(self) -> None:
        """Remember what was logged; without waiting for the disk, at every step that would cost more than it saves."""
        partial = self._state.with_suffix(".partial")
        partial.write_text(json.dumps({"id": self._id, "last_step": self._last_step}), encoding="utf-8")
        partial.replace(self._state)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if error is None else 1)


def _mode(config: WandbConfig) -> Literal["online", "offline"]:
    if config.mode != "auto":
        return config.mode
    import wandb

    return "online" if wandb.api.api_key else "offline"
