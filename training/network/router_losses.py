"""What the objective of a mixture of experts has beside the loss: that experts are equally busy, and a z-loss.

Both are sums over the tokens that bear loss, so that they are the same however a batch is spread over ranks and passes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch


class RouterLosses(NamedTuple):
    """The terms of one micro-batch, each the mean over layers of a sum over tokens, and what its experts were sent."""

    balance: torch.Tensor
    """Scalar with gradient."""

    z: torch.Tensor
    """Scalar with gradient: the squared log of the denominator of the router's softmax (arXiv 2202.08906, eq. 5)."""

    routed: torch.Tensor
    """(2, layers, experts), without gradient: the tokens sent to each expert, and the sum of their probabilities."""


class StepRouting:
    """What the experts were sent in a step so far, over all ranks and passes. Made anew for each step.

    A batch's shares are known only when all its passes are done, but each pass needs them for its gradient. As in arXiv
    2501.11873, section 3, a pass takes the shares of the step up to it; here they are those up to each sequence, in the
    order of the batch, so that they do not hang on how many sequences a pass has. The first sequences are judged by
    few: of E experts that are each busy with other sequences, the loss of a step of G is E / G times (ln G + 0.6) above
    its least, where that by the shares of the whole step is E / G above it, and by sequence E - 1 times it.
    """

    def __init__(self, *, rank: int = 0, max_rows: int = 1, orders: Sequence[npt.NDArray[np.int64]] = ()) -> None:
        """`orders` has for each pass the places of its rows in the order of the batch, if each rank has `max_rows`.

        Without, this rank alone computes the step.
        """
        self._rank, self._max_rows, self._orders = rank, max_rows, iter(orders)
        self._is_alone = not orders
        self._before: torch.Tensor | None = None
        """(layers, experts + 1): tokens by expert, and targets, of the passes before."""

    def shares(self, tokens: torch.Tensor, num_targets: torch.Tensor) -> torch.Tensor:
        """Return the shares of tokens up to each row, (rows, layers, experts). Collective, once a pass.

        `tokens` has the tokens of each row by layer and expert; `num_targets` (rows,) those that bear loss.
        """
        rows, layers, _ = tokens.shape
        own = torch.cat([tokens, num_targets[:, None, None].expand(rows, layers, 1)], dim=2)
        in_order, places = self._gather(own)
        if self._before is not None:
            in_order[0] += self._before
        so_far = in_order.long().cumsum(0).to(in_order.dtype)  # of floats a GPU adds up in no fixed order
        self._before = so_far[-1]
        mine = so_far[places]
        return mine[..., :-1] / mine[..., -1:].clamp(min=1)

    def _gather(self, own: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows of all ranks in the order of the batch, and the places of this rank's there.

        Rows that only fill a pass up, which bear no loss, come last and are at the last place.
        """
        if self._is_alone:
            return own.clone(), torch.arange(len(own), device=own.device)
        order = next(self._orders)
        padded = own.new_zeros(self._max_rows, *own.shape[1:])
        padded[: min(len(own), self._max_rows)] = own[: self._max_rows]
        gathered = own.new_empty(torch.distributed.get_world_size() * self._max_rows, *own.shape[1:])
        torch.distributed.all_gather_into_tensor(gathered, padded)
        mine = np.flatnonzero(order // self._max_rows == self._rank)
        places = np.pad(mine, (0, len(own) - len(mine)), constant_values=len(order) - 1)
        return gathered[torch.from_numpy(order).to(own.device)], torch.from_numpy(places).to(own.device)


def router_losses(
    router_logits: Sequence[torch.Tensor], bears_loss: torch.Tensor, *, top_k: int, step: StepRouting | None
) -> RouterLosses:
    """Return the terms of a micro-batch whose routers gave `router_logits`, for each layer (rows * length, experts).

    `bears_loss` is boolean, (rows, length). A layer's load-balancing loss is the number of experts times the sum over
    experts of the share of tokens sent there times their mean probability (arXiv 2101.03961, eq. 4): `top_k` a token if
    all are equally busy. The shares are those of `step`, or, without, of each row by itself (arXiv 2412.19437, eq. 17).
    """
    counted = bears_loss.float()
    num_targets, z = counted.sum(1), counted.new_zeros(())
    tokens_by_layer, mass_by_layer = [], []
    for layer in router_logits:  # one at a time, so that what the backward pass does not need is freed
        logits = layer.float().view(*bears_loss.shape, -1)
        probabilities = logits.softmax(-1)
        chosen = torch.zeros_like(probabilities).scatter_(-1, probabilities.topk(top_k).indices, 1.0)
        tokens_by_layer.append(torch.einsum("rl,rle->re", counted, chosen))
        mass_by_layer.append(torch.einsum("rl,rle->re", counted, probabilities))
        z = z + (counted * logits.logsumexp(-1).square()).sum()
    tokens, mass = torch.stack(tokens_by_layer, dim=1), torch.stack(mass_by_layer, dim=1)
    shares = tokens / num_targets.clamp(min=1)[:, None, None] if step is None else step.shares(tokens, num_targets)
    return RouterLosses(
        balance=mass.shape[-1] * (shares * mass).sum() / len(router_logits),
        z=z / len(router_logits),
        routed=torch.stack([tokens.sum(0), mass.detach().sum(0)]),
    )


def balance_of_batch(routed: torch.Tensor, *, num_targets: int) -> float:
    """Return the load-balancing loss of a whole batch of so many targets, by the sum of its micro-batches' `routed`."""
    counts, mass = routed.double() / num_targets
    return float(counts.shape[-1] * (counts * mass).sum(-1).mean())
