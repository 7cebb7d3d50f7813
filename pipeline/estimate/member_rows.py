"""What a training takes on unlike devices, in words, as `concord plan` prints it."""

from collections.abc import Sequence
from itertools import groupby

from cluster.placement import Placement
from configs.base import GIB
from pipeline.estimate.members import MemberPlan, MembersEstimate
from training.allocation.choice import ROUNDING
from training.allocation.devices import Share
from training.manifests import counted
from training.sizing.fit import HEADROOM
from training.sizing.members import shown_times


def members_rows(found: MembersEstimate, placement: Placement) -> list[tuple[str, str]]:
    """Return the rows of a plan on the members of a pool, who does how much of a step, and what came next."""
    how = "as many sequences for each rank" if found.is_even else "sequences by how fast each rank is"
    used = f"{counted(placement.num_ranks, 'rank')} on {placement.device}: ZeRO {placement.zero_stage}, {how}"
    rows = [("layout", used)]
    rows += [("member", _member(one, placement.device)) for one in found.members]
    rows += [("left out", words) for words in describe_left_out(found)]
    if found.step_seconds is None:
        rows.append(("allocation", f"not known before the start; {found.source}"))
    else:
        rows.append(("allocation", "; ".join(_shares(one) for one in found.members if one.shares)))
        rows.append(("a step", _step(found)))
    if (other := found.runner_up) is not None:
        rows.append(("runner-up", f"{other.what}: {shown_times(other.step_seconds)[0]} a step, {other.why}"))
    return rows


def describe_left_out(found: MembersEstimate | None) -> list[str]:
    """Say of each kind that takes no part why that is so, and that its machines are idle."""
    words = []
    for one in found.members if found else ():
        idle = f"; {counted(one.num_nodes, 'node')} of the pool would be idle" if one.num_nodes else ""
        words += [f"{one.kind}: {one.left_out}{idle}"] if one.left_out else []
    return words


def price_rows(found: MembersEstimate, currency: str) -> list[tuple[str, str]]:
    """Return the row on what tokens cost with all members and without the slow ones; none without prices."""
    words = [f"{one.per_billion_tokens:,.2f} {currency} with {one.devices}" for one in found.prices]
    return [("10^9 tokens", ", ".join(words))] if words else []


def members_problem(found: MembersEstimate, remedy: str) -> str:
    """Return a sentence that says which members hold no sequence of a pass, and what to change."""
    failing = [one for one in found.members if one.num_ranks and not one.left_out and not one.layout.fits]
    words = [
        f"a rank on {one.kind} needs {_gib(one.needed_bytes)}, headroom included"
        + (f", and has {_gib(one.memory_bytes)}" if one.memory_bytes else "")
        for one in failing
    ]
    return f"{'; '.join(words)}; {remedy}"


def _member(one: MemberPlan, device: str) -> str:
    if not one.num_ranks:
        return f"{one.kind}: no ranks now"
    has = "of what is not known" if one.memory_bytes is None else f"of {_gib(one.memory_bytes)}"
    recomputing = ", recomputing activations" if one.layout.activation_checkpointing else ""
    most = f"at most {counted(one.layout.micro_batch_size, 'sequence')} a pass{recomputing}"
    needs = f"{_gib(one.needed_bytes)} needed with {HEADROOM[device] - 1:.0%} headroom, {has}"
    return f"{one.kind}: {counted(one.num_ranks, 'rank')}, {most}; {needs} a rank"


def _shares(one: MemberPlan) -> str:
    return f"{one.kind}: {', '.join(_share(share) for share in one.shares)}"


def _share(share: Share) -> str:
    each = "" if share.num_ranks == 1 else " each"
    passes = f" ({describe_passes(share.passes)})" if share.num_sequences else ""
    return f"{counted(share.num_ranks, 'rank')} {counted(share.num_sequences, 'sequence')}{each}{passes}"


def describe_passes(passes: Sequence[int]) -> str:
    """Return the sizes of passes in words: `3 x 8 + 5`."""
    runs = [(size, len(list(run))) for size, run in groupby(passes)]
    return " + ".join(f"{number} x {size}" if number > 1 else str(size) for size, number in runs)


def _step(found: MembersEstimate) -> str:
    assert found.step_seconds is not None and found.eta is not None
    some_left = any(one.left_out and one.num_ranks for one in found.members)
    of_all = f", {found.eta_of_all:.3f} of all members" if some_left and found.eta_of_all is not None else ""
    eta = f"eta {found.eta:.3f}, the share of what these devices compute alone{of_all}"
    above = found.step_seconds / found.bound_seconds - 1 if found.bound_seconds else 0.0
    bound = f", at most {above:.2%} above the least there is" if above > ROUNDING else ""
    return f"{shown_times(found.step_seconds)[0]}{bound}, {eta} ({found.source})"


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / GIB:,.2f} GiB"
