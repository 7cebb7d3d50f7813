"""What scoring a model takes of a device's memory. Imports nothing heavy: plans ask, too."""

from configs.base import GIB
from training.network.loss_chunks import CPU_CHUNK_ELEMENTS, GPU_CHUNK_ELEMENTS
from training.sizing.model_size import ModelSize

BATCH_TOKENS = {"cpu": 4096}
"""Tokens of one forward pass at most, but for a sequence that is longer by itself, by the type of device."""

BATCH_TOKENS_OF_OTHERS = 32_768

MAX_WINDOW = 8192
"""Tokens of a window of a long document at most, whatever the model's context is."""

PROCESS_BYTES = {"cpu": int(1.2 * GIB)}
"""What a worker takes before it has loaded a model: its libraries, on a CPU. An assumption for GPUs."""

PROCESS_BYTES_OF_OTHERS = GIB

_STATES = 6
"""Copies of the hidden states that a layer holds at a time: the residual, its norm, queries or outputs, sums."""


def batch_tokens(device: str) -> int:
    """Return the tokens of one forward pass, at most."""
    return BATCH_TOKENS.get(device, BATCH_TOKENS_OF_OTHERS)


def chunk_elements(device: str) -> int:
    """Return the logits that are held at a time."""
    return CPU_CHUNK_ELEMENTS if device == "cpu" else GPU_CHUNK_ELEMENTS


def scoring_bytes(size: ModelSize, device: str, *, sequence_length: int) -> int:
    """Return the bytes of its device's memory that scoring takes: weights, a pass, logits, and the process.

    Weights are bf16 on GPUs, and fp32 on CPUs.
    """
    width = 4 if device == "cpu" else 2
    tokens = max(batch_tokens(device), min(sequence_length, MAX_WINDOW))
    heads = (2 * size.num_heads + 2 * size.num_key_value_heads) * size.head_dim
    a_layer = tokens * width * (_STATES * size.hidden_size + 3 * size.ffn_size + heads)
    logits = 3 * 4 * max(chunk_elements(device), size.vocab_size)  # fp32, and what a softmax makes beside them
    return size.num_parameters * width + a_layer + logits + PROCESS_BYTES.get(device, PROCESS_BYTES_OF_OTHERS)
