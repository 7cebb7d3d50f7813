"""How fast a training will be: by an earlier one of the same model on the same device, or by its FLOPs and traffic."""

from dataclasses import dataclass, replace
from math import inf

from cluster.devices import device_by_driver_name
from cluster.placement import Placement
from configs.training.train import TrainConfig
from pipeline.estimate.basis import Basis, Range
from pipeline.estimate.links import Links, describe_links
from training.sizing.activations import expected_attention
from training.sizing.flops import executed_flops_per_token
from training.sizing.model_size import ModelSize
from training.sizing.parameter_shapes import ModelParameters
from training.sizing.step_time import FAST, SLOW, Reach, StepTime, predict_step


@dataclass(frozen=True)
class Speed:
    """Tokens a second of all ranks together, and where the number comes from."""

    tokens_per_second: Range | None
    source: str
    """`measured in ...`, `assumed: ...`, or why it is not known."""

    fast_step: StepTime | None = None
    """Seconds of a step by part at the fast end, where it follows from FLOPs."""

    slow_step: StepTime | None = None
    links: str = ""
    """The bandwidth that exchange between ranks is reckoned with, and where it comes from; empty without exchange."""


def speed_of(
    config: TrainConfig, model: ModelParameters, size: ModelSize, placement: Placement, *, basis: Basis, links: Links
) -> Speed:
    """Return the speed of a placement that has nothing left open."""
    tokens = config.global_batch_size * config.sequence_length
    if basis.measured is not None and placement.attention == "auto":
        placement = replace(placement, attention=basis.measured.placement.attention)
    known = basis.flops is not None and _executed(config, model, attention="", recomputes=False) is not None
    reaches = _reaches(basis, placement, links) if known else [_plain_reach()] * 2
    steps = [_step(config, model, size, placement, reach) for reach in reaches]
    said = describe_links(links, placement) if known else ""
    if basis.measured is not None:
        then = basis.measured
        at = replace(links, num_hosts=then.num_hosts)
        before = _reaches(basis, then.placement, at) if known else [_plain_reach()] * 2
        old = [_step(then.config, model, size, then.placement, reach) for reach in before]
        took = then.config.global_batch_size * then.config.sequence_length / then.tokens_per_second
        found = [tokens / (took * new.total / was.total) for new, was in zip(steps, old, strict=True)]
        return Speed(Range(min(found), max(found)), then.source, links=said)
    if basis.flops is None:
        return Speed(None, basis.source)
    if not known:
        return Speed(None, "not known: how much this architecture computes is in no table of training/sizing/flops.py")
    slow, fast = steps
    return Speed(Range(tokens / slow.total, tokens / fast.total), basis.source, fast, slow, said)


def _step(config: TrainConfig, model: ModelParameters, size: ModelSize, placement: Placement, reach: Reach) -> StepTime:
    attention = expected_attention(config, placement)
    once = _executed(config, model, attention=attention, recomputes=False) or 1.0
    twice = _executed(config, model, attention=attention, recomputes=True) or 4 / 3
    recomputed = twice - once if placement.activation_checkpointing else 0.0
    return predict_step(size, config, placement, flops=once, recomputed_flops=recomputed, reach=reach)


def _executed(config: TrainConfig, model: ModelParameters, *, attention: str, recomputes: bool) -> float | None:
    return executed_flops_per_token(
        model.config,
        model.shapes,
        sequence_length=config.sequence_length,
        attention=attention,
        recomputes=recomputes,
    )


def _plain_reach() -> Reach:
    """Return what makes a step's time its FLOPs alone: it compares layouts of which no more is known."""
    return Reach(1.0, None, None, None, None, inf, 0.0, overlaps=False)


def _reaches(basis: Basis, placement: Placement, links: Links) -> list[Reach]:
    """Return what a rank reaches at the slow end and at the fast one."""
    assert basis.flops is not None
    known = device_by_driver_name(basis.device)
    memory = known.memory_gb_per_second if known and not basis.whole else None
    per_host = -(-placement.num_ranks // links.num_hosts)
    near, far = links.near_bytes(placement), links.far_bytes(placement)
    on_gpu = placement.device != "cpu"
    ends = ((basis.flops.low, SLOW), (basis.flops.high, FAST))
    return [
        Reach(
            flops=flops,
            memory_bytes=memory * 1e9 * end.wire if memory else None,
            near_bytes=near * end.wire if near else None,
            far_bytes=far * end.wire if far else None,
            host_bytes=links.host * 1e9 * end.wire if links.host else None,
            host_memory_bytes=end.host_memory / per_host,
            layer_seconds=end.layer_seconds if on_gpu else 0.0,
            overlaps=end.overlaps,
        )
        for flops, end in ends
    ]
