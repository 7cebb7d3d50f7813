"""Which implementation of attention a plan reckons with, and whether a pool's devices have the one that it names."""

from cluster.placement import Placement
from configs.training.train import TrainConfig
from training.network.model_rules import refuse_attention, why_attention_never_runs


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
