"""Muon's update against its formula, in every layout, and which rank does the work."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from cluster.executor import Rank
from cluster.machines import Node
from cluster.placement import place
from configs.pools import PoolConfig
from tests.training.ranks import run_ranks, tiny_config
from tests.training.trials import put_together
from training.zero import muon
from training.zero.engine import make_engine, set_learning_rate, take_optimizer_step
from training.zero.fragments import fill_weights, owned_fragments
from training.zero.muon import iteration_dtype, orthogonalise
from training.zero.process_group import join_process_group, leave_process_group

RATE, DECAY, STEPS = 0.01, 0.1, 2
MATRICES = {"square": (5, 5), "tall": (13, 7), "experts": (5, 4, 6), "wide": (6, 20), "square_too": (5, 5)}
"""Of sizes that no world size divides, so that shards cut matrices and experts."""
SHAPES = {"embedding": (9, 4), **MATRICES, "vector": (3,)}
NUM_MATRICES = 9
SHARES = {1: (1.0,), 2: (0.5, 0.5), 3: (0.5, 0.25, 0.25)}
"""The part of the gradient that each rank has: parts that add up without rounding."""


def drawn(kind: int, name: str) -> torch.Tensor:
    """Weights (kind 0) or the gradient of a step, exact in bf16."""
    seed = 100 * kind + list(SHAPES).index(name)
    return torch.randn(SHAPES[name], generator=torch.Generator().manual_seed(seed)).bfloat16().float()


def read_drawn(name: str, offset: int, into: torch.Tensor) -> None:
    into.copy_(drawn(0, name.removesuffix(".weight")).view(-1)[offset : offset + len(into)])


class Weight(torch.nn.Module):
    """A parameter whose gradient is what it is called with."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(drawn(0, name))

    def forward(self, gradient: torch.Tensor) -> torch.Tensor:
        return (self.weight * gradient.to(self.weight.dtype)).sum()


class Network(torch.nn.Module):
    """What make_engine needs of one."""

    def __init__(self) -> None:
        super().__init__()
        self.model = torch.nn.ModuleDict({name: Weight(name) for name in SHAPES})
        self.model.get_input_embeddings = lambda: self.model["embedding"]
        self.model.get_output_embeddings = lambda: None

    def forward(self, step: int, share: float) -> torch.Tensor:
        return sum(weight(share * drawn(step + 1, name)) for name, weight in self.model.items())


@dataclass(frozen=True)
class Layout:
    stage: int
    precision: str = "fp32"
    dtype: torch.dtype | None = None
    """That of the iteration, if not the one of this device."""

    offload: bool = False


SEND = torch.distributed.all_to_all_single
LAYOUTS = [Layout(stage) for stage in (0, 1, 2, 3)]
OFFLOADED = [Layout(stage, offload=True) for stage in (1, 2, 3)]
IN_BF16 = [Layout(stage, "bf16") for stage in (0, 1, 3)]
ITERATED_IN_BF16 = [Layout(stage, dtype=torch.bfloat16) for stage in (1, 3)]


def train(rank: Rank, layouts: list[Layout]) -> list[tuple[list[Any], int, int]]:
    """Train in each layout: what the rank owns in the end, the matrices that it orthogonalised, what it sent."""
    join_process_group(rank, timeout_seconds=60)
    muon.MUON_BUCKET_ELEMENTS = 70  # a round takes one of the larger matrices, or some of the smaller ones
    results = []
    for layout in layouts:
        counts = {"matrices": 0, "sent": 0}
        watch(counts, layout.dtype or iteration_dtype("cpu"))
        results.append((train_one(rank, layout), counts["matrices"], counts["sent"]))
    leave_process_group()
    return results


def watch(counts: dict[str, int], dtype: torch.dtype) -> None:
    """Count the matrices that are orthogonalised, in `dtype`, and the elements that are sent."""

    def orthogonalise_and_count(matrices: torch.Tensor, **_: Any) -> torch.Tensor:
        counts["matrices"] += len(matrices)
        return orthogonalise(matrices, dtype=dtype)

    def send_and_count(received: torch.Tensor, sent: torch.Tensor, *sizes: Any) -> Any:
        counts["sent"] += len(sent)
        return SEND(received, sent, *sizes)

    muon.orthogonalise = orthogonalise_and_count
    torch.distributed.all_to_all_single = send_and_count


def train_one(rank: Rank, layout: Layout) -> list[Any]:
    optimizer = {"kind": "muon", "learning_rate": RATE, "muon_learning_rate": RATE, "weight_decay": DECAY}
    config = tiny_config(optimizer=optimizer | {"max_gradient_norm": 1e9}, precision=layout.precision)
    settings = {"zero_stage": layout.stage, "offload_optimizer": layout.offload, "micro_batch_size": 1}
    pool = PoolConfig(num_ranks=rank.world_size, cpus_per_rank=1, **settings)
    placement = place(pool, [Node("host", rank.world_size, 0, 2**33)], wandb=None)
    engine = make_engine(Network(), config, placement, device=torch.device("cpu"))  # type: ignore[arg-type]
    fill_weights(engine, read_drawn)
    set_learning_rate(engine, RATE)
    for step in range(STEPS):
        engine.set_gradient_accumulation_boundary(True)
        engine.backward(engine(step, SHARES[rank.world_size][rank.index]), scale_wrt_gas=False)
        take_optimizer_step(engine, loss_is_finite=True, max_gradient_norm=1e9)
    return [
        (kind, fragment.name, fragment.offset, tensor.numpy().copy())
        for fragment in owned_fragments(engine)
        for kind, tensor in fragment.tensors.items()
    ]


def by_formula() -> dict[tuple[str, str], torch.Tensor]:
    """Weights and momentum after the steps, by kind and name, one matrix after another."""
    found = {}
    for name in MATRICES:
        weight, momentum = drawn(0, name), torch.zeros(SHAPES[name])
        for step in range(STEPS):
            gradient = drawn(step + 1, name)
            momentum = momentum.lerp(gradient, 1 - 0.95)
            direction = gradient.lerp(momentum, 0.95)
            matrices = direction.view(-1, *direction.shape[-2:])
            update = torch.stack([formula(matrix) for matrix in matrices]).view(direction.shape)
            weight = weight * (1 - RATE * DECAY) - RATE * update
        found["master", name], found["momentum_buffer", name] = weight, momentum
    return found


def formula(matrix: torch.Tensor) -> torch.Tensor:
    a, b, c = 3.4445, -4.7750, 2.0315
    rows, columns = matrix.shape
    x = matrix.T if rows > columns else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return (x.T if rows > columns else x) * max(1.0, rows / columns) ** 0.5


@pytest.mark.parametrize(
    ("world_size", "layouts"),
    [(1, LAYOUTS), (2, LAYOUTS + OFFLOADED + IN_BF16 + ITERATED_IN_BF16), (3, [Layout(3), Layout(2)])],
    ids=[1, 2, 3],
)
def test_every_layout_makes_the_update_of_the_formula_and_each_matrix_once(world_size, layouts):
    ranks = run_ranks(train, world_size, layouts)
    exact = by_formula()
    num_elements = sum(np.prod(shape) for shape in MATRICES.values())
    for layout, found in zip(layouts, zip(*ranks, strict=True), strict=True):
        pieces, orthogonalised, sent = zip(*found, strict=True)
        state = put_together([piece for of_rank in pieces for piece in of_rank])
        for (kind, name), values in exact.items():
            difference = np.abs(state[kind][f"{name}.weight"] - values.numpy().ravel()).max()
            assert difference < RATE * STEPS * (0.05 if layout.dtype else 5e-5), (layout, kind, name)
        if layout.stage == 0:
            assert orthogonalised == (NUM_MATRICES * STEPS,) * world_size
        else:
            assert sum(orthogonalised) == NUM_MATRICES * STEPS, "each on one rank"
            assert min(orthogonalised) > 0
        assert sum(sent) == (2 * num_elements * STEPS if world_size > 1 and layout.stage > 0 else 0), "there and back"


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 12, 40), (2, 40, 12), (1, 1, 9)])
def test_bf16_iterations_give_what_fp32_ones_give_to_their_tolerance(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    exact, rounded = (orthogonalise(matrices, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    torch.testing.assert_close(exact, torch.stack([formula(matrix) for matrix in matrices]), rtol=0, atol=2e-6)
    assert rounded.dtype == exact.dtype == torch.float32
    assert 0 < (rounded - exact).norm() < 0.03 * exact.norm()


def test_the_scale_of_a_gradient_does_not_matter_even_where_bf16_would_lose_it():
    matrices = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(1))
    update = orthogonalise(matrices, dtype=torch.bfloat16)
    for scale in (2.0**-20, 2.0**60):
        torch.testing.assert_close(orthogonalise(scale * matrices, dtype=torch.bfloat16), update, rtol=0, atol=0)


def test_only_cpus_iterate_in_fp32():
    assert iteration_dtype("cpu") == torch.float32
    assert {iteration_dtype(device) for device in ("cuda", "xpu", "hpu")} == {torch.bfloat16}
