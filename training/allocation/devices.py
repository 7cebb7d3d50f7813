"""What the devices of a job can do, by type, and how a step's sequences are shared among them. Pure; no heavy imports.

Passes are a forward and a backward pass over a micro-batch of sequences. All times are in seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class DeviceType:
    """Devices that are alike."""

    name: str
    number: int
    """How many ranks compute on one of them."""

    pass_seconds: tuple[float, ...]
    """The time of a pass over 1, 2, ... sequences, as many as the memory holds; it never falls (`make_monotone`)."""

    def __post_init__(self) -> None:
        """Raise ValueError if there are no devices, no times, or times that fall or are not above 0."""
        if self.number < 1 or not self.pass_seconds:
            raise ValueError(
                f"{self.name}: {self.number} devices with {len(self.pass_seconds)} times; give one or more"
            )
        if self.pass_seconds[0] <= 0 or list(self.pass_seconds) != sorted(self.pass_seconds):
            raise ValueError(
                f"{self.name}: the times of passes must be above 0 and never fall: {self.pass_seconds[:8]}"
            )

    @cached_property
    def rate(self) -> float:
        """The most sequences a second that one of the devices computes by itself."""
        return max(size / seconds for size, seconds in enumerate(self.pass_seconds, 1))


@dataclass(frozen=True)
class Share:
    """What each of several ranks of one type does in a step."""

    device: str
    num_ranks: int
    passes: tuple[int, ...]
    """Sequences of each pass, in order; 0 where the rank only takes part in the collectives."""

    seconds: float
    """The time that these passes take by themselves."""

    @property
    def num_sequences(self) -> int:
        """The sequences of one of the ranks."""
        return sum(self.passes)


@dataclass(frozen=True)
class Allocation:
    """How a step's sequences are shared among all ranks."""

    shares: tuple[Share, ...]
    seconds: float
    """The predicted time of the step."""

    bound: float
    """No allocation of this kind takes less: equal to `seconds` where that is the least."""

    eta: float
    """G / (seconds * sum of rates): the share of the devices' own speeds that the job has together."""


def make_monotone(seconds: Sequence[float]) -> list[float]:
    """Return the closest times, by squares, that never fall: the pool-adjacent-violators algorithm.

    R. E. Barlow and others, Statistical Inference under Order Restrictions, 1972.
    """
    pools: list[tuple[float, int]] = []
    for value in seconds:
        total, size = float(value), 1
        while pools and pools[-1][0] / pools[-1][1] > total / size:
            before, number = pools.pop()
            total, size = total + before, size + number
        pools.append((total, size))
    return [total / size for total, size in pools for _ in range(size)]


def sum_of_rates(devices: Sequence[DeviceType]) -> float:
    """Return the sequences a second that all devices compute, each by itself."""
    return sum(one.number * one.rate for one in devices)
