"""The term of the objective that keeps the experts of a mixture equally busy."""

from collections.abc import Sequence

import torch


def balance_loss(router_logits: Sequence[torch.Tensor], bears_loss: torch.Tensor, *, top_k: int) -> torch.Tensor:
    """Return the load-balancing loss, summed over rows, each weighted by its number of targets.

    `router_logits` has each layer's, (rows * length, experts); `bears_loss` is boolean, (rows, length). Per layer and
    row the loss is the number of experts times the sum over experts of the share of tokens sent there times the mean
    probability (arXiv 2101.03961, equation 4; by sequence as in arXiv 2412.19437, equation 17), so `top_k` if all are
    equally busy; then the mean over layers is taken. It is the same however rows are spread over calls.
    """
    counted = bears_loss.float()
    num_targets = counted.sum(1).clamp(min=1)
    total = counted.new_zeros(())
    for logits in router_logits:
        probabilities = logits.float().softmax(-1).view(*bears_loss.shape, -1)
        chosen = torch.zeros_like(probabilities).scatter_(-1, probabilities.topk(top_k).indices, 1.0)
        tokens = torch.einsum("rl,rle->re", counted, chosen)
        mass = torch.einsum("rl,rle->re", counted, probabilities)
        total = total + ((tokens * mass).sum(1) * logits.shape[-1] / num_targets).sum()
    return total / max(len(router_logits), 1)
