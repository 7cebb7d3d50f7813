"""How large the models of the checks are, by what the device holds. Imports nothing heavy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from configs.base import GIB

Precision = Literal["bf16", "fp32"]


@dataclass(frozen=True)
class Trial:
    """A model, and the steps that it is trained for."""

    model: Mapping[str, Any]
    """The recipe's `model`."""

    vocab_size: int
    sequence_length: int
    rows: int
    """Sequences in a forward and backward pass."""

    passes: int
    """Passes of an optimizer step."""

    precision: Precision
    num_steps: int
    """Steps whose time is taken, or that are trained."""

    @property
    def tokens_per_step(self) -> int:
        """Tokens of an optimizer step, with those that bear no loss."""
        return self.rows * self.passes * self.sequence_length


@dataclass(frozen=True)
class Scale:
    """The sizes of all checks."""

    name: str
    small: Trial
    """For exact comparisons."""

    large: Trial
    """For speed and memory."""

    precisions: tuple[Precision, ...]
    """What gradients are compared in."""

    attention_length: int
    """Length of the one row that implementations of attention are timed on."""

    matmul_size: int
    """Side of the square matrices of the bare product."""


_TINY = {"hidden_size": 48, "intermediate_size": 80, "num_layers": 2, "num_attention_heads": 3}
_SMALL = {"hidden_size": 128, "intermediate_size": 352, "num_layers": 2, "num_attention_heads": 4}
_GROUPED = _SMALL | {"num_key_value_heads": 2}
_MEDIUM = {"hidden_size": 384, "intermediate_size": 1024, "num_layers": 6, "num_attention_heads": 6}
_BASE = {"hidden_size": 768, "intermediate_size": 2048, "num_layers": 12, "num_attention_heads": 12}
_LARGE = {"hidden_size": 1024, "intermediate_size": 2816, "num_layers": 24, "num_attention_heads": 16}
_1B = {"hidden_size": 2048, "intermediate_size": 5632, "num_layers": 20, "num_attention_heads": 16}
_TIED = {"tie_word_embeddings": True}

QUICK = Scale(
    name="quick",
    small=Trial(_TINY | _TIED, 320, 32, rows=2, passes=2, precision="fp32", num_steps=4),
    large=Trial(_TINY | _TIED, 320, 64, rows=2, passes=1, precision="fp32", num_steps=4),
    precisions=("fp32", "bf16"),
    attention_length=64,
    matmul_size=256,
)
"""For tests, and for a first look: its speeds say nothing."""

CPU = Scale(
    name="cpu",
    small=Trial(_GROUPED | _TIED, 512, 64, rows=2, passes=2, precision="fp32", num_steps=6),
    large=Trial(_MEDIUM | _TIED, 8192, 256, rows=2, passes=1, precision="fp32", num_steps=8),
    precisions=("fp32", "bf16"),
    attention_length=512,
    matmul_size=2048,
)
"""A large model of 14M parameters: the predictions of memory are made from 12M on."""


def trial_0_3b(precision: Precision, *, rows: int) -> Trial:
    """Return a Llama of 0.34B parameters at 4,096 tokens."""
    return Trial(_LARGE | _TIED, 32768, 4096, rows=rows, passes=2, precision=precision, num_steps=12)


def trial_1b(precision: Precision, *, rows: int) -> Trial:
    """Return a Llama of 1.1B parameters at 4,096 tokens."""
    return Trial(_1B | _TIED, 32768, 4096, rows=rows, passes=2, precision=precision, num_steps=8)


def choose_scale(device_type: str, *, memory_bytes: int, has_bf16: bool, quick: bool) -> Scale:
    """Return the sizes for a device. An accelerator with less than 24 GiB gets a model of 0.12B at 2,048 tokens."""
    if quick:
        return QUICK
    if device_type == "cpu":
        return CPU
    precision: Precision = "bf16" if has_bf16 else "fp32"
    roomy = memory_bytes >= 24 * GIB
    base = Trial(_BASE | _TIED, 32768, 2048, rows=2, passes=2, precision=precision, num_steps=12)
    return Scale(
        name=f"accelerator-{'0.3B' if roomy else '0.12B'}-{precision}",
        small=Trial(_GROUPED | _TIED, 2048, 256, rows=2, passes=2, precision=precision, num_steps=8),
        large=trial_0_3b(precision, rows=4 if memory_bytes >= 48 * GIB else 1) if roomy else base,
        precisions=("fp32", "bf16") if has_bf16 else ("fp32",),
        attention_length=4096 if roomy else 2048,
        matmul_size=8192 if roomy else 4096,
    )
