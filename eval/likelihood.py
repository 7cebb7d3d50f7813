"""The likelihood that a model gives to texts, in the memory that training the model takes, or less.

Batches are bounded by tokens, logits are made for a few targets at a time and never for what is context, and losses are
fp32 whatever the weights are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from eval.sizing import MAX_WINDOW, chunk_elements
from eval.sizing import batch_tokens as tokens_of_a_batch
from training.network.probes import final_softcap

_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Targets:
    """Ids of which those from place `first` on are targets; `first` is at least 1."""

    ids: Sequence[int]
    first: int


@dataclass(frozen=True)
class Likelihood:
    """What a model finds of a sequence's targets."""

    nats: float
    """Their negative log-likelihood."""

    is_greedy: bool
    """Whether each of them is the likeliest after those before it."""


class Scorer:
    """A model that tells likelihoods."""

    def __init__(self, model: PreTrainedModel, *, batch_tokens: int | None = None) -> None:
        """Take a model that is on its device, in evaluation mode."""
        self.model = model
        self.context = context_of(model.config)
        kind = model.device.type
        self._batch_tokens = batch_tokens or tokens_of_a_batch(kind)
        self._chunk_elements = chunk_elements(kind)
        self._softcap, self._scale = final_softcap(model.config), 1.0
        self._head = self._find_head()
        if self._head is None:  # then a batch's logits are made at once
            self._batch_tokens = min(self._batch_tokens, max(1, self._chunk_elements // int(model.config.vocab_size)))

    def score(self, sequences: Sequence[Targets]) -> list[Likelihood]:
        """Return the likelihoods of sequences, none longer than the context and one, in their order."""
        order = sorted(range(len(sequences)), key=lambda number: -len(sequences[number].ids))
        found: list[Likelihood] = [Likelihood(0.0, True)] * len(sequences)
        for batch in _batches(order, sequences, self._batch_tokens):
            for number, one in zip(batch, self._score_batch([sequences[number] for number in batch]), strict=True):
                found[number] = one
        return found

    def document_nats(self, documents: Sequence[Sequence[int]], *, begin: int, end: int) -> list[float]:
        """Return the nats of each document's ids and of `end`, which ends it, with `begin` before the first.

        What a window of the context does not hold is read in further ones, in which each target has at least half a
        window before it.
        """
        windows = [
            (number, window)
            for number, ids in enumerate(documents)
            for window in cut_windows([begin, *ids, end], min(self.context, MAX_WINDOW))
        ]
        nats = [0.0] * len(documents)
        for (number, _), found in zip(windows, self.score([window for _, window in windows]), strict=True):
            nats[number] += found.nats
        return nats

    @torch.inference_mode()
    def _score_batch(self, batch: Sequence[Targets]) -> list[Likelihood]:
        longest = max(len(one.ids) for one in batch) - 1
        inputs = np.zeros((len(batch), longest), dtype=np.int64)
        places, targets, counts = [], [], []
        for row, one in enumerate(batch):
            inputs[row, : len(one.ids) - 1] = one.ids[:-1]
            places.append(np.arange(one.first - 1, len(one.ids) - 1) + row * longest)
            targets.append(np.asarray(one.ids[one.first :], dtype=np.int64))
            counts.append(len(targets[-1]))
        device = self.model.device
        # what is padded comes after all that is looked at, and a causal model does not look ahead
        states = self._states(torch.from_numpy(inputs).to(device)).flatten(0, 1)
        states = states.index_select(0, torch.from_numpy(np.concatenate(places)).to(device))
        losses, is_best = self._losses(states, torch.from_numpy(np.concatenate(targets)).to(device))
        bounds = np.cumsum(counts)[:-1]
        nats, best = np.split(losses.double().numpy(), bounds), np.split(is_best.numpy(), bounds)
        return [Likelihood(float(own.sum()), bool(all_best.all())) for own, all_best in zip(nats, best, strict=True)]

    def _states(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return what the losses are taken of: hidden states, or the logits where the head is not linear."""
        if self._head is None:
            logits: torch.Tensor = self.model(input_ids=inputs, use_cache=False).logits
            return logits
        states: torch.Tensor = self.model.base_model(input_ids=inputs, use_cache=False).last_hidden_state
        return states

    def _losses(self, states: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss of each target, fp32, and whether it is the likeliest."""
        losses, is_best = torch.empty(len(targets)), torch.empty(len(targets), dtype=torch.bool)
        rows = max(1, self._chunk_elements // int(self.model.config.vocab_size))
        for start in range(0, len(targets), rows):
            part = slice(start, start + rows)
            logits = self._logits(states[part])
            column = targets[part, None]
            is_best[part] = (logits.argmax(1, keepdim=True) == column)[:, 0].cpu()
            losses[part] = (logits.logsumexp(1, keepdim=True) - logits.gather(1, column))[:, 0].cpu()
        return losses, is_best

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        if self._head is None:
            return states.float()
        logits = F.linear(states, self._head.weight, self._head.bias).float() * self._scale
        return logits if self._softcap is None else self._softcap * torch.tanh(logits / self._softcap)

    @torch.inference_mode()
    def _find_head(self) -> Any:
        """Return the output layer if the logits are its product with hidden states, but for a factor or a soft cap."""
        self._head = layer = self.model.get_output_embeddings()
        if type(layer) is not torch.nn.Linear or layer.weight.shape[0] != self.model.config.vocab_size:
            return None
        ids = torch.arange(2, 10, device=self.model.device)[None] % self.model.config.vocab_size
        try:
            made = self._logits(self._states(ids)[0])
        except (AttributeError, TypeError):
            return None
        wanted = self.model(input_ids=ids, use_cache=False).logits[0].float()
        if made.shape != wanted.shape:
            return None
        if self._softcap is None and (size := float(made.square().sum())):
            self._scale = float((made * wanted).sum()) / size
            made *= self._scale
        return layer if (made - wanted).abs().max() <= _TOLERANCE * wanted.abs().max().clamp(min=1e-6) else None


def context_of(config: Any) -> int:
    """Return the tokens that a model of this configuration reads at once; MAX_WINDOW where it knows no end."""
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
    return next((int(size) for name in names if (size := getattr(config, name, None))), MAX_WINDOW)


def cut_windows(ids: Sequence[int], context: int) -> Iterator[Targets]:
    """Yield the windows in which ids from the second on are targets, each once."""
    number, stride = len(ids) - 1, max(1, context // 2)
    stop = min(context, number)
    if number:
        yield Targets(ids[: stop + 1], 1)
    while stop < number:
        start, stop = stop, min(stop + stride, number)
        first = stop - context
        yield Targets(ids[first : stop + 1], start + 1 - first)


def _batches(order: Sequence[int], sequences: Sequence[Targets], most: int) -> Iterator[list[int]]:
    """Yield sequences by their numbers, the longest first, so many that padded they have `most` tokens at most."""
    batch: list[int] = []
    for number in order:
        if batch and (len(batch) + 1) * (len(sequences[batch[0]].ids) - 1) > most:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch
