"""Which rank orthogonalises which matrix, in which round, and what the ranks send each other for it.

Pure arithmetic on who holds what, so that every rank decides the same without asking. It is done once; a step only
follows it. What a rank works out grows with the matrices, and with its own ones times the ranks.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace
from itertools import accumulate, groupby
from math import prod

Span = tuple[int, int]
"""The first of some consecutive elements, and their number."""


@dataclass(frozen=True)
class Matrix:
    """A matrix that is orthogonalised by itself: a parameter, or one of those that a parameter stacks (experts)."""

    parameter: int
    """Number of the parameter."""

    first: int
    """Its first element in the flattened parameter."""

    rows: int
    columns: int

    @property
    def numel(self) -> int:
        """Elements."""
        return self.rows * self.columns

    @property
    def cost(self) -> int:
        """Multiplications of one product with its own transpose; what an iteration takes is near a multiple of it."""
        return self.numel * min(self.rows, self.columns)


@dataclass(frozen=True)
class Round:
    """What one rank does in a round: send and receive pieces, orthogonalise, and send the results back."""

    held: tuple[Span, ...]
    """The pieces that this rank sends, as elements of its flat master, in the order of their owners."""

    num_sent: tuple[int, ...]
    """Elements for each rank."""

    num_received: tuple[int, ...]
    """Elements from each rank."""

    assembled: tuple[Span, ...]
    """The pieces of what it receives, in the order in which they make up its matrices, one after another."""

    returned: tuple[Span, ...]
    """The pieces of its matrices, one after another, in the order in which they were received."""

    batches: tuple[tuple[int, int, int], ...]
    """Its matrices, those of one shape together: their number, rows and columns."""


def split_into_matrices(shapes: Sequence[Sequence[int]]) -> list[Matrix]:
    """Return the matrices of parameters of these shapes: (rows, columns) or (..., rows, columns)."""
    return [
        Matrix(parameter, first, *shape[-2:])
        for parameter, shape in enumerate(shapes)
        for first in range(0, prod(shape), prod(shape[-2:]))
    ]


def order_matrices(matrices: Sequence[Matrix], holders: Sequence[int]) -> list[int]:
    """Return the numbers of the matrices, the dearest first, and those of a shape evenly from the ranks that hold them.

    `holders` has the rank with the first element of each. In order of the parameters a flat partition's rank would hold
    nearly all of a round, and send it from one buffer.
    """
    kinds = [(matrix.rows, matrix.columns, holder) for matrix, holder in zip(matrices, holders, strict=True)]
    total, seen = Counter(kinds), Counter[tuple[int, int, int]]()
    keys = []
    for matrix, kind in zip(matrices, kinds, strict=True):
        keys.append((-matrix.cost, matrix.rows, matrix.columns, (seen[kind] + 0.5) / total[kind], kind[-1]))
        seen[kind] += 1
    return sorted(range(len(matrices)), key=keys.__getitem__)


def assign_owners(costs: Sequence[int], num_ranks: int) -> list[int]:
    """Return the rank of each task of a decreasing sequence: the one with the least to do (longest processing time
    first; Graham, Bounds on Multiprocessing Timing Anomalies, 1969: at most 4/3 of the best possible largest load).
    """
    loads = [(0, rank) for rank in range(num_ranks)]
    heapify(loads)
    owners = []
    for cost in costs:
        load, rank = loads[0]
        owners.append(rank)
        heapreplace(loads, (load + cost, rank))
    return owners


def assign_rounds(sizes: Sequence[int], owners: Sequence[int], *, max_elements: int) -> list[int]:
    """Return the round of each matrix: in order, the next of its owner in which it has at most `max_elements`."""
    state: dict[int, tuple[int, int]] = {}
    rounds = []
    for size, owner in zip(sizes, owners, strict=True):
        number, elements = state.get(owner, (0, 0))
        if elements + size > max_elements:
            number, elements = number + 1, 0
        state[owner] = (number, elements + size)
        rounds.append(number)
    return rounds


def deal_matrices(
    shapes: Sequence[Sequence[int]], held: Sequence[Sequence[Span]], *, max_elements: int
) -> list[list[list[Matrix]]]:
    """Return the matrices that each rank orthogonalises in each round, of parameters of these shapes.

    `held` has the span of each flattened parameter that each rank holds. In a round no rank has matrices of more than
    `max_elements`, or than the largest has. Raises ValueError if the ranks do not hold each element once.
    """
    matrices = split_into_matrices(shapes)
    order = order_matrices(matrices, _find_holders(matrices, shapes, held))
    matrices = [matrices[number] for number in order]
    owners = assign_owners([matrix.cost for matrix in matrices], len(held))
    sizes = [matrix.numel for matrix in matrices]
    rounds = assign_rounds(sizes, owners, max_elements=max([max_elements, *sizes]))
    dealt: list[list[list[Matrix]]] = [[[] for _ in held] for _ in range(max(rounds, default=-1) + 1)]
    for matrix, number, owner in zip(matrices, rounds, owners, strict=True):
        dealt[number][owner].append(matrix)
    return dealt


def plan_round(
    owned: Sequence[Sequence[Matrix]], held: Sequence[Sequence[Span]], starts: Sequence[int], *, rank: int
) -> Round:
    """Return what `rank` does in a round in which each rank orthogonalises the matrices `owned`.

    `held` is as in deal_matrices, and `starts` has the place of each of this rank's spans in its flat master.
    """
    sent: list[Span] = []
    num_sent = []
    for matrices in owned:
        before = len(sent)
        for matrix in matrices:
            first_held, _ = held[rank][matrix.parameter]
            first, numel = _intersect(held[rank][matrix.parameter], matrix)
            sent.append((starts[matrix.parameter] + first - first_held, numel))
        num_sent.append(sum(numel for _, numel in sent[before:]))
    own = owned[rank]
    places = [0, *accumulate(matrix.numel for matrix in own)]
    arriving: list[Span] = []  # each piece's place among the rank's own matrices, in the order of arrival
    num_received = []
    for spans in held:
        before = len(arriving)
        for place, matrix in zip(places[:-1], own, strict=True):
            first, numel = _intersect(spans[matrix.parameter], matrix)
            arriving.append((place + first - matrix.first, numel))
        num_received.append(sum(numel for _, numel in arriving[before:]))
    arrivals = [0, *accumulate(numel for _, numel in arriving)]
    in_place = sorted((place, at, numel) for (place, numel), at in zip(arriving, arrivals[:-1], strict=True))
    return Round(
        held=_merge(sent),
        num_sent=tuple(num_sent),
        num_received=tuple(num_received),
        assembled=_merge((at, numel) for _, at, numel in in_place),
        returned=_merge(arriving),
        batches=tuple((len(list(same)), *shape) for shape, same in groupby((m.rows, m.columns) for m in own)),
    )


def _find_holders(
    matrices: Sequence[Matrix], shapes: Sequence[Sequence[int]], held: Sequence[Sequence[Span]]
) -> list[int]:
    """Return the rank that holds the first element of each matrix. Raises ValueError as deal_matrices does."""
    firsts: list[list[int]] = []
    ranks: list[list[int]] = []
    for parameter, shape in enumerate(shapes):
        spans = sorted((*spans[parameter], rank) for rank, spans in enumerate(held) if spans[parameter][1])
        firsts.append([first for first, _, _ in spans])
        ranks.append([rank for _, _, rank in spans])
        if [*firsts[-1], prod(shape)] != [0, *accumulate(numel for _, numel, _ in spans)]:
            raise ValueError(f"the ranks hold {spans} of a parameter of shape {tuple(shape)}: a gap, or an overlap")
    return [ranks[matrix.parameter][bisect_right(firsts[matrix.parameter], matrix.first) - 1] for matrix in matrices]


def _intersect(span: Span, matrix: Matrix) -> Span:
    """Return the part of a span of the flattened parameter that is in the matrix; it may have no element."""
    first, stop = max(span[0], matrix.first), min(sum(span), matrix.first + matrix.numel)
    return first, max(0, stop - first)


def _merge(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Join spans that go on where the one before ends, and leave out empty ones."""
    merged: list[Span] = []
    for first, numel in spans:
        if merged and numel and sum(merged[-1]) == first:
            merged[-1] = (merged[-1][0], merged[-1][1] + numel)
        elif numel:
            merged.append((first, numel))
    return tuple(merged)
