"""The likelihood that a model gives to texts."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

BATCH_ROWS = 16
"""Number of windows in one forward pass."""


def document_nats(documents: Sequence[Sequence[int]], model: PreTrainedModel, *, prefix: int) -> list[float]:
    """Return the negative log-likelihood of each document's ids, in nats, with the id `prefix` before its first id.

    A document longer than the model's context is read in windows that do not overlap: each target has at least
    the id before it as context, as in lm-eval's rolling log-likelihood.
    """
    context = int(model.config.max_position_embeddings)
    windows = [(number, window) for number, ids in enumerate(documents) for window in _windows([prefix, *ids], context)]
    windows.sort(key=lambda entry: len(entry[1]))  # rows of one batch are about equally long
    nats = [0.0] * len(documents)
    for start in range(0, len(windows), BATCH_ROWS):
        batch = windows[start : start + BATCH_ROWS]
        for (number, _), value in zip(batch, _compute_batch_nats([window for _, window in batch], model), strict=True):
            nats[number] += value
    return nats


def _windows(ids: list[int], context: int) -> Iterator[list[int]]:
    for start in range(0, len(ids) - 1, context):
        yield ids[start : start + context + 1]


@torch.inference_mode()
def _compute_batch_nats(windows: list[list[int]], model: PreTrainedModel) -> list[float]:
    longest = max(len(window) for window in windows)
    padded = np.zeros((len(windows), longest), dtype=np.int64)
    for row, window in enumerate(windows):
        padded[row, : len(window)] = window
    tokens = torch.from_numpy(padded).to(model.device)
    logits = model(input_ids=tokens[:, :-1]).logits.float()
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
    return [float(losses[row, : len(window) - 1].sum()) for row, window in enumerate(windows)]
