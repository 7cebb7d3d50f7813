"""Muon on ZeRO's flat partitions: momentum that is cut like Adam's moments, updates that are whole matrices'.

DeepSpeed has a Muon of its own, whose momentum is laid out differently in each ZeRO stage, so a checkpoint of one
stage could not go on in another. Here the momentum is fp32, elementwise, on the rank that owns the master weight. For
the update the ranks put each matrix together, and those that own a part of it orthogonalise it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from training.zero.fragments import base_optimizer, masters, shard_of_stage_3

STEPS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz iteration of Jordan et al., Muon, 2024 (kellerjordan.github.io/posts/muon)."""

BUCKET_ELEMENTS = 16 << 20
"""Matrices are brought together in buckets of about so many elements: few collectives, 64 MiB of memory."""


@dataclass(frozen=True)
class Matrix:
    """A parameter whose group a flat master belongs to, and what of it this rank's master holds; perhaps nothing."""

    shape: torch.Size
    first: int
    """First element held, in the flattened parameter."""

    start: int
    """Where that stands in the flat master."""

    numel: int


class MuonWithAdamW(torch.optim.AdamW):
    """Muon for the groups that say `muon`, AdamW for the others."""

    def __init__(self, groups: Any, *, momentum: float, **adamw: Any) -> None:
        super().__init__(groups, **adamw)
        self._momentum = momentum
        self._replicated = False
        self._matrices: dict[torch.Tensor, list[Matrix]] = {}
        """By flat master; the same matrices in the same order on every rank."""

    def attach(self, engine: Any) -> None:
        """Learn where the engine keeps the matrices. Until then a step changes no weight that Muon is for."""
        self._matrices = dict(_matrices(engine))
        self._replicated = engine.zero_optimization_stage() == 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step of every group. Collective."""
        every = self.param_groups
        for group in every:
            if group["muon"]:
                for master in group["params"]:
                    self._muon_step(master, group)
        self.param_groups = [group for group in every if not group["muon"]]
        try:
            return super().step(closure)
        finally:
            self.param_groups = every

    def _muon_step(self, master: torch.Tensor, group: dict[str, Any]) -> None:
        if master not in self._matrices or master.grad is None:
            return
        momentum = self.state[master]["momentum_buffer"].lerp_(master.grad, 1 - self._momentum)
        direction = master.grad.lerp(momentum, self._momentum).view(-1)  # Nesterov
        master.mul_(1 - group["lr"] * group["weight_decay"])
        for bucket in _buckets(self._matrices[master]):
            wholes = [direction] if self._replicated else _bring_together(bucket, direction)
            for matrix, whole in zip(bucket, wholes, strict=True):
                if matrix.numel:
                    update = orthogonalise(whole.view(matrix.shape)).flatten()
                    own = update[matrix.first : matrix.first + matrix.numel]
                    master.view(-1)[matrix.start : matrix.start + matrix.numel].add_(own, alpha=-group["lr"])


def orthogonalise(matrix: torch.Tensor) -> torch.Tensor:
    """Near the closest semi-orthogonal matrix, times sqrt(max(1, rows / columns)): (..., rows, columns), fp32.

    Newton-Schulz iteration; the scale is that of the reference implementation of Jordan et al.
    """
    a, b, c = COEFFICIENTS
    rows, columns = matrix.shape[-2:]
    x = matrix.mT if rows > columns else matrix
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(STEPS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    scaled: torch.Tensor = (x.mT if rows > columns else x) * max(1.0, rows / columns) ** 0.5
    return scaled


def _buckets(matrices: list[Matrix]) -> Iterator[list[Matrix]]:
    bucket: list[Matrix] = []
    for matrix in matrices:
        if bucket and sum(other.shape.numel() for other in bucket) + matrix.shape.numel() > BUCKET_ELEMENTS:
            yield bucket
            bucket = []
        bucket.append(matrix)
    yield bucket


def _bring_together(bucket: list[Matrix], direction: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The whole matrices, flat, of which each rank has parts in its `direction`."""
    sizes = [matrix.shape.numel() for matrix in bucket]
    everything = direction.new_zeros(sum(sizes))
    wholes: tuple[torch.Tensor, ...] = torch.split(everything, sizes)
    for matrix, whole in zip(bucket, wholes, strict=True):
        whole[matrix.first : matrix.first + matrix.numel] = direction[matrix.start : matrix.start + matrix.numel]
    torch.distributed.all_reduce(everything)
    return wholes


def _matrices(engine: Any) -> Iterator[tuple[torch.Tensor, list[Matrix]]]:
    stage, optimizer = engine.zero_optimization_stage(), engine.optimizer
    groups = base_optimizer(engine).param_groups
    for number, (master, group) in enumerate(masters(engine)):
        if not groups[group]["muon"]:
            continue
        if stage == 3:
            yield master, [_of_stage_3(optimizer, parameter) for parameter in optimizer.fp16_groups[number]]
        elif stage > 0:
            yield master, [_of_stages_1_and_2(parameter) for parameter in _parameters(optimizer, group)]
        else:  # every rank has every matrix; sharing the work would cost a broadcast
            yield master, [Matrix(master.shape, 0, 0, master.numel())]


def _parameters(optimizer: Any, group: int) -> list[Any]:
    """Of one group, in stages 1 and 2; DeepSpeed has two classes for them."""
    groups = optimizer.bf16_groups if hasattr(optimizer, "bf16_groups") else optimizer.bit16_groups
    return list(groups[group])


def _of_stages_1_and_2(parameter: Any) -> Matrix:
    mapping = parameter._hp_mapping
    if mapping is None:
        return Matrix(parameter.shape, 0, 0, 0)
    where = mapping.hp_fragment_address
    return Matrix(parameter.shape, mapping.lp_fragment_address.start, where.start, where.numel)


def _of_stage_3(optimizer: Any, parameter: Any) -> Matrix:
    first, owned = shard_of_stage_3(parameter)
    start = optimizer.grad_position[optimizer.get_param_id(parameter)][1]
    return Matrix(parameter.ds_shape, first if owned > 0 else 0, start, max(0, owned))
