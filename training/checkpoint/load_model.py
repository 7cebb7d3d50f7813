"""A trained model, assembled from its checkpoint."""

from pathlib import Path
from typing import Literal

from transformers import AutoConfig, PreTrainedModel

from configs.base import UserError
from training.checkpoint.directory import load_weights
from training.checkpoint.retention import hold
from training.network.build_model import build_model


def load_model(directory: Path, *others: Path, kind: Literal["master", "ema"] = "master") -> PreTrainedModel:
    """Load the model of a checkpoint, fp32, on the CPU, in evaluation mode: its weights, or the moving average of them.

    With `others` they are the mean over all these checkpoints. Keeps each from being deleted while it is read.
    """
    with hold(directory):
        weights = load_weights(directory, kind=kind)
        model, _ = build_model(AutoConfig.from_pretrained(directory))
    for number, other in enumerate(others, 2):
        for name, tensor in load_weights(other, kind=kind).items():
            weights[name].lerp_(tensor, 1 / number)
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    untied = set(missing) - set(model.all_tied_weights_keys)
    if untied or unexpected:
        raise UserError(f"checkpoint {directory} does not fit its configuration: {sorted(untied) + list(unexpected)}")
    return model.eval()
