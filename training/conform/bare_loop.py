"""A training loop in plain PyTorch, as somebody would write it by hand: what the trainer's speed is compared with.

It has the same model, attention, rows and optimizer, and no DeepSpeed, checkpoints, metrics or chunked loss.
"""

from typing import cast

import torch
from torch.nn import functional as F

from configs.training.train import TrainConfig
from training.conform.synthetic_job import EOS, PAD
from training.data.prefetch import StepInput
from training.network.attention import run_packed, set_attention
from training.network.build_model import build_in_memory
from training.network.compile import compile_layers
from training.network.model_config import make_model_config


class BareLoop:
    """A model with its AdamW: fp32 masters, and copies in bf16 to compute with where the recipe says so."""

    def __init__(
        self, config: TrainConfig, *, vocab_size: int, attention: str, device: torch.device, compiled: bool
    ) -> None:
        settings = make_model_config(config, vocab_size=vocab_size, eos_id=EOS, pad_id=PAD)
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        self._model = build_in_memory(settings, seed=config.seed).to(device, dtype)
        set_attention(self._model, attention)
        if compiled:
            compile_layers(self._model)
        self._weights = list(self._model.parameters())
        is_copied = dtype != torch.float32
        self._masters = [w.detach().float().requires_grad_() for w in self._weights] if is_copied else self._weights
        settings_of_adam = config.optimizer
        self._limit = settings_of_adam.max_gradient_norm
        self._optimizer = torch.optim.AdamW(
            self._masters,
            lr=settings_of_adam.learning_rate,
            betas=(settings_of_adam.beta1, settings_of_adam.beta2),
            weight_decay=settings_of_adam.weight_decay,
            fused=device.type in ("cpu", "cuda", "xpu"),
        )

    def take_step(self, step_input: StepInput) -> float:
        """Take an optimizer step, and return its loss."""
        total = torch.zeros((), device=self._weights[0].device)
        for rows, _ in step_input.micro_batches:
            logits = run_packed(self._model, rows, config=self._model.config, boundary_id=EOS).logits
            kept = logits.flatten(0, 1).index_select(0, rows.where)
            loss = F.cross_entropy(kept.float(), rows.targets, reduction="sum") / step_input.batch.num_targets
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
            self._add_gradients()
        torch.nn.utils.clip_grad_norm_(self._masters, self._limit)
        self._optimizer.step()
        self._optimizer.zero_grad()
        if self._masters is not self._weights:
            with torch.no_grad():
                torch._foreach_copy_(self._weights, self._masters)
        return float(total)

    def _add_gradients(self) -> None:
        """Add the gradients of a pass to those of the masters, in fp32."""
        if self._masters is self._weights:
            return
        gradients = [cast(torch.Tensor, weight.grad) for weight in self._weights]
        if self._masters[0].grad is None:
            for master, gradient in zip(self._masters, gradients, strict=True):
                master.grad = gradient.float()
        else:
            torch._foreach_add_([cast(torch.Tensor, master.grad) for master in self._masters], gradients)
        for weight in self._weights:
            weight.grad = None
