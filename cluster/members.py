"""Lays a pool of several kinds of machines out: each kind by itself (cluster/placement.py), then all together. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import inf

from cluster.machines import Node, described
from cluster.placement import (
    MAX_RANKS_ON_A_CORE,
    SHARES,
    Placement,
    TooFew,
    describe_found,
    describe_machines,
    device_of,
    missing_machines,
    place,
)
from configs.base import ConfigError
from configs.cluster import WandbConfig
from configs.pools import PoolConfig, maker_of


def place_pool(pool: PoolConfig, nodes: Sequence[Sequence[Node]], *, wandb: WandbConfig | None) -> Placement:
    """Lay a pool out on the nodes of each of its kinds, as `place` does with one. Kinds may share nodes, by their ids.

    Of an elastic pool each kind gets what there is, and one whose machines are described may have no ranks now.
    Raises TooFew and ConfigError as `place` does.
    """
    if not pool.members:
        return place(pool, nodes[0], wandb=wandb)
    device_of_all(pool, nodes)
    found: list[Placement] = []
    missing: list[TooFew] = []
    for number, (kind, own) in enumerate(zip(pool.kinds(), nodes, strict=True)):
        alone = kind.model_copy(update={"min_ranks": 1 if pool.min_ranks else None})  # as many as fit, or all
        try:
            placed = place(alone, own, wandb=wandb)
        except TooFew as error:
            hint = "; or say what its `machines` are, and the pool begins without them" if pool.min_ranks else ""
            missing.append(TooFew(f"{name_of_kind(pool, number)}: {error}{'' if kind.machines else hint}"))
            if not (pool.min_ranks and kind.machines):
                raise missing[-1] from None
            placed = place(alone, described(kind), wandb=wandb)
            placed = replace(placed, num_ranks=0, num_expected=placed.num_ranks)
        if kind.activation_checkpointing is None:
            placed = replace(placed, leaves_open=(*placed.leaves_open, "activation_checkpointing"))
        least = 0 if pool.min_ranks else placed.num_ranks
        found.append(replace(_with_machines(placed, kind, own), min_ranks=least, kind=name_of_kind(pool, number)))
    if missing and sum(one.num_ranks for one in found) < (pool.min_ranks or 1):
        raise missing[0]
    return _join(pool, _share_nodes(pool, found, nodes), nodes)


def name_of_kind(pool: PoolConfig, number: int) -> str:
    """Return what a kind of a pool is called: its accelerator if no other has it, else its number, from 1."""
    kinds = [kind.accelerator for kind in pool.kinds()]
    own = kinds[number]
    return own if own and kinds.count(own) == 1 else f"member {number + 1}"


def _with_machines(member: Placement, kind: PoolConfig, nodes: Sequence[Node]) -> Placement:
    """Return the layout of a kind with what is known of its machines.

    Of machines that the cluster file describes that is what it says: a plan knows no more of them.
    """
    there = () if kind.machines else nodes
    accelerators = {kind.accelerator} if kind.accelerator else {node.accelerator for node in there if node.num_gpus}
    on_cpu = member.device == "cpu"
    return replace(
        member,
        accelerator="" if on_cpu or len(accelerators) != 1 else accelerators.pop() or "",
        hosts=tuple(sorted({node.host for node in there})) if on_cpu else (),
        network_gbps_per_node=kind.machines.network_gbps_per_node if kind.machines else None,
    )


def device_of_all(pool: PoolConfig, nodes: Sequence[Sequence[Node]]) -> str | None:
    """Return PyTorch's type of the devices of all kinds that have nodes; None if none has any.

    Raises ConfigError if they are not of one type and maker, which alone can train together.
    """
    there = [(kind, own) for kind, own in zip(pool.kinds(), nodes, strict=True) if own]
    devices = {device_of(kind, own) for kind, own in there}
    makers = {maker_of(node.accelerator) for kind, own in there for node in own if node.num_gpus}
    if len(devices) > 1 or (devices - {"cpu"} and len(makers) > 1):
        found = " and ".join(sorted(makers if len(makers) > 1 else devices))
        raise ConfigError(
            f"the pool's members compute on {found}, which cannot train together; choose nodes of one maker with "
            "`accelerator`, or compute on CPUs with device: cpu in the pool"
        )
    return devices.pop() if devices else None


def _share_nodes(pool: PoolConfig, members: list[Placement], nodes: Sequence[Sequence[Node]]) -> list[Placement]:
    """Return the layouts such that all fit on the nodes together. Raises TooFew if they do not.

    Where ranks may share cores, they take fewer; where the pool is elastic, there are fewer ranks.
    """
    wanted = [one.num_ranks for one in members]
    counts: list[Counter[str]] = []
    shared = members
    for cap in _caps(pool):
        tried = [
            replace(one, cpu_share=min(one.cpu_share, cap)) if kind.oversubscribe else one
            for kind, one in zip(pool.kinds(), members, strict=True)
        ]
        fitting = count_ranks(tried, nodes, wanted)
        if not counts or _total(fitting) > _total(counts):
            counts, shared = fitting, tried
        if _total(counts) == sum(wanted):
            break
    if _total(counts) < (pool.min_ranks or sum(wanted)):
        want = " and ".join(f"{one.num_ranks} of {one.cpus_per_rank} CPU cores" for one in members)
        least = f", or at least {pool.min_ranks} of them" if pool.min_ranks else ""
        raise TooFew(
            f"the pool's members want {want}{least}, but together there are "
            f"{describe_machines(distinct_nodes(nodes))}; "
            "lower num_ranks or cpus_per_rank in the cluster file, or let ranks share cores with oversubscribe: true"
        )
    ranks_on = sum(counts, Counter[str]())
    return [
        _with_memory(replace(one, num_ranks=count.total()), own, ranks_on)
        for one, own, count in zip(shared, nodes, counts, strict=True)
    ]


def _caps(pool: PoolConfig) -> list[float]:
    """List what a rank that shares its core may take at most, from as much as it likes to the least."""
    shares = [SHARES // number / SHARES for number in range(1, MAX_RANKS_ON_A_CORE + 1)]
    return [inf, *(shares if any(kind.oversubscribe for kind in pool.kinds()) else [])]


def _total(counts: Sequence[Counter[str]]) -> int:
    return sum(count.total() for count in counts)


def count_ranks(
    layouts: Sequence[Placement], nodes: Sequence[Sequence[Node]], most: Sequence[int | None]
) -> list[Counter[str]]:
    """Count how many ranks of each layout come to each node, by its id, so that all fit together.

    One layout after the other takes the first places that are left on its own nodes, on those that fewest others may
    use before, up to its most; None: as many as fit.
    """
    left = {_key(node): node for own in nodes for node in own}
    cores = {key: node.num_cpus * SHARES for key, node in left.items()}
    gpus = {key: node.num_gpus for key, node in left.items()}
    num_kinds = Counter(key for own in nodes for key in {_key(node) for node in own})
    found: list[Counter[str]] = []
    for layout, own, number in zip(layouts, nodes, most, strict=True):
        here, wanted, share = Counter[str](), inf if number is None else number, round(layout.cpu_share * SHARES)
        for key in sorted(map(_key, own), key=num_kinds.__getitem__):
            fitting = cores[key] // share if layout.device == "cpu" else min(cores[key] // share, gpus[key])
            taken = int(min(fitting, wanted))
            wanted -= taken
            cores[key] -= taken * share
            gpus[key] -= 0 if layout.device == "cpu" else taken
            here[key] += taken
        found.append(here)
    return found


def distinct_nodes(nodes: Sequence[Sequence[Node]]) -> list[Node]:
    """List the nodes of all kinds, each once."""
    return list({_key(node): node for own in nodes for node in own}.values())


def _with_memory(member: Placement, nodes: Sequence[Node], ranks_on: Counter[str]) -> Placement:
    """Return a layout whose ranks have their shares of the memory of hosts that they share with other kinds."""
    shares = [node.memory_bytes // ranks_on[_key(node)] for node in nodes if ranks_on[_key(node)]]
    host = min(shares, default=member.host_bytes_per_rank or 0) or None
    device = host if member.device == "cpu" else member.memory_bytes_per_rank
    return replace(member, host_bytes_per_rank=host, memory_bytes_per_rank=device)


def _join(pool: PoolConfig, members: Sequence[Placement], nodes: Sequence[Sequence[Node]]) -> Placement:
    """Return the layout of all kinds together."""
    everything = distinct_nodes(nodes)
    cpus_per_task = min(pool.cpus_per_task, max(node.num_cpus for node in everything))
    there = [member for member in members if member.num_ranks]
    num_ranks = sum(member.num_ranks for member in there)
    is_open = {name for member in there for name in member.leaves_open}
    return replace(
        there[0],
        num_ranks=num_ranks,
        min_ranks=pool.min_ranks or num_ranks,
        cpus_per_task=cpus_per_task,
        num_tasks=sum(node.num_cpus // cpus_per_task for node in everything),
        micro_batch_size=min(member.micro_batch_size for member in there),
        leaves_open=tuple(name for name in ("zero_stage", "micro_batch_size") if name in is_open),
        memory_bytes_per_rank=_least([member.memory_bytes_per_rank for member in there]),
        host_bytes_per_rank=_least([member.host_bytes_per_rank for member in there]),
        capability=None
        if any(member.capability is None for member in there)
        else min(member.capability for member in there if member.capability),
        balance="speed" if pool.balance == "speed" or (pool.balance == "auto" and not pool.deterministic) else "even",
        kind="",
        accelerator="",
        hosts=(),
        network_gbps_per_node=None,
        members=tuple(members),
    )


def _least(sizes: Sequence[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return min(known) if known and len(known) == len(sizes) else None


def _key(node: Node) -> str:
    return node.id or node.host


def describe_pool(pool: PoolConfig, nodes: Sequence[Sequence[Node]], placement: Placement) -> str:
    """Say in one line what a pool is laid out on, kind by kind, and what is missing of the machines it describes."""
    if not placement.members:
        return describe_found(pool, nodes[0], placement)
    there = zip(pool.kinds(), nodes, placement.members, strict=True)
    return "; ".join(f"{member.kind}: {_describe_member(kind, own, member)}" for kind, own, member in there)


def _describe_member(kind: PoolConfig, nodes: Sequence[Node], member: Placement) -> str:
    if member.num_ranks:
        return describe_found(kind, nodes, member)
    missing = missing_machines(kind, nodes)
    return f"no ranks on {describe_machines(nodes)}" + (
        f"; MISSING of the pool's machines: {missing}" if missing else ""
    )
