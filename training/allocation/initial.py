"""How the sharing of a training begins: evenly, by the speeds that its checkpoint has, or by what passes take now."""

from collections.abc import Callable
from typing import Any, Protocol

import torch

from cluster.executor import Rank
from training.allocation.balance import Balancer, Sharing, describe_sharing
from training.allocation.known_times import describe_model
from training.allocation.pass_times import PassTimer
from training.data.batches import Batches
from training.job import Job
from training.network.packed_lm import minds_router
from training.network.probes import NetworkTraits
from training.speeds import Speeds
from training.zero.step_timing import Stopwatch


class Built(Protocol):
    """What is needed of an engine and the model in it (training/loop/build.py)."""

    @property
    def engine(self) -> Any: ...
    @property
    def traits(self) -> NetworkTraits: ...


def make_balancer(
    job: Job,
    rank: Rank,
    built: Built,
    batches: Batches,
    *,
    saved: Speeds | None,
    step: int,
    device: torch.device,
    stopwatch: Stopwatch,
    beat: Callable[[str], None],
    notify: Callable[[str], None],
) -> Balancer:
    """Make what says who computes what of each step from `step` on. Collective.

    `saved` is what the checkpoint says that training goes on from.
    """
    placement, config = job.placement, job.config
    sharing = None
    if placement.balance == "speed" and rank.world_size > 1:
        timer = PassTimer(
            built.engine,
            batches,
            placement.of_member(rank.member),
            world_size=rank.world_size,
            most=config.global_batch_size,
            boundary_id=job.tokenizer.manifest.boundary_id,
            device=device,
            stopwatch=stopwatch,
            beat=beat,
        )
        model = describe_model(config, vocab_size=job.tokenizer.manifest.vocab_size)
        attention = built.traits.attention
        speeds = timer.find_speeds(job.out.parent, model=model, attention=attention, saved=saved, step=step)
        sharing = Sharing(
            speeds, equal_passes=has_collectives_in_passes(job, built.traits), overlaps=device.type != "cpu"
        )
        notify(f"sequences are shared by speed, {speeds.why}: {describe_sharing(sharing, config.global_batch_size)}")
    return Balancer(world_size=rank.world_size, micro_batch_size=placement.micro_batch_size, sharing=sharing)


def has_collectives_in_passes(job: Job, traits: NetworkTraits) -> bool:
    """Return whether the ranks exchange something in every pass, so that all must run as many."""
    by_batch = minds_router(job.config.model) and job.config.model.router_balance_by == "batch"
    return job.placement.zero_stage >= 2 or (traits.shows_routers and by_batch)
