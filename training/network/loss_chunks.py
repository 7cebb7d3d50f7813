"""How many tokens' logits the output layer makes at a time. Imports nothing heavy: the memory plan asks, too."""

CPU_CHUNK_ELEMENTS = 2**21
"""Logits held at a time, 8 MiB in fp32: the fastest of 2 to 64 MiB at 8,192 pieces."""

GPU_CHUNK_ELEMENTS = 2**28
"""1 GiB in fp32: the gradient of a large weight, added to once a chunk, should cost little beside the products."""

MIN_CHUNK_TOKENS = 256
"""With fewer, adding up the gradient of a large weight would take longer than the products."""


def max_chunk_tokens(vocab_size: int, *, device: str) -> int:
    """Return the most tokens whose logits are held at a time on `device`, `cpu` or `cuda`."""
    elements = CPU_CHUNK_ELEMENTS if device == "cpu" else GPU_CHUNK_ELEMENTS
    return max(elements // vocab_size, MIN_CHUNK_TOKENS)
