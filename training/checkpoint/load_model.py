"""A trained model, assembled from its checkpoint."""

from pathlib import Path

from transformers import AutoConfig, PreTrainedModel

from configs.base import UserError
from training.checkpoint.directory import load_weights
from training.checkpoint.retention import hold
from training.network.build_model import build_model


def load_model(directory: Path) -> PreTrainedModel:
    """Load the model of a checkpoint, fp32, on the CPU, in evaluation mode. Keeps the checkpoint from being deleted."""
    with hold(directory):
        weights = load_weights(directory)
        model, _ = build_model(AutoConfig.from_pretrained(directory))
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    untied = set(missing) - set(model.all_tied_weights_keys)
    if untied or unexpected:
        raise UserError(f"checkpoint {directory} does not fit its configuration: {sorted(untied) + list(unexpected)}")
    return model.eval()
