"""Who orthogonalises what: the load of the ranks, and that matrices arrive whole and come back in their places."""

from itertools import accumulate
from math import prod

import numpy as np
import pytest

from training.zero.muon_plan import Round, Span, deal_matrices, plan_round

LARGE = [(8192, 8192), (1024, 8192), (1024, 8192), (8192, 8192), (28672, 8192), (28672, 8192), (8192, 28672)] * 80
"""The 560 matrices of a Llama of 70 billion parameters."""
EXPERTS = [(4096, 2048), (512, 2048), (512, 2048), (2048, 4096), (128, 2048), (128, 1536, 2048), (128, 2048, 768)] * 48
"""The matrices of a mixture of 48 layers with 128 experts each, as Qwen3-30B-A3B has it."""
SMALL = [(3, 5), (4, 6, 2), (5, 3), (2, 2), (3, 5), (7, 2, 2, 3)]
BUCKET = 16 << 20


def sliced(shapes, num_ranks: int) -> list[list[Span]]:
    """ZeRO-3: a slice of each parameter for each rank."""
    sizes = [-(-prod(shape) // num_ranks) for shape in shapes]
    return [
        [clip(rank * size, size, prod(shape)) for shape, size in zip(shapes, sizes, strict=True)]
        for rank in range(num_ranks)
    ]


def flat(shapes, num_ranks: int) -> list[list[Span]]:
    """ZeRO 1 and 2: a slice of all parameters in a row for each rank."""
    begins = list(accumulate(map(prod, shapes), initial=0))
    size = -(-begins[-1] // num_ranks)
    return [
        [clip(rank * size - begin, size, prod(shape)) for shape, begin in zip(shapes, begins[:-1], strict=True)]
        for rank in range(num_ranks)
    ]


def clip(first: int, numel: int, size: int) -> Span:
    begin, end = max(first, 0), min(first + numel, size)
    return (begin, end - begin) if end > begin else (0, 0)


def plans(shapes, held: list[list[Span]], max_elements: int, ranks: list[int]) -> list[list[Round]]:
    """What each of `ranks` does, round by round."""
    dealt = deal_matrices(shapes, held, max_elements=max_elements)
    starts = {rank: [*accumulate((numel for _, numel in held[rank]), initial=0)] for rank in ranks}
    return [[plan_round(owned, held, starts[rank], rank=rank) for owned in dealt] for rank in ranks]


def test_equal_matrices_are_dealt_out_evenly():
    matrices = [(64, 64)] * 560
    dealt = deal_matrices(matrices, flat(matrices, 64), max_elements=1)
    owned = [sum(map(len, own)) for own in zip(*dealt, strict=True)]
    assert len(owned) == 64
    assert sum(owned) == 560
    assert max(owned) == 9  # 560 / 64, rounded up


@pytest.mark.parametrize("layout", [sliced, flat])
@pytest.mark.parametrize("shapes", [LARGE, EXPERTS], ids=["large", "experts"])
def test_no_rank_waits_long_for_another_or_holds_much_more_than_a_bucket(layout, shapes):
    held, bound = layout(shapes, 64), max(BUCKET, max(prod(shape[-2:]) for shape in shapes))
    dealt = deal_matrices(shapes, held, max_elements=BUCKET)
    costs = [[sum(matrix.cost for matrix in own) for own in owned] for owned in dealt]
    mean = sum(map(sum, costs)) / 64
    assert max(map(sum, zip(*costs, strict=True))) < 1.03 * mean
    assert sum(map(max, costs)) < 1.03 * mean, "in each round all wait for the one with the most to do"
    assert max(sum(matrix.numel for matrix in own) for owned in dealt for own in owned) <= bound
    for rounds, rank in zip(plans(shapes, held, BUCKET, [0, 31, 63]), [0, 31, 63], strict=True):
        assert max(sum(each.num_sent) for each in rounds) < 2 * bound
        assert sum(sum(each.num_sent) for each in rounds) == sum(numel for _, numel in held[rank])


def test_a_plan_for_many_ranks_is_few_rounds_of_few_pieces():
    (rounds,) = plans(EXPERTS, sliced(EXPERTS, 64), BUCKET, [5])
    assert len(rounds) <= 32
    assert sum(len(each.held) + len(each.assembled) + len(each.returned) for each in rounds) < 1500
    assert sum(len(each.batches) for each in rounds) < 1.2 * len(rounds), "experts of a shape are a batch"


@pytest.mark.parametrize("layout", [sliced, flat])
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5, 40])
@pytest.mark.parametrize("max_elements", [1, 20, 10_000])
def test_matrices_arrive_whole_and_their_pieces_come_back_to_their_places(layout, num_ranks, max_elements):
    held, begins = layout(SMALL, num_ranks), [*accumulate(map(prod, SMALL), initial=0)]
    masters = [
        np.concatenate([np.arange(b + first, b + first + n) for (first, n), b in zip(spans, begins[:-1], strict=True)])
        for spans in held
    ]
    back = [np.full(len(master), -1) for master in masters]
    seen: list[int] = []
    for rounds in zip(*plans(SMALL, held, max_elements, list(range(num_ranks))), strict=True):
        sent = [pick(master, each.held) for master, each in zip(masters, rounds, strict=True)]
        received = exchange(sent, [each.num_sent for each in rounds], [each.num_received for each in rounds])
        own = [pick(flat_, each.assembled) for flat_, each in zip(received, rounds, strict=True)]
        for flat_, each in zip(own, rounds, strict=True):
            ends = accumulate(rows * columns for n, rows, columns in each.batches for _ in range(n))
            wholes = np.split(flat_, [*ends])[:-1]
            assert all((np.diff(whole) == 1).all() for whole in wholes), "in the order of the parameter"
            seen += [int(whole[0]) for whole in wholes]
        replies = [pick(flat_, each.returned) for flat_, each in zip(own, rounds, strict=True)]
        returned = exchange(replies, [each.num_received for each in rounds], [each.num_sent for each in rounds])
        for flat_, mine, each in zip(returned, back, rounds, strict=True):
            for (first, n), piece in zip(
                each.held, np.split(flat_, [*accumulate(n for _, n in each.held)]), strict=False
            ):
                mine[first : first + n] = piece
    firsts = [
        b + i for shape, b in zip(SMALL, begins[:-1], strict=True) for i in range(0, prod(shape), prod(shape[-2:]))
    ]
    assert sorted(seen) == firsts, "each matrix on one rank"
    assert all((mine == master).all() for mine, master in zip(back, masters, strict=True))


def pick(values: np.ndarray, spans) -> np.ndarray:
    return np.concatenate([values[:0], *(values[first : first + n] for first, n in spans)])


def exchange(sent: list[np.ndarray], num_sent, num_received) -> list[np.ndarray]:
    """What all_to_all_single does, which fails where ranks do not agree about the sizes."""
    parts = [np.split(flat_, [*accumulate(sizes)])[:-1] for flat_, sizes in zip(sent, num_sent, strict=True)]
    received = [[parts[source][rank] for source in range(len(sent))] for rank in range(len(sent))]
    assert [[len(part) for part in own] for own in received] == [list(sizes) for sizes in num_received]
    return [np.concatenate(own) for own in received]


@pytest.mark.parametrize("second", [(5, 10), (8, 7)], ids=["overlap", "gap"])
def test_shards_that_do_not_make_up_the_parameter_are_refused(second):
    with pytest.raises(ValueError, match="a gap, or an overlap"):
        deal_matrices([(3, 5)], [[(0, 7)], [second]], max_elements=BUCKET)


def test_where_muon_updates_nothing_there_is_no_round():
    assert deal_matrices([], [[], []], max_elements=BUCKET) == []
