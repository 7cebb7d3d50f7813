"""Bytes that autograd and the loss hold of a micro-batch, and the implementation of attention that they are of.

The terms were read from transformers 5.23, PyTorch 2.13 and training/network/head_loss.py; docs/planning.md explains
them.
"""

from cluster.placement import Placement
from configs.training.train import TrainConfig
from training.network.loss_chunks import max_chunk_tokens
from training.network.model_rules import refuse_attention, why_attention_never_runs
from training.sizing.flops import SKIPS_PAIRS
from training.sizing.model_size import ModelSize, TrainingLayout


def loss_bytes(size: ModelSize, setting: TrainingLayout) -> int:
    """Return the bytes of the chunked loss (training/network/head_loss.py).

    They are a chunk of logits, the fp32 gradient of the output layer's weight and the gradient of the hidden states.
    """
    tokens, weight = setting.micro_batch_size * setting.sequence_length, size.vocab_size * size.hidden_size
    return logits_bytes(size, setting) + 4 * weight + setting.width * tokens * size.hidden_size


def logits_bytes(size: ModelSize, setting: TrainingLayout) -> int:
    """Return the bytes that the loss needs in the forward pass alone.

    They are a chunk of logits, and in bf16 training a copy of the output layer's weight on CPUs, which multiply in
    fp32, and on GPUs its gradient before it is added in fp32.
    """
    width = setting.width
    tokens, weight = setting.micro_batch_size * setting.sequence_length, size.vocab_size * size.hidden_size
    rows = min(tokens, max_chunk_tokens(size.vocab_size, device=setting.device))
    before = min(tokens - rows, rows)  # the chunk before is kept while the next one is made
    on_cpu = setting.device == "cpu"
    copies = 0 if width == 4 or on_cpu else 2 * width  # the logits, and their slope, before and after fp32
    extra = 0 if width == 4 else (4 if on_cpu else width) * weight
    return size.vocab_size * (rows * (4 + copies) + before * 4) + extra


def activation_bytes(size: ModelSize, setting: TrainingLayout) -> int:
    """Return the bytes of activations that all layers keep from the forward pass for the backward pass."""
    tokens, width = setting.micro_batch_size * setting.sequence_length, setting.width
    layer = tokens * _layer_bytes_per_token(size, setting) + _mask_bytes(setting)
    ends = tokens * size.hidden_size * (_norm_bytes(width) + width)
    if setting.activation_checkpointing:
        return tokens * width * size.hidden_size * size.num_layers + layer + ends
    return layer * size.num_layers + ends


def _layer_bytes_per_token(size: ModelSize, setting: TrainingLayout) -> int:
    """Return the bytes a token that autograd keeps of a layer; docs/planning.md explains each term."""
    width = setting.width
    queries, keys = size.num_heads * size.head_dim, size.num_key_value_heads * size.head_dim
    norms = size.num_norms * size.hidden_size * _norm_bytes(width)
    head_norms = (queries + keys) * (_norm_bytes(width) - width) if size.has_head_norm else 0
    repeated = keys if setting.attention in SKIPS_PAIRS else queries  # with a mask, for each head
    attention = 2 * (queries + repeated) * width + 4 * size.num_heads
    if setting.attention == "eager":
        attention += size.num_heads * setting.sequence_length * (4 if width == 4 else 6)
    return norms + head_norms + attention + 4 * size.ffn_size * width


def _norm_bytes(width: int) -> int:
    """Return the bytes an element that an RMSNorm keeps: its input in fp32, the normalised value, the output."""
    return 4 + 2 * width


def _mask_bytes(setting: TrainingLayout) -> int:
    """Return the bytes of the mask over pairs of positions that keeps documents apart; `eager` does not keep it."""
    if setting.attention != "sdpa":
        return 0
    return setting.micro_batch_size * setting.sequence_length**2 * setting.width


def expected_attention(config: TrainConfig, placement: Placement) -> str:
    """Return the implementation of attention to reckon with, where the pool leaves it to the start of training.

    In bf16 GPUs from A100, and those whose kind is not known, have PyTorch's own flash kernel; where it does not do for
    the architecture, the start of training checks again (training/loop/build.py).
    """
    if placement.attention != "auto":
        return placement.attention
    return "sdpa" if _why_not("varlen", config, placement) else "varlen"


def why_not_attention(config: TrainConfig, placement: Placement) -> str | None:
    """Return why the implementation of attention that the pool names cannot be used; None if it may."""
    reason = _why_not(placement.attention, config, placement)
    return None if reason is None else refuse_attention(f"{placement.attention} {reason}")


def _why_not(attention: str, config: TrainConfig, placement: Placement) -> str | None:
    return why_attention_never_runs(
        attention, device=placement.device, precision=config.precision, capability=placement.capability
    )
