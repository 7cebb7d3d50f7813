"""What a training will take of memory, disk, time and money, before it is begun. Nothing heavy is imported."""

import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from cluster.devices import device_by_driver_name
from cluster.machines import Node
from cluster.placement import Placement
from configs.pools import PoolConfig, RetentionConfig
from configs.training.train import TrainConfig
from pipeline.estimate.basis import Range, find_basis
from pipeline.estimate.links import links_of
from pipeline.estimate.members import MembersEstimate, estimate_members
from pipeline.estimate.speed import Speed, speed_of
from training.sizing.fit import Fit, LayoutChoice, apply_choice, choose_layout, needed_bytes
from training.sizing.model_size import ModelSize
from training.sizing.parameter_shapes import ModelParameters
from training.sizing.recipe_size import find_parameters, measure_model
from training.sizing.start import checkpoint_bytes


@dataclass(frozen=True)
class Estimate:
    """What one training takes on one pool."""

    num_tokens: int
    num_steps: int
    """Optimizer steps that it takes itself."""

    """Tokens that the loss is taken over, in all steps, if no sample is short."""

    model: ModelParameters
    placement: Placement
    """The layout, with ZeRO stage and micro-batch chosen where the pool leaves them open."""

    fit: Fit
    needed_bytes: int
    """Memory that the device of a rank must have, headroom included."""

    checkpoint_bytes: int
    disk_bytes: int
    """Size of the checkpoints that retention keeps, and of the one that is being written."""

    free_bytes: int | None
    """Free space on the store's disk, as this machine sees it; None if it does not."""

    is_their_disk: bool
    """Whether that is certainly the disk of the machines that train; only then can the checkpoints be said not to fit.
    """

    speed: Speed
    seconds: Range | None
    alternatives: tuple[Speed, ...]
    """The speed of each of the fit's runners-up."""

    num_nodes: int
    """The number of nodes that the pool holds for it, with those of members that are left out."""

    cost: Range | None
    currency: str | None
    members: MembersEstimate | None = None
    """What each kind of devices does, of a pool that has several; `fit` is then that of the kind that has least room.
    """

    @property
    def lacks_disk(self) -> bool:
        """Whether the checkpoints do not fit on the disk, as far as that is known."""
        return self.is_their_disk and self.free_bytes is not None and self.disk_bytes > self.free_bytes

    @property
    def fits(self) -> bool | None:
        """Memory and disk; None where the memory of the GPU is not known, and the rest fits."""
        if not self.fit.chosen.fits or self.lacks_disk:
            return False
        return None if self.placement.memory_bytes_per_rank is None else True


def estimate(
    config: TrainConfig,
    *,
    vocab_size: int,
    pool: PoolConfig,
    nodes: Sequence[Node],
    placement: Placement,
    store: Path | None,
    work_store: Path | None,
    is_their_disk: bool,
    first_step: int = 0,
) -> Estimate:
    """Return what a training takes on the nodes of a pool, which begins after `first_step` optimizer steps.

    `store` is None if it is no directory; `work_store` is the directory that the run writes to, be it a working copy,
    where what passes took on unlike devices is kept. `is_their_disk` is whether the nodes certainly have the store on
    the same disk as this machine.
    """
    model = find_parameters(config, vocab_size=vocab_size)
    size = measure_model(model, config)
    num_tokens = config.tokens_after(first_step)
    checkpoint = checkpoint_bytes(size, 2 if config.precision == "bf16" else 4)
    found = (
        _lay_out_members(config, model, size, placement, pool=pool, nodes=nodes, store=work_store)
        if placement.members
        else _lay_out(config, model, size, placement, pool=pool, nodes=nodes, store=store)
    )
    seconds = seconds_for(num_tokens, found.speed)
    price = found.price_per_hour
    return Estimate(
        num_tokens=num_tokens,
        num_steps=config.total_steps - first_step,
        model=model,
        placement=found.placement,
        fit=found.fit,
        needed_bytes=needed_bytes(found.fit.chosen, found.placement.device),
        checkpoint_bytes=checkpoint,
        disk_bytes=checkpoint * num_on_disk(config, pool.retention),
        free_bytes=_free_bytes(store, nodes) if store else None,
        is_their_disk=is_their_disk,
        speed=found.speed,
        seconds=seconds,
        alternatives=found.alternatives,
        num_nodes=found.num_nodes,
        cost=None if price is None or seconds is None else seconds.times(price / 3600),
        currency=None if price is None else found.currency,
        members=found.members,
    )


@dataclass(frozen=True)
class _Layout:
    """How a training is laid out on a pool, and how fast it is there."""

    placement: Placement
    fit: Fit
    speed: Speed
    alternatives: tuple[Speed, ...]
    num_nodes: int
    price_per_hour: float | None
    """That of all nodes that its ranks take."""

    currency: str | None
    members: MembersEstimate | None


def _lay_out(
    config: TrainConfig,
    model: ModelParameters,
    size: ModelSize,
    placement: Placement,
    *,
    pool: PoolConfig,
    nodes: Sequence[Node],
    store: Path | None,
) -> _Layout:
    fit = choose_layout(size, config, placement)
    chosen = apply_choice(placement, fit.chosen)
    basis = find_basis(config, chosen, pool=pool, nodes=nodes, store=store)
    links = links_of(pool, device_by_driver_name(basis.device), nodes, chosen)

    def speed_at(choice: LayoutChoice) -> Speed:
        return speed_of(config, model, size, apply_choice(placement, choice), basis=basis, links=links)

    price = pool.machines.price_per_node_hour if pool.machines else None
    return _Layout(
        placement=chosen,
        fit=fit,
        speed=speed_at(fit.chosen),
        alternatives=tuple(speed_at(other.choice) for other in fit.runners_up),
        num_nodes=links.num_hosts,
        price_per_hour=None if price is None else price * links.num_hosts,
        currency=pool.machines.currency if pool.machines else None,
        members=None,
    )


def _lay_out_members(
    config: TrainConfig,
    model: ModelParameters,
    size: ModelSize,
    placement: Placement,
    *,
    pool: PoolConfig,
    nodes: Sequence[Node],
    store: Path | None,
) -> _Layout:
    """Lay a training out on unlike devices, by what passes took on each; trainings in the store say nothing of them."""
    choice, found, speed = estimate_members(model, size, config, placement, pool=pool, nodes=nodes, store=store)
    held = [
        pair for pair in zip((kind.machines for kind in pool.kinds()), found.members, strict=True) if pair[1].num_nodes
    ]
    prices = [machines.price_per_node_hour if machines else None for machines, _ in held]
    currencies = {machines.currency for machines, _ in held if machines}
    hour = [price * member.num_nodes for price, (_, member) in zip(prices, held, strict=True) if price is not None]
    return _Layout(
        placement=choice.placement,
        fit=Fit(choice.tightest, (), choice.remedy),
        speed=speed,
        alternatives=(),
        num_nodes=sum(member.num_nodes for _, member in held),
        price_per_hour=sum(hour) if len(hour) == len(held) and len(currencies) == 1 else None,
        currency=next(iter(currencies), None),
        members=found,
    )


def seconds_for(num_tokens: int, speed: Speed) -> Range | None:
    """Return the seconds that so many tokens take; None where the speed is not known."""
    found = speed.tokens_per_second
    return None if found is None else Range(num_tokens / found.high, num_tokens / found.low)


def num_on_disk(config: TrainConfig, rule: RetentionConfig) -> int:
    """Return the largest number of checkpoints at a time.

    They are those kept, of which a roll-back may need the last but one, the one of the lowest validation loss, the one
    that is being written, and one that a signal or the clock asked for.
    """
    made = ceil(config.total_steps / config.checkpoint_every_steps)
    best = max(rule.best, int(config.validation is not None))
    kept = max(2, rule.newest) + best + (config.total_steps // rule.every_steps if rule.every_steps else 0)
    return min(made, kept + 1) + 1


def _free_bytes(store: Path, nodes: Sequence[Node]) -> int | None:
    """Return the free space on the store's disk, if this machine has it: a new store is made where the nodes are."""
    if not store.is_dir() and socket.gethostname() not in {node.host for node in nodes}:
        return None
    existing = next((path for path in (store, *store.parents) if path.is_dir()), None)
    return shutil.disk_usage(existing).free if existing else None
