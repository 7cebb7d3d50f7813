"""Muon on ZeRO's flat partitions: momentum is sharded like Adam's moments, and updates are of whole matrices.

DeepSpeed has a Muon of its own, whose momentum is laid out differently in each ZeRO stage, so a checkpoint of one
stage could not be loaded in another. Here the momentum is fp32, elementwise, on the rank that owns the master weight.
For the update each matrix goes to one rank, which orthogonalises it (training/zero/muon_plan.py says which), and the
result goes back in pieces; a rank sends about twice its shard in a step. Without ZeRO every rank has all masters and
orthogonalises all matrices: to share that, ranks would have to send the results to all others, as ZeRO 1 does with the
weights.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from training.zero.config import MUON_BUCKET_ELEMENTS
from training.zero.fragments import base_optimizer, is_flat, list_masters, shard_of_stage_3
from training.zero.muon_plan import Round, Span, deal_matrices, plan_round

NUM_ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic Newton-Schulz iteration of Jordan et al., Muon, 2024
(kellerjordan.github.io/posts/muon)."""


@dataclass(frozen=True)
class ParameterShard:
    """The part of one parameter that this rank's flat master holds; it may be empty."""

    shape: torch.Size
    """Shape of the whole parameter."""

    span: Span
    """The elements held, in the flattened parameter."""

    start: int
    """Where the first of them stands in the flat master."""


class MuonWithAdamW(torch.optim.AdamW):
    """Muon for the groups that say `muon`, AdamW for the others."""

    def __init__(self, groups: Any, *, momentum: float, **adamw: Any) -> None:
        super().__init__(groups, **adamw)
        self._momentum = momentum
        self._device = torch.device("cpu")
        self._rounds: dict[torch.Tensor, list[Round]] = {}
        """How the matrices of each flat master are updated, in the same order on every rank."""

    def attach_engine(self, engine: Any) -> None:
        """Plan the updates of the engine's matrices. Until then a step changes no weight of Muon's. Collective."""
        self._device = engine.device
        self._rounds = {master: _plan(engine, shards) for master, shards in _find_shards(engine)}

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step of every group. Collective. It overwrites the gradients of what Muon updates."""
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
        if master not in self._rounds or master.grad is None:
            return
        momentum = self.state[master]["momentum_buffer"].lerp_(master.grad, 1 - self._momentum)
        direction = master.grad.lerp_(momentum, self._momentum).reshape(-1)  # Nesterov
        master.mul_(1 - group["lr"] * group["weight_decay"])
        for planned in self._rounds[master]:
            _update_round(master.view(-1), direction, planned, device=self._device, rate=group["lr"])


def iteration_dtype(device_type: str) -> torch.dtype:
    """Return the dtype that matrices are orthogonalised in: bf16, as by Jordan et al., but fp32 on CPUs."""
    return torch.float32 if device_type == "cpu" else torch.bfloat16


def orthogonalise(matrices: torch.Tensor, *, dtype: torch.dtype) -> torch.Tensor:
    """Return about the closest semi-orthogonal matrices, times sqrt(max(1, rows / columns)): (n, rows, columns), fp32.

    It takes Newton-Schulz iterations in `dtype`; the norm before them and the scale are fp32. The scale is that of the
    reference implementation of Jordan et al.
    """
    a, b, c = COEFFICIENTS
    rows, columns = matrices.shape[-2:]
    x = matrices.mT if rows > columns else matrices
    x = (x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)).to(dtype)
    for _ in range(NUM_ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    scaled: torch.Tensor = (x.mT if rows > columns else x).float() * max(1.0, rows / columns) ** 0.5
    return scaled


def _update_round(
    master: torch.Tensor, direction: torch.Tensor, planned: Round, *, device: torch.device, rate: float
) -> None:
    """Update the elements `held` of a flat master. Collective. It may overwrite `direction`."""
    held = _join(direction, planned.held).to(device)
    received = _exchange(held, planned.num_sent, planned.num_received)
    del held
    own = _join(received, planned.assembled)
    del received
    _orthogonalise_all(own, planned.batches, dtype=iteration_dtype(device.type))
    returned = _join(own, planned.returned)
    del own
    update = _exchange(returned, planned.num_received, planned.num_sent).to(master.device)
    pieces = _narrow(master, planned.held)
    for piece, change in zip(pieces, torch.split(update, [len(piece) for piece in pieces]), strict=True):
        piece.add_(change, alpha=-rate)


def _orthogonalise_all(flat: torch.Tensor, shapes: Sequence[Sequence[int]], *, dtype: torch.dtype) -> None:
    """Orthogonalise, in place, batches of matrices of these shapes that stand one after another."""
    for matrices, shape in zip(torch.split(flat, list(map(prod, shapes))), shapes, strict=True):
        batch = matrices.view(*shape)
        batch.copy_(orthogonalise(batch, dtype=dtype))


def _exchange(flat: torch.Tensor, num_sent: Sequence[int], num_received: Sequence[int]) -> torch.Tensor:
    """Send consecutive parts of a tensor to the ranks, and return what they send, in their order. Collective."""
    if len(num_sent) == 1:
        return flat
    received = flat.new_empty(sum(num_received))
    torch.distributed.all_to_all_single(received, flat, list(num_received), list(num_sent))
    return received


def _join(flat: torch.Tensor, spans: Sequence[Span]) -> torch.Tensor:
    """Return the elements of these spans, one after another: a view where there is one span."""
    pieces = _narrow(flat, spans)
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces) if pieces else flat[:0]


def _narrow(flat: torch.Tensor, spans: Sequence[Span]) -> list[torch.Tensor]:
    return [flat[first : first + numel] for first, numel in spans]


def _plan(engine: Any, shards: list[ParameterShard]) -> list[Round]:
    """Plan the updates of a flat master's matrices from the shards of all ranks that have a part of it. Collective."""
    own = [shard.span for shard in shards]
    held, rank = [own], 0
    if engine.zero_optimization_stage() > 0:
        rank, num_ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
        every = torch.empty(num_ranks * len(own), 2, dtype=torch.int64, device=engine.device)
        torch.distributed.all_gather_into_tensor(every, torch.tensor(own, device=engine.device))
        held = [[(first, numel) for first, numel in spans] for spans in every.view(num_ranks, -1, 2).tolist()]
    starts = [shard.start for shard in shards]
    dealt = deal_matrices([shard.shape for shard in shards], held, max_elements=MUON_BUCKET_ELEMENTS)
    return [plan_round(owned, held, starts, rank=rank) for owned in dealt]


def _find_shards(engine: Any) -> Iterator[tuple[torch.Tensor, list[ParameterShard]]]:
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
            yield master, [ParameterShard(master.shape, (0, master.numel()), 0)]


def _parameters_of_group(optimizer: Any, group: int) -> list[Any]:
    """Return the parameters of one group whose masters are flat, of DeepSpeed's two classes that have such."""
    groups = optimizer.bf16_groups if hasattr(optimizer, "bf16_groups") else optimizer.bit16_groups
    return list(groups[group])


def _flat_shard(parameter: Any) -> ParameterShard:
    mapping = parameter._hp_mapping
    if mapping is None:
        return ParameterShard(parameter.shape, (0, 0), 0)
    where = mapping.hp_fragment_address
    return ParameterShard(parameter.shape, (mapping.lp_fragment_address.start, where.numel), where.start)


def _stage_3_shard(optimizer: Any, parameter: Any) -> ParameterShard:
    first, owned = shard_of_stage_3(parameter)
    start = optimizer.grad_position[optimizer.get_param_id(parameter)][1]
    return ParameterShard(parameter.ds_shape, (first, owned) if owned > 0 else (0, 0), start)
