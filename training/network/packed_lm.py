"""The module that DeepSpeed trains: a causal language model on packed documents, with their mask and its loss."""

from typing import NamedTuple

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from configs.training.model import ModelConfig
from training.network.attention import run_packed
from training.network.head_loss import LossHead
from training.network.packed_rows import PackedRows
from training.network.probes import NetworkTraits, final_softcap
from training.network.router_losses import StepRouting, router_losses

TERMS = ("router_balance", "router_z", "output_z")
"""What the objective may have beside the loss, by the names of their weights in the recipe."""


class PackedLoss(NamedTuple):
    """The loss of one micro-batch."""

    objective: torch.Tensor
    """Scalar, fp32, with gradient: the sum of the token losses in nats, plus the weighted terms."""

    row_nats: torch.Tensor
    """(rows,), fp32, without gradient: the sum of the token losses of each row."""

    terms: torch.Tensor
    """(3,), without gradient: sums over tokens of the terms in TERMS, not weighted; 0 where it is not computed."""

    routed: torch.Tensor
    """(2, layers, experts), without gradient (RouterLosses.routed); (2, 0, 0) without experts."""


class PackedLM(torch.nn.Module):
    """A causal language model whose documents do not see each other, and which returns its loss."""

    def __init__(
        self, model: PreTrainedModel, *, boundary_id: int, max_tokens: int, config: ModelConfig, traits: NetworkTraits
    ) -> None:
        """Wrap `model`, of which the probes found `traits`; its parameters may be on the meta device.

        `max_tokens` are the targets in the largest micro-batch on any rank; `config` has the weights of the objective's
        terms.
        """
        super().__init__()
        self.model = model
        self._boundary_id = boundary_id
        self._config = config
        self._minds_router = traits.shows_routers and minds_router(config)
        self._has_linear_head = traits.has_linear_head
        if self._has_linear_head:
            head = LossHead(
                model.get_output_embeddings(),
                softcap=final_softcap(model.config),
                z_weight=config.output_z,
                max_tokens=max_tokens,
            )
            model.set_output_embeddings(head)

    def forward(self, rows: PackedRows, step: StepRouting | None = None) -> PackedLoss:
        """Return the loss of a micro-batch.

        `step` has what the experts were sent in the passes before of the same step; without it there were none.
        """
        options = {"output_router_logits": True} if self._minds_router else {}
        module = self.model.base_model if self._has_linear_head else self.model
        outputs = run_packed(module, rows, config=self.model.config, boundary_id=self._boundary_id, **options)
        states = outputs.last_hidden_state if self._has_linear_head else outputs.logits
        states = states.flatten(0, 1).index_select(0, rows.where)
        objective, losses, output_z = self._losses(states, rows.targets)
        nats = losses.new_zeros(rows.inputs.numel()).index_copy_(0, rows.where, losses).view_as(rows.inputs)
        nothing = output_z.new_zeros(())
        if not self._minds_router or not outputs.router_logits:
            terms = torch.stack([nothing, nothing, output_z])
            return PackedLoss(objective, nats.sum(1), terms, output_z.new_zeros(2, 0, 0))
        router = router_losses(
            outputs.router_logits,
            torch.arange(rows.inputs.shape[1], device=rows.inputs.device) < rows.lengths[:, None],
            top_k=self.model.config.num_experts_per_tok,
            step=(step or StepRouting()) if self._config.router_balance_by == "batch" else None,
        )
        # a term without weight must not keep its graph
        for weight, term in ((self._config.router_balance, router.balance), (self._config.router_z, router.z)):
            objective = objective + weight * term if weight else objective
        terms = torch.stack([router.balance.detach(), router.z.detach(), output_z])
        return PackedLoss(objective, nats.sum(1), terms, router.routed)

    def _losses(self, states: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the sum of the losses of the tokens that bear loss, with gradient, and each loss, without.

        The sum has the weighted z-losses of the output layer, whose own sum comes third. `states` (tokens, width) are
        hidden states, or logits where the head is not linear.
        """
        if self._has_linear_head:
            objective, losses, output_z = self.model.get_output_embeddings()(states, targets)
            return objective, losses, output_z
        losses = F.cross_entropy(states.float(), targets, reduction="none")
        if not self._config.output_z:
            return losses.sum(), losses.detach(), losses.new_zeros(())
        output_z = states.float().logsumexp(-1).square().sum()
        return losses.sum() + self._config.output_z * output_z, losses.detach(), output_z.detach()


def minds_router(config: ModelConfig) -> bool:
    """Return whether the objective has a term on what experts' routers return."""
    return config.router_balance > 0 or config.router_z > 0
