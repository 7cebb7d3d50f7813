"""An estimate in words, as `concord plan` prints it."""

from collections.abc import Mapping
from dataclasses import astuple

from configs.base import GIB
from configs.training.train import TrainConfig
from pipeline.estimate.basis import Range
from pipeline.estimate.estimate import Estimate, seconds_for
from pipeline.estimate.member_rows import members_problem, members_rows, price_rows
from pipeline.estimate.speed import Speed
from pipeline.store.lineage import duration
from training.manifests import counted
from training.sizing.activations import expected_attention
from training.sizing.fit import HEADROOM, LayoutChoice, needed_host_bytes, sequences_per_rank
from training.sizing.memory import PREDICTION_ERROR
from training.sizing.start import HostMemory

_PARTS = ("compute", "recomputation", "what each pass costs", "exchange", "update")
"""The parts of StepTime, in its order."""


def estimate_rows(found: Estimate, config: TrainConfig) -> list[tuple[str, str]]:
    """Return an estimate as rows of a name and a value."""
    placement, chosen = found.placement, found.fit.chosen
    how = ", counted by building it without memory" if found.model.built else ""
    first = config.batch_size_at(config.total_steps - found.num_steps)
    least = "" if first == config.global_batch_size else f"{first:,} to "
    batches = f"{found.num_steps:,} steps of {least}{config.global_batch_size:,} x {config.sequence_length:,}"
    rows = [
        ("tokens", f"{found.num_tokens:,}: {batches}"),
        ("model", f"{found.model.num_parameters:,} parameters{how}"),
    ]
    rows += _layout(found, config) if found.members is None else members_rows(found.members, placement)
    if unused := placement.deepspeed.zero_optimization.unused_in(chosen.zero_stage):
        rows.append(("unused", f"deepspeed.zero_optimization.{unused[0]} does nothing in ZeRO {chosen.zero_stage}"))
    if placement.balance == "speed" and not placement.members:
        rows.append(("balance", "sequences by how fast each rank is, which is measured when training starts"))
    if placement.num_ranks > config.global_batch_size:
        rows.append(("idle", f"{placement.num_ranks - config.global_batch_size:,} ranks have no sequence of a batch"))
    return [
        *rows,
        ("disk", _disk(found)),
        ("time", _time(found)),
        *_step(found.speed, attention=expected_attention(config, placement)),
        *_cost(found),
        *(price_rows(found.members, str(found.currency)) if found.members else []),
    ]


def _layout(found: Estimate, config: TrainConfig) -> list[tuple[str, str]]:
    """Return the layout of a pool of one kind, its memory, and what came next."""
    placement, chosen = found.placement, found.fit.chosen
    most = sequences_per_rank(config, placement)
    layout = f"{counted(placement.num_ranks, 'rank')} on {placement.device}: {describe_choice(chosen, most=most)}"
    rows = [
        ("layout", layout),
        ("memory", f"{_gib(chosen.memory.total)} a rank, ±{PREDICTION_ERROR:.0%}: {_parts(chosen.memory.parts)}"),
        ("of", _capacity(found)),
        ("start", _start(found)),
        ("host memory", _host(found)),
    ]
    for other, speed in zip(found.fit.runners_up, found.alternatives, strict=True):
        took = seconds_for(found.num_tokens, speed)
        how_long = f"; {describe_range(took)}" if took else ""
        rows.append(("runner-up", f"{describe_choice(other.choice, most=most)}: {other.why}{how_long}"))
    return rows


def describe_problem(found: Estimate) -> str:
    """Return a sentence that says why the training does not fit and what to change; empty if it fits."""
    chosen, capacity = found.fit.chosen, found.placement.memory_bytes_per_rank
    host = found.placement.host_bytes_per_rank
    if not chosen.fits and found.members is not None:
        return members_problem(found.members, found.fit.remedy)
    if not chosen.fits and capacity is not None and found.needed_bytes <= capacity and host is not None:
        return (
            f"a rank needs {_gib(needed_host_bytes(chosen))} of host memory, {HEADROOM['cpu'] - 1:.0%} headroom "
            f"included ({_host_parts(chosen.host)}), and has {_gib(host)}; {found.fit.remedy}"
        )
    if not chosen.fits and capacity is not None:
        return (
            f"a rank needs {_gib(found.needed_bytes)}, {HEADROOM[found.placement.device] - 1:.0%} headroom included, "
            f"and has {_gib(capacity)}; {found.fit.remedy}"
        )
    if found.lacks_disk and found.free_bytes is not None:
        return (
            f"checkpoints take {_gib(found.disk_bytes)} of disk, and {_gib(found.free_bytes)} are free; keep fewer "
            "(`retention` of the pool) or set another `store`"
        )
    return ""


def describe_choice(choice: LayoutChoice, *, most: int) -> str:
    """Return a layout as `ZeRO 2, 4 sequences a pass, 8 passes a step`.

    `most` is the number of sequences in a step of the rank that has most.
    """
    rows = min(choice.micro_batch_size, most)
    passes = f"{choice.num_passes:,} pass{'es' if choice.num_passes > 1 else ''} a step"
    extras = ", recomputing activations" if choice.activation_checkpointing else ""
    extras += ", optimizer on the host" if choice.offload_optimizer else ""
    return f"ZeRO {choice.zero_stage}, {counted(rows, 'sequence')} a pass, {passes}{extras}"


def _start(found: Estimate) -> str:
    chosen = found.fit.chosen
    return f"{_gib(chosen.start)} a rank on {found.placement.device} at most until the first step"


def _host(found: Estimate) -> str:
    host = found.fit.chosen.host
    if found.placement.device == "cpu":
        return f"beside that {_gib(host.start)} at the start, then {_gib(host.checkpoint)} to copy a checkpoint to"
    has = found.placement.host_bytes_per_rank
    needed = (
        "" if has is None else f"; {_gib(needed_host_bytes(found.fit.chosen))} needed with headroom, of {_gib(has)}"
    )
    return f"{_gib(host.total)} a rank: {_host_parts(host)}{needed}"


def _host_parts(host: HostMemory) -> str:
    alternatives = f"the larger of start {_gib(host.start)} and pinned buffer of a checkpoint {_gib(host.checkpoint)}"
    held = _parts({"process": host.process, "offloaded optimizer": host.offloaded})
    return f"{held}, and {alternatives}"


def _parts(parts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {_gib(value)}" for name, value in parts.items() if value)


def _capacity(found: Estimate) -> str:
    capacity = found.placement.memory_bytes_per_rank
    if capacity is None:
        return "memory of the GPU not known, so ZeRO 1 and 8 sequences a pass unless the pool says otherwise"
    return f"{_gib(capacity)} that a rank has; {_gib(found.needed_bytes)} needed with headroom"


def _disk(found: Estimate) -> str:
    if found.free_bytes is None:
        free = "; what is free is not known from here"
    else:
        free = f", of {_gib(found.free_bytes)} free" + ("" if found.is_their_disk else " as this machine sees it")
    return f"{_gib(found.checkpoint_bytes)} a checkpoint, {_gib(found.disk_bytes)} with those that stay{free}"


def describe_range(seconds: Range) -> str:
    """Return how long something takes, in words: `2 h 13 min`, or `2 h 13 min to 4 h 05 min`."""
    low, high = duration(seconds.low), duration(seconds.high)
    return low if low == high else f"{low} to {high}"


def _time(found: Estimate) -> str:
    speed = found.speed.tokens_per_second
    if found.seconds is None or speed is None:
        return found.speed.source
    rates = [f"{rate:,.0f}" for rate in (speed.low, speed.high)]
    shown = rates[0] if rates[0] == rates[1] else " to ".join(rates)
    return f"{describe_range(found.seconds)} at {shown} tokens/s ({found.speed.source})"


def _step(speed: Speed, *, attention: str) -> list[tuple[str, str]]:
    """Return what a step's time is made of, and what its ranks exchange by."""
    rows = []
    if speed.fast_step is not None and speed.slow_step is not None:
        pairs = zip(astuple(speed.fast_step), astuple(speed.slow_step), _PARTS, strict=True)
        parts = [f"{name} {describe_range(Range(fast, slow))}" for fast, slow, name in pairs if slow]
        whole = describe_range(Range(speed.fast_step.total, speed.slow_step.total))
        rows.append(("a step", f"{whole}: {', '.join(parts)}; attention by {attention}"))
    return [*rows, *([("network", speed.links)] if speed.links else [])]


def _cost(found: Estimate) -> list[tuple[str, str]]:
    if found.cost is None:
        return []
    amounts = [f"{amount:,.2f}" for amount in (found.cost.low, found.cost.high)]
    shown = amounts[0] if amounts[0] == amounts[1] else " to ".join(amounts)
    idle = sum(one.num_nodes for one in found.members.members if one.left_out) if found.members else 0
    words = f", {idle:,} of them idle" if idle else ""
    return [("cost", f"{shown} {found.currency} for {counted(found.num_nodes, 'node')}{words}")]


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / GIB:,.2f} GiB"
