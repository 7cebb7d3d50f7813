"""The output layer with its loss, which never holds the logits of all tokens."""

from math import ceil
from typing import Any

import torch
from torch.nn import functional as F

from training.network.loss_chunks import max_chunk_tokens


class LossHead(torch.nn.Module):
    """An output layer, linear in the hidden states, that returns the logits or the losses of the tokens.

    It shares the parameters of the layer it replaces, and their names.
    """

    def __init__(self, layer: torch.nn.Linear, *, softcap: float | None, z_weight: float, max_tokens: int) -> None:
        """Take the place of `layer`.

        `softcap` bounds the logits that the losses are taken of (arXiv 2408.00118, section 2). `z_weight` is that of
        the z-loss, the squared log of the softmax's denominator. `max_tokens` are the targets in the largest
        micro-batch, the same on all ranks.
        """
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self._softcap, self._z_weight = softcap, z_weight
        self._max_tokens, self._vocab_size = max_tokens, layer.out_features

    def forward(self, hidden: torch.Tensor, targets: torch.Tensor | None = None) -> Any:
        """Return logits without the cap, (..., vocabulary), or, with targets (n,) of hidden (n, width), losses.

        These are the sum of the losses and of the weighted z-losses, which alone has a gradient, the losses (n,), in
        nats and fp32, and the sum of the z-losses. They are taken here because ZeRO-3 gathers the weight for the length
        of this call.
        """
        if targets is None:
            return F.linear(hidden, self.weight, self.bias)
        # from what is the same on all ranks, never from the number of targets
        num_chunks = ceil(self._max_tokens / max_chunk_tokens(self._vocab_size, device=hidden.device.type))
        arguments = (hidden, self.weight, self.bias, targets, self._softcap, self._z_weight, num_chunks)
        return _TokenLosses.apply(*arguments, torch.is_grad_enabled())  # type: ignore[no-untyped-call]


class _TokenLosses(torch.autograd.Function):
    """Cross entropy of a linear layer, whose gradients are computed in the forward pass: logits are made only once.

    This is the method of Liger Kernel's fused linear cross entropy (arXiv 2410.10989, section 3.2).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        softcap: float | None,
        z_weight: float,
        num_chunks: int,
        differentiate: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        given = (hidden, weight, bias)
        gradients = [
            torch.zeros_like(tensor, dtype=tensor.dtype if tensor is hidden else torch.float32)
            if differentiate and needed and tensor is not None
            else None
            for tensor, needed in zip(given, ctx.needs_input_grad, strict=False)
        ]
        # products of bf16 took 20 times as long on a CPU without instructions for them
        dtype = torch.float32 if hidden.device.type == "cpu" else hidden.dtype
        weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        losses = hidden.new_empty(len(targets), dtype=torch.float32)
        z_loss = losses.new_zeros(())
        for rows in torch.arange(len(targets)).tensor_split(num_chunks):
            where = slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 0)
            part = hidden[where].to(dtype)
            logits = F.linear(part, weight, bias).float()
            losses[where], log_total, slope = _losses_and_slope(
                logits, targets[where], softcap=softcap, z_weight=z_weight
            )
            z_loss += log_total.square().sum()
            _add_gradients(gradients, slope, part=part, weight=weight, where=where)
        ctx.gradients, ctx.dtypes = gradients, [None if tensor is None else tensor.dtype for tensor in given]
        ctx.mark_non_differentiable(losses, z_loss)
        return losses.sum() + z_weight * z_loss, losses, z_loss

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None  # they are scaled in place, so they can be used once
        return (
            *(
                None if gradient is None else gradient.mul_(upstream).to(dtype)
                for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)
            ),
            *(None,) * 5,
        )


def _losses_and_slope(
    logits: torch.Tensor, targets: torch.Tensor, *, softcap: float | None, z_weight: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the losses (n,), the log of each softmax's denominator, and the derivative (n, vocabulary).

    That is the derivative of the sum of losses and weighted z-losses by the uncapped logits, which it overwrites.
    """
    if not len(targets):
        return logits[:, 0], logits[:, 0], logits
    capped = None
    if softcap is not None:
        capped = logits.div_(softcap).tanh_()
        logits = capped * softcap
    column = targets[:, None]
    top, target = logits.amax(1, keepdim=True), logits.gather(1, column)
    total = logits.sub_(top).exp_().sum(1, keepdim=True)
    log_total = total.log() + top
    softmax = logits.div_(total)
    if z_weight:
        softmax.mul_(1 + 2 * z_weight * log_total)
    slope = softmax.scatter_add_(1, column, logits.new_full((1, 1), -1.0).expand_as(column))
    if capped is not None:
        slope.mul_(1 - capped.square_())
    return (log_total - target)[:, 0], log_total[:, 0], slope


def _add_gradients(
    gradients: list[torch.Tensor | None],
    slope: torch.Tensor,
    *,
    part: torch.Tensor,
    weight: torch.Tensor,
    where: slice,
) -> None:
    """Set the rows `where` of the hidden states' gradient, and add to those of weight and bias, in fp32."""
    of_hidden, of_weight, of_bias = gradients
    if of_bias is not None:
        of_bias.add_(slope.sum(0))
    slope = slope.to(part.dtype)
    if of_hidden is not None:
        of_hidden[where] = slope @ weight
    if of_weight is not None and part.dtype == torch.float32:
        of_weight.addmm_(slope.T, part)
    elif of_weight is not None:
        of_weight.add_(slope.T @ part)
