"""The module that DeepSpeed trains: a causal language model on packed documents, with their mask and its loss."""

from typing import Any, NamedTuple

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from configs.training import ModelConfig
from training.network.head_loss import LossHead
from training.network.probes import (
    check_documents_are_separate,
    check_router_is_visible,
    final_softcap,
    has_linear_head,
    probe_mode,
)
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

    def __init__(self, model: PreTrainedModel, *, eos_id: int, max_tokens: int, config: ModelConfig) -> None:
        """Wrap `model`, in fp32 on the CPU; `max_tokens` are the targets in the largest micro-batch on any rank.

        `config` has the weights of the objective's terms. Raises UserError if the architecture cannot keep documents
        apart, or has experts that cannot be balanced.
        """
        super().__init__()
        self.model = model
        self._eos_id = eos_id
        self._config = config
        routes = "router_logits" in (model.base_model._can_record_outputs or {})
        self._minds_router = routes and (config.router_balance > 0 or config.router_z > 0)
        with probe_mode(model):
            check_documents_are_separate(self._run, model, eos_id=eos_id)
            if self._minds_router:
                check_router_is_visible(self._run, model)
            self._has_linear_head = has_linear_head(self._run, model)
        if self._has_linear_head:
            head = LossHead(
                model.get_output_embeddings(),
                softcap=final_softcap(model),
                z_weight=config.output_z,
                max_tokens=max_tokens,
            )
            model.set_output_embeddings(head)

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor, step: StepRouting | None = None) -> PackedLoss:
        """Return the loss of `tokens` (rows, length + 1); row i bears loss on its first lengths[i] targets only.

        `step` has what the experts were sent in the passes before of the same step; without it there were none.
        """
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        bears_loss = torch.arange(inputs.shape[1], device=inputs.device) < lengths[:, None]
        where = bears_loss.flatten().nonzero()[:, 0]
        outputs = self._run(self.model.base_model if self._has_linear_head else self.model, inputs)
        states = outputs.last_hidden_state if self._has_linear_head else outputs.logits
        objective, losses, output_z = self._losses(
            states.flatten(0, 1).index_select(0, where), targets.flatten()[where]
        )
        nats = torch.zeros_like(bears_loss, dtype=torch.float32).masked_scatter_(bears_loss, losses)
        nothing = output_z.new_zeros(())
        if not self._minds_router or not outputs.router_logits:
            terms = torch.stack([nothing, nothing, output_z])
            return PackedLoss(objective, nats.sum(1), terms, output_z.new_zeros(2, 0, 0))
        router = router_losses(
            outputs.router_logits,
            bears_loss,
            top_k=self.model.config.num_experts_per_tok,
            step=(step or StepRouting()) if self._config.router_balance_by == "batch" else None,
        )
        # a term without weight must not keep its graph
        for weight, term in ((self._config.router_balance, router.balance), (self._config.router_z, router.z)):
            objective = objective + weight * term if weight else objective
        terms = torch.stack([router.balance.detach(), router.z.detach(), output_z])
        return PackedLoss(objective, nats.sum(1), terms, router.routed)

    def _run(self, module: torch.nn.Module, inputs: torch.Tensor) -> Any:
        """Run `module`, the model or its body, on `inputs` (rows, length), with documents kept apart.

        transformers makes the mask from the positions, as long as it is given no mask and no cache.
        """
        positions = document_positions(inputs, eos_id=self._eos_id)
        options = {"output_router_logits": True} if self._minds_router else {}
        return module(input_ids=inputs, position_ids=positions, use_cache=False, **options)

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


def document_positions(inputs: torch.Tensor, *, eos_id: int) -> torch.Tensor:
    """Return each token's place (rows, length) in its document; a document begins with each row and at each eos.

    The eos that ends a document stands before the next one, as it does when text is scored.
    """
    place = torch.arange(inputs.shape[1], device=inputs.device)
    return place - torch.where(inputs == eos_id, place, 0).cummax(1).values
