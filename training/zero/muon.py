"""Muon on ZeRO's flat partitions: momentum is sharded like Adam's moments, and updates are of whole matrices.

DeepSpeed has a Muon of its own, whose momentum is laid out differently in each ZeRO stage, so a checkpoint of one
stage could not be loaded in another. Here the momentum is fp32, elementwise, on the rank that owns the master weight.
For the update the ranks gather each matrix, and those that own a part of it orthogonalise it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from training.zero.config import MUON_BUCKET_ELEMENTS
from training.zero.fragments import base_optimizer, is_flat, list_masters, shard_of_stage_3

NUM_ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic Newton-Schulz iteration of Jordan et al., Muon, 2024
(kellerjordan.github.io/posts/muon)."""


@dataclass(frozen=True)
class MatrixShard:
    """The part of one matrix that this rank's flat master holds; it may be empty."""

    shape: torch.Size
    """Shape of the whole matrix."""

    first: int
    """First element held, in the flattened matrix."""

    start: int
    """Where that element stands in the flat master."""

    numel: int


class MuonWithAdamW(torch.optim.AdamW):
    """Muon for the groups that say `muon`, AdamW for the others."""

    def __init__(self, groups: Any, *, momentum: float, **adamw: Any) -> None:
        super().__init__(groups, **adamw)
        self._momentum = momentum
        self._replicated = False
        self._matrices: dict[torch.Tensor, list[MatrixShard]] = {}
        """The matrices of each flat master, in the same order on every rank."""

    def attach_engine(self, engine: Any) -> None:
        """Learn where the engine keeps the matrices. Until then a step changes no weight that Muon updates."""
        self._matrices = dict(_find_matrices(engine))
        # every rank has every matrix without ZeRO; sharing the work would cost a broadcast
        self._replicated = engine.zero_optimization_stage() == 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step of every group. Collective."""
        all_groups = self.param_groups
        for group in all_groups:
            if group["muon"]:
                for master in group["params"]:
                    self._muon_step(master, group)
        self.param_groups = [group for group in all_groups if not group["muon"]]
        try:
            return super().step(closure)
        finally:
            self.param_groups = all_groups

    def _muon_step(self, master: torch.Tensor, group: dict[str, Any]) -> None:
        if master not in self._matrices or master.grad is None:
            return
        momentum = self.state[master]["momentum_buffer"].lerp_(master.grad, 1 - self._momentum)
        direction = master.grad.lerp(momentum, self._momentum).view(-1)  # Nesterov
        master.mul_(1 - group["lr"] * group["weight_decay"])
        for bucket in _fill_buckets(self._matrices[master]):
            wholes = _own_matrices(bucket, direction) if self._replicated else _gather_matrices(bucket, direction)
            for matrix, whole in zip(bucket, wholes, strict=True):
                if matrix.numel:
                    update = orthogonalise(whole.view(matrix.shape)).flatten()
                    own = update[matrix.first : matrix.first + matrix.numel]
                    master.view(-1)[matrix.start : matrix.start + matrix.numel].add_(own, alpha=-group["lr"])


def orthogonalise(matrix: torch.Tensor) -> torch.Tensor:
    """Return about the closest semi-orthogonal matrix, times sqrt(max(1, rows / columns)): (..., rows, columns), fp32.

    It takes Newton-Schulz iterations; the scale is that of the reference implementation of Jordan et al.
    """
    a, b, c = COEFFICIENTS
    rows, columns = matrix.shape[-2:]
    x = matrix.mT if rows > columns else matrix
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(NUM_ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    scaled: torch.Tensor = (x.mT if rows > columns else x) * max(1.0, rows / columns) ** 0.5
    return scaled


def _fill_buckets(matrices: list[MatrixShard]) -> Iterator[list[MatrixShard]]:
    """Yield the matrices in order, in buckets of at most MUON_BUCKET_ELEMENTS, or of one larger matrix."""
    bucket: list[MatrixShard] = []
    for matrix in matrices:
        if bucket and sum(other.shape.numel() for other in bucket) + matrix.shape.numel() > MUON_BUCKET_ELEMENTS:
            yield bucket
            bucket = []
        bucket.append(matrix)
    yield bucket


def _own_matrices(bucket: list[MatrixShard], direction: torch.Tensor) -> list[torch.Tensor]:
    """Return the whole matrices, flat, of a rank that has all of them."""
    return [direction[matrix.start : matrix.start + matrix.numel] for matrix in bucket]


def _gather_matrices(bucket: list[MatrixShard], direction: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the whole matrices, flat, of which each rank has parts in its `direction`. Collective.

    An all-reduce over zeros gathers them: shards of a matrix differ in size, and many ranks hold none of it.
    """
    sizes = [matrix.shape.numel() for matrix in bucket]
    gathered = direction.new_zeros(sum(sizes))
    wholes: tuple[torch.Tensor, ...] = torch.split(gathered, sizes)
    for matrix, whole in zip(bucket, wholes, strict=True):
        whole[matrix.first : matrix.first + matrix.numel] = direction[matrix.start : matrix.start + matrix.numel]
    torch.distributed.all_reduce(gathered)
    return wholes


def _find_matrices(engine: Any) -> Iterator[tuple[torch.Tensor, list[MatrixShard]]]:
    stage, optimizer = engine.zero_optimization_stage(), engine.optimizer
    groups = base_optimizer(engine).param_groups
    for number, (master, group) in enumerate(list_masters(engine)):
        if not groups[group]["muon"]:
            continue
        if stage == 3:
            yield master, [_stage_3_shard(optimizer, parameter) for parameter in optimizer.fp16_groups[number]]
        elif is_flat(engine):
            yield master, [_flat_shard(parameter) for parameter in _parameters_of_group(optimizer, group)]
        else:
            yield master, [MatrixShard(master.shape, 0, 0, master.numel())]


def _parameters_of_group(optimizer: Any, group: int) -> list[Any]:
    """Return the parameters of one group whose masters are flat, of DeepSpeed's two classes that have such."""
    groups = optimizer.bf16_groups if hasattr(optimizer, "bf16_groups") else optimizer.bit16_groups
    return list(groups[group])


def _flat_shard(parameter: Any) -> MatrixShard:
    mapping = parameter._hp_mapping
    if mapping is None:
        return MatrixShard(parameter.shape, 0, 0, 0)
    where = mapping.hp_fragment_address
    return MatrixShard(parameter.shape, mapping.lp_fragment_address.start, where.start, where.numel)


def _stage_3_shard(optimizer: Any, parameter: Any) -> MatrixShard:
    first, owned = shard_of_stage_3(parameter)
    start = optimizer.grad_position[optimizer.get_param_id(parameter)][1]
    return MatrixShard(parameter.ds_shape, first if owned > 0 else 0, start, max(0, owned))
