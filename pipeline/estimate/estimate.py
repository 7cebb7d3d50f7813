"""What a training will take: memory, disk, time and money, before it is begun. Nothing heavy is imported."""

import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from cluster.machines import Node
from cluster.placement import Placement, slots
from configs.pools import PoolConfig, RetentionConfig
from configs.training import TrainConfig
from pipeline.estimate.speed import Speed, speed_of
from training.sizing.fit import Fit, choose, needed_bytes, settle
from training.sizing.model_size import ModelSize
from training.sizing.recipe_size import Sized, memory_size, sized


@dataclass(frozen=True)
class Estimate:
    """Of one training on one pool."""

    num_tokens: int
    """Targets over all steps, when no sample is short."""

    model: Sized
    placement: Placement
    """With what the pool leaves open chosen."""

    fit: Fit
    needed_bytes: int
    """Memory that a rank's device must have, headroom included."""

    checkpoint_bytes: int
    disk_bytes: int
    """Of the checkpoints that retention keeps, and the one being written."""

    free_bytes: int | None
    """On the store's disk as this machine has it; None where it does not."""

    is_their_disk: bool
    """Whether that is for sure the disk of the machines that train, so that too little of it is said to be too little.
    """

    speed: Speed
    seconds: float | None
    num_nodes: int
    """That the ranks take."""

    cost: float | None
    currency: str | None

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
    is_their_disk: bool,
) -> Estimate:
    """What a training takes on the nodes of a pool. `store`: None where it is no directory. `is_their_disk`: whether
    the nodes have it on the same disk as this machine, for sure."""
    model = sized(config, vocab_size=vocab_size)
    size = memory_size(model, config)
    fit = choose(size, config, placement)
    placement = settle(placement, fit.chosen)
    num_tokens = config.num_steps * config.global_batch_size * config.sequence_length
    speed = speed_of(config, model, placement, accelerator=pool.accelerator, nodes=nodes, store=store)
    seconds = num_tokens / speed.tokens_per_second if speed.tokens_per_second else None
    num_nodes = _nodes_taken(placement, nodes)
    price = pool.machines.price_per_node_hour if pool.machines else None
    checkpoint = checkpoint_bytes(size, config)
    return Estimate(
        num_tokens=num_tokens,
        model=model,
        placement=placement,
        fit=fit,
        needed_bytes=needed_bytes(fit.chosen.memory, placement.device),
        checkpoint_bytes=checkpoint,
        disk_bytes=checkpoint * num_on_disk(config, pool.retention),
        free_bytes=_free_bytes(store, nodes) if store else None,
        is_their_disk=is_their_disk,
        speed=speed,
        seconds=seconds,
        num_nodes=num_nodes,
        cost=None if price is None or seconds is None else price * num_nodes * seconds / 3600,
        currency=pool.machines.currency if pool.machines and price is not None else None,
    )


def checkpoint_bytes(size: ModelSize, config: TrainConfig) -> int:
    """fp32 weights and moments of what is trained, and frozen parameters in the training's precision."""
    frozen = (size.num_parameters - size.num_trained) * (2 if config.precision == "bf16" else 4)
    return 12 * size.num_trained - 4 * size.num_muon + frozen


def num_on_disk(config: TrainConfig, rule: RetentionConfig) -> int:
    """The most checkpoints at a time: those kept, and the one that is being written."""
    made = ceil(config.num_steps / config.checkpoint_every_steps)
    kept = rule.newest + rule.best + (config.num_steps // rule.every_steps if rule.every_steps else 0)
    return min(made, kept + 1)


def _nodes_taken(placement: Placement, nodes: Sequence[Node]) -> int:
    """The ranks fill node after node."""
    left, taken = placement.num_ranks, 0
    for node in nodes:
        if left <= 0:
            break
        left -= slots([node], cpus_per_rank=placement.cpus_per_rank, device=placement.device)
        taken += 1
    return taken


def _free_bytes(store: Path, nodes: Sequence[Node]) -> int | None:
    """Of the store's disk, if this machine has it: a store that is not there yet will be where the nodes are."""
    if not store.is_dir() and socket.gethostname() not in {node.host for node in nodes}:
        return None
    there = next((path for path in (store, *store.parents) if path.is_dir()), None)
    return shutil.disk_usage(there).free if there else None
