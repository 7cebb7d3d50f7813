"""The stage that exports a model as a Hugging Face directory, which transformers loads with no code of ours."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from cluster.executor import Executor
from configs.base import Artifact
from configs.evaluation import ExportConfig
from data_prep.manifests import TrainedTokenizer
from data_prep.tokenizer.stage import HUGGING_FACE, check_certificate
from training.checkpoint.choice import ChosenWeights, choose_weights
from training.manifests import ExportedModel, TrainedModel

MODEL = "model"
"""The Hugging Face directory in the artifact."""


@dataclass(frozen=True)
class _ExportTask:
    weights: ChosenWeights
    tokenizer: Path
    model: Path
    dtype: str


def export(
    config: ExportConfig,
    *,
    model: Artifact[TrainedModel],
    tokenizer: Artifact[TrainedTokenizer],
    out: Path,
    executor: Executor,
) -> ExportedModel:
    """Write the weights in safetensors, the configuration and the certified tokenizer into one directory."""
    check_certificate(tokenizer)
    task = _ExportTask(choose_weights(config, model), tokenizer.dir / HUGGING_FACE, out / MODEL, config.dtype)
    (num_bytes,) = executor.map(_write_model, [task], label="exporting")
    parameters = model.manifest.num_parameters
    return ExportedModel(
        path=MODEL, dtype=config.dtype, step=task.weights.step, num_parameters=parameters, num_bytes=num_bytes
    )


def _write_model(task: _ExportTask) -> int:
    """Write the directory anew, and return its size in bytes."""
    import torch
    from transformers.utils import logging

    from training.checkpoint.directory import system_errors
    from training.checkpoint.load_model import load_model

    shutil.rmtree(task.model, ignore_errors=True)
    model = load_model(*task.weights.checkpoints, kind=task.weights.kind).to(getattr(torch, task.dtype))
    model.config.use_cache = True
    logging.disable_progress_bar()
    with system_errors(task.model):
        model.save_pretrained(task.model)
    for file in task.tokenizer.iterdir():
        (task.model / file.name).write_bytes(file.read_bytes())
    files = list(task.model.iterdir())
    for file in files:
        file.chmod(0o644)  # transformers 5.23 writes weights that only their owner can read
    return sum(file.stat().st_size for file in files)
