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
    place,
)
from configs.base import ConfigError
from configs.cluster import WandbConfig
from configs.pools import PoolConfig, maker_of


def place_pool(pool: PoolConfig, nodes: Sequence[Sequence[Node]], *, wandb: WandbConfig | None) -> Placement:
    """Lay a pool out on the nodes of each of its kinds, as `place` does with one. Kinds may share nodes.

    Of an elastic pool a kind may have no ranks now; it gets some later if its machines are described.
    """
    kinds = pool.kinds()
    if not pool.members:
        return place(pool, nodes[0], wandb=wandb)
    device_of_all(pool, nodes)
    found: list[Placement] = []
    missing: list[TooFew] = []
    for number, (kind, own) in enumerate(zip(kinds, nodes, strict=True)):
        try:
            placed = place(kind, own, wandb=wandb)
        except TooFew as error:
            missing.append(TooFew(f"{name_of_kind(pool, number)}: {error}"))
            if not (pool.min_ranks and kind.machines):
                raise missing[-1] from None
            placed = replace(place(kind, described(kind), wandb=wandb), num_ranks=0, min_ranks=0)
        found.append(replace(placed, kind=name_of_kind(pool, number)))
    num_ranks = sum(one.num_ranks for one in found)
    if num_ranks < (pool.min_ranks or 1):
        raise missing[0]
    found = _share_nodes(pool, found, nodes)
    return _join(pool, found, num_tasks=_count_tasks(found[0].cpus_per_task, nodes))


def name_of_kind(pool: PoolConfig, number: int) -> str:
    """Return what a kind of a pool is called: its accelerator if no other has it, else its number, from 1."""
    kinds = [kind.accelerator for kind in pool.kinds()]
    own = kinds[number]
    return own if own and kinds.count(own) == 1 else f"member {number + 1}"


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

    Where ranks may share cores, they take fewer.
    """
    caps = [inf, *(SHARES // number / SHARES for number in range(1, MAX_RANKS_ON_A_CORE + 1))]
    kinds = pool.kinds()
    for cap in caps:
        shared = [
            replace(one, cpu_share=min(one.cpu_share, cap)) if kind.oversubscribe else one
            for kind, one in zip(kinds, members, strict=True)
        ]
        if (ranks_on := _assign(shared, nodes)) is not None:
            return [_with_memory(one, own, ranks_on) for one, own in zip(shared, nodes, strict=True)]
    everything = list({_key(node): node for own in nodes for node in own}.values())
    wanted = " and ".join(f"{one.num_ranks} of {one.cpus_per_rank} CPU cores" for one in members)
    raise TooFew(
        f"the pool's members want {wanted}, but together there are {describe_machines(everything)}; lower num_ranks or "
        "cpus_per_rank in the cluster file, or let ranks share cores with oversubscribe: true"
    )


def _assign(members: Sequence[Placement], nodes: Sequence[Sequence[Node]]) -> Counter[str] | None:
    """Return how many ranks come to each node if each member takes the first places; None if they do not fit."""
    left = {_key(node): node for own in nodes for node in own}
    cores = {key: node.num_cpus * SHARES for key, node in left.items()}
    gpus = {key: node.num_gpus for key, node in left.items()}
    found: Counter[str] = Counter()
    for member, own in zip(members, nodes, strict=True):
        wanted, share = member.num_ranks, round(member.cpu_share * SHARES)
        for key in map(_key, own):
            here = min(wanted, cores[key] // share, wanted if member.device == "cpu" else gpus[key])
            cores[key] -= here * share
            gpus[key] -= 0 if member.device == "cpu" else here
            found[key] += here
            wanted -= here
        if wanted:
            return None
    return found


def _with_memory(member: Placement, nodes: Sequence[Node], ranks_on: Counter[str]) -> Placement:
    """Return a layout whose ranks have their shares of the memory of hosts that they share with other kinds."""
    shares = [node.memory_bytes // ranks_on[_key(node)] for node in nodes if ranks_on[_key(node)]]
    host = min(shares, default=member.host_bytes_per_rank or 0) or None
    device = host if member.device == "cpu" else member.memory_bytes_per_rank
    return replace(member, host_bytes_per_rank=host, memory_bytes_per_rank=device)


def _join(pool: PoolConfig, members: Sequence[Placement], *, num_tasks: int) -> Placement:
    """Return the layout of all kinds together."""
    there = [member for member in members if member.num_ranks]
    num_ranks = sum(member.num_ranks for member in there)
    is_open = {name for member in there for name in member.leaves_open}
    return replace(
        there[0],
        num_ranks=num_ranks,
        min_ranks=pool.min_ranks or num_ranks,
        num_tasks=num_tasks,
        micro_batch_size=min(member.micro_batch_size for member in there),
        leaves_open=tuple(name for name in ("zero_stage", "micro_batch_size") if name in is_open),
        memory_bytes_per_rank=_least([member.memory_bytes_per_rank for member in there]),
        host_bytes_per_rank=_least([member.host_bytes_per_rank for member in there]),
        capability=None
        if any(member.capability is None for member in there)
        else min(member.capability for member in there if member.capability),
        balance="speed" if pool.balance == "speed" or (pool.balance == "auto" and not pool.deterministic) else "even",
        kind="",
        members=tuple(members),
    )


def _least(sizes: Sequence[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return min(known) if known and len(known) == len(sizes) else None


def _count_tasks(cpus_per_task: int, nodes: Sequence[Sequence[Node]]) -> int:
    distinct = {_key(node): node for own in nodes for node in own}
    return sum(node.num_cpus // cpus_per_task for node in distinct.values())


def _key(node: Node) -> str:
    return node.id or node.host


def describe_pool(pool: PoolConfig, nodes: Sequence[Sequence[Node]], placement: Placement) -> str:
    """Say in one line what a pool is laid out on, kind by kind, and what is missing of the machines it describes."""
    if not placement.members:
        return describe_found(pool, nodes[0], placement)
    there = zip(pool.kinds(), nodes, placement.members, strict=True)
    return "; ".join(f"{member.kind}: {describe_found(kind, own, member)}" for kind, own, member in there)
