"""A model as a Hugging Face directory, which transformers loads with no code of ours, as stage `export` writes it."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from cluster.executor import Executor
from configs.base import Artifact
from configs.evaluation import ExportConfig
from data_prep.manifests import TrainedTokenizer
from data_prep.tokenizer.stage import check_certificate
from training.checkpoint.choice import ChosenWeights, choose_weights
from training.manifests import ExportedModel, TrainedModel

MODEL = "model"
"""The Hugging Face directory in the artifact."""


@dataclass(frozen=True)
class _ExportTask:
    weights: ChosenWeights
    tokenizer: Artifact[TrainedTokenizer]
    model: Path
    dtype: str


@dataclass(frozen=True)
class Written:
    """A Hugging Face directory that was written."""

    num_bytes: int
    minimum_transformers: str
    """The oldest version that reads it."""


def export_model(
    config: ExportConfig,
    *,
    model: Artifact[TrainedModel],
    tokenizer: Artifact[TrainedTokenizer],
    out: Path,
    executor: Executor,
) -> ExportedModel:
    """Write the weights in safetensors, the configuration and the certified tokenizer into one directory."""
    check_certificate(tokenizer)
    task = _ExportTask(choose_weights(config, model), tokenizer, out / MODEL, config.dtype)
    (written,) = executor.map(_write_model, [task], label="exporting")
    return ExportedModel(
        path=MODEL,
        dtype=config.dtype,
        step=task.weights.step,
        num_parameters=model.manifest.num_parameters,
        num_bytes=written.num_bytes,
        minimum_transformers=written.minimum_transformers,
    )


def _write_model(task: _ExportTask) -> Written:
    return write_hugging_face(task.weights, task.tokenizer, task.model, dtype=task.dtype)


def write_hugging_face(
    weights: ChosenWeights, tokenizer: Artifact[TrainedTokenizer], directory: Path, *, dtype: str
) -> Written:
    """Write a model's directory anew, in this process, with weights of a number format of torch's."""
    import torch
    from transformers.utils import logging

    from training.checkpoint.directory import system_errors
    from training.checkpoint.load_model import load_model
    from training.hf_files import write_config, write_tokenizer

    shutil.rmtree(directory, ignore_errors=True)
    model = load_model(*weights.checkpoints, kind=weights.kind).to(getattr(torch, dtype))
    model.config.use_cache = True  # which the model was built without
    model.generation_config.use_cache = True
    logging.disable_progress_bar()
    with system_errors(directory):
        model.save_pretrained(directory)
    minimum = write_config(directory, names=model.config.attribute_map)
    write_tokenizer(tokenizer, directory, max_length=getattr(model.config, "max_position_embeddings", None))
    files = list(directory.iterdir())
    for file in files:
        file.chmod(0o644)  # transformers 5.23 writes weights that only their owner can read
    return Written(sum(file.stat().st_size for file in files), minimum)
