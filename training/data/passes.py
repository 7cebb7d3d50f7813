"""Which samples of a step each rank computes, and in which of its passes. Pure; every rank finds the same.

The step's samples are known before; a plan only says who computes which. Pass p of all ranks together takes a run of
samples, those of pass p + 1 the next, and within a run the ranks take one after the other in turn, as long as they have
room. So no sample is in a later pass than one after it, and with even sizes sample i is rank i mod world_size's.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from threading import Lock

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PassPlan:
    """The passes of all ranks in one step."""

    sizes: Ints
    """(ranks, passes): samples of each pass. 0 where a rank has none."""

    equal_passes: bool
    """Whether a rank takes part in every pass, also without samples: each has collectives."""

    @property
    def num_samples(self) -> int:
        """The samples of the step."""
        return int(self.sizes.sum())

    @property
    def max_rows(self) -> int:
        """The most samples of a pass on any rank; at least 1."""
        return max(1, int(self.sizes.max()))

    def num_passes(self, rank: int) -> int:
        """Return how many passes a rank runs: one at least, so that it has gradients to exchange."""
        if self.equal_passes:
            return len(self.sizes[rank])
        used = np.flatnonzero(self.sizes[rank])
        return int(used[-1]) + 1 if len(used) else 1

    @cached_property
    def nums_passes(self) -> Ints:
        """(ranks,) how many passes each rank runs."""
        return np.array([self.num_passes(rank) for rank in range(len(self.sizes))])

    def rows(self, rank: int) -> list[Ints]:
        """Return the samples of each pass of a rank, by their numbers in the step."""
        found = []
        start = 0
        for number in range(self.num_passes(rank)):
            in_pass = self.sizes[:, number]
            before = np.arange(in_pass[rank])[:, None]
            taken = np.minimum(in_pass, before).sum(1)  # in the turns before
            earlier = (in_pass[:rank] > before).sum(1)  # in this turn
            found.append(start + taken + earlier)
            start += int(in_pass.sum())
        return found

    def order(self, number: int) -> Ints:
        """Return where the samples of a pass are, in their order, if each rank has max_rows places."""
        in_pass = self.sizes[:, number]
        turn, rank = np.nonzero(in_pass > np.arange(self.max_rows)[:, None])
        return np.asarray(rank * self.max_rows + turn, dtype=np.int64)

    @cached_property
    def digest(self) -> int:
        """A number that another plan has with a chance of 2**-52 only; a float holds it."""
        content = repr((self.sizes.shape, self.equal_passes)).encode() + self.sizes.tobytes()
        return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") >> 12


def even_plan(num_samples: int, world_size: int, *, size: int) -> PassPlan:
    """Return the plan in which all ranks have as many samples as another, or one more, in passes of `size` at most."""
    most = ceil(num_samples / world_size)
    num_passes = ceil(most / size)
    per_pass = ceil(most / num_passes)
    of_rank = (num_samples - np.arange(world_size) + world_size - 1) // world_size
    sizes = of_rank[:, None] - per_pass * np.arange(num_passes)
    return PassPlan(np.clip(sizes, 0, per_pass).astype(np.int64), equal_passes=True)


def make_plan(passes: Sequence[Sequence[int]], *, equal_passes: bool) -> PassPlan:
    """Return the plan of ranks with such passes, each given by its number of samples."""
    num_passes = max(1, *(len(own) for own in passes))
    sizes = np.zeros((len(passes), num_passes), dtype=np.int64)
    for rank, own in enumerate(passes):
        sizes[rank, : len(own)] = own
    return PassPlan(sizes, equal_passes)


class Plans:
    """Gives the plan of a step of so many samples; each is made once. Threads may share it."""

    def __init__(self, make: Callable[[int], PassPlan]) -> None:
        self._make, self._made, self._lock = make, dict[int, PassPlan](), Lock()

    def __call__(self, num_samples: int) -> PassPlan:
        """Return the plan."""
        with self._lock:  # two plans of one size would be compared by some ranks alone (training/loop/step.py)
            if num_samples not in self._made:
                self._made[num_samples] = self._make(num_samples)
            return self._made[num_samples]
