"""Shares a step's sequences among ranks by how fast each is, and again when that has changed. Pure.

Rank 0 decides how fast each rank is, and tells the others. From the same speeds each finds the same plan by itself:
what is added, multiplied and compared on the way is rounded alike on every machine (IEEE 754). The ranks compare the
digests of their plans before they use one (training/loop/step.py).
"""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log
from statistics import median

import numpy as np
import numpy.typing as npt

from training.allocation.bottleneck import allocate_bottleneck
from training.allocation.cover import allocate_cover
from training.allocation.devices import Allocation, DeviceType, sum_of_rates
from training.data.passes import PassPlan, Plans, even_plan, make_plan
from training.speeds import Speeds

WINDOW_STEPS = 10
"""How fast a rank is, is the median over so many steps; a change is one that two such windows show."""

COOL_DOWN_STEPS = 20
"""So many steps at least are between two changes."""

LEAST_GAIN = 0.02
"""A step must be predicted to take so much less before the shares change."""

NUM_LOOKS = 1000
"""A rank's time has changed if noise alone would show such a change once in so many looks at all ranks."""

GRAIN = 1.02
"""Slowdowns are powers of this, so that ranks that are nearly as fast are one type to the allocation."""

FAR_BELOW = 1 / 0.3
"""A rank that takes so many times as long as its type is to be replaced, not balanced around."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sharing:
    """How a step is shared by speed: what is known of the ranks, and how they exchange."""

    speeds: Speeds
    equal_passes: bool
    """Whether each pass has collectives, so that all ranks run as many."""

    overlaps: bool
    """Whether these go on while a pass computes."""

    @cached_property
    def groups(self) -> list[tuple[DeviceType, list[int]]]:
        """The ranks that are equally fast, as a type of devices, and which they are."""
        members: dict[tuple[int, float], list[int]] = {}
        for rank, key in enumerate(zip(self.speeds.device_of_rank, self.speeds.slowdown, strict=True)):
            members.setdefault(key, []).append(rank)
        return [
            (DeviceType(str(number), len(ranks), self._pass_seconds(*key)), ranks)
            for number, (key, ranks) in enumerate(sorted(members.items()))
        ]

    @cached_property
    def sum_of_rates(self) -> float:
        """Sequences a second of all ranks, each by itself."""
        return sum_of_rates([one for one, _ in self.groups])

    def allocate(self, num_samples: int) -> Allocation:
        """Return the allocation that takes least."""
        devices = [one for one, _ in self.groups]
        if not self.equal_passes:
            return allocate_bottleneck(devices, num_samples)
        seconds = self.speeds.pass_communication
        return allocate_cover(devices, num_samples, pass_seconds=seconds, overlaps=self.overlaps)

    def plan(self, num_samples: int) -> PassPlan:
        """Return the passes of each rank in that allocation."""
        shares = iter(self.allocate(num_samples).shares)
        passes: list[tuple[int, ...]] = [()] * len(self.speeds.device_of_rank)
        for _, ranks in self.groups:
            done = 0
            while done < len(ranks):  # the shares come in the order of the types
                share = next(shares)
                for rank in ranks[done : done + share.num_ranks]:
                    passes[rank] = share.passes
                done += share.num_ranks
        return make_plan(passes, equal_passes=self.equal_passes)

    def pass_seconds(self, plan: PassPlan) -> Floats:
        """Return what each pass takes each rank, (ranks, passes), without waiting; those without samples, too."""
        most = max(len(one.pass_seconds) for one in self.speeds.devices)
        tables = np.zeros((len(self.speeds.devices), 1 + most))
        for row, one in zip(tables, self.speeds.devices, strict=True):
            row[0] = one.empty_seconds
            row[1 : 1 + len(one.pass_seconds)] = one.pass_seconds
            row[1 + len(one.pass_seconds) :] = one.pass_seconds[-1]
        of_rank = tables[np.asarray(self.speeds.device_of_rank)]
        taken = np.take_along_axis(of_rank, plan.sizes.clip(max=most), axis=1)
        runs = np.arange(plan.sizes.shape[1]) < plan.nums_passes[:, None]
        return np.asarray(np.where(runs, taken, 0.0) * np.asarray(self.speeds.slowdown)[:, None])

    def step_seconds(self, plan: PassPlan) -> float:
        """Return what the passes of a step take by the slowest, with their collectives if each has some."""
        taken = self.pass_seconds(plan)
        if not self.equal_passes:
            return float(taken.sum(1).max())
        slowest, exchange = taken.max(0), self.speeds.pass_communication
        return float((np.maximum(slowest, exchange) if self.overlaps else slowest + exchange).sum())

    def _pass_seconds(self, device: int, slowdown: float) -> tuple[float, ...]:
        return tuple(seconds * slowdown for seconds in self.speeds.devices[device].pass_seconds)


class Balancer:
    """Says who computes what of each step, and notices when another sharing would be faster."""

    def __init__(self, *, world_size: int, micro_batch_size: int, sharing: Sharing | None) -> None:
        """Share evenly without `sharing`, in passes of `micro_batch_size` samples at most."""
        self.sharing = sharing
        self._world_size, self._micro_batch_size = world_size, micro_batch_size
        self.plans = self._make_plans()
        self._since_change = 0
        self._plan_before: PassPlan | None = None
        self._ratios: deque[Floats] = deque(maxlen=2 * WINDOW_STEPS)
        self._steps: deque[float] = deque(maxlen=WINDOW_STEPS)

    def add_step(
        self, plan: PassPlan, *, step: int, seconds_before: Sequence[float], step_seconds: float
    ) -> Speeds | None:
        """Take down a step by this plan; return the speeds by which the next steps would be clearly faster, if any.

        `seconds_before` is what the passes of the step before took each rank without waiting, 0 where that is not
        known; `step_seconds` what this whole step took.
        """
        before, self._plan_before = self._plan_before, plan
        if self.sharing is None:
            return None
        self._since_change += 1
        taken = np.asarray(seconds_before)
        if before is not None and (taken > 0).all():
            self._ratios.append(_ratios(taken, self.sharing.pass_seconds(before).sum(1)))
            self._steps.append(step_seconds)
        if len(self._ratios) < 2 * WINDOW_STEPS or self._since_change % WINDOW_STEPS:
            return None
        return self._find_better(plan, step) if self._since_change >= COOL_DOWN_STEPS else None

    def sum_of_rates(self, seconds_before: Sequence[float]) -> float | None:
        """Return the sequences a second that all ranks compute, each by itself at its best, as they are now.

        `seconds_before` are those of the passes of the last step that was taken down, by rank. Without speeds a rank's
        best is what it did in that step. None before there is one.
        """
        plan, taken = self._plan_before, np.asarray(seconds_before)
        if plan is None or not (taken > 0).all():
            return None
        if self.sharing is None:
            return float((plan.sizes.sum(1) / taken).sum())
        rates = np.array([0.0] * len(taken))
        for device, ranks in self.sharing.groups:
            rates[ranks] = device.rate
        return float((rates / _ratios(taken, self.sharing.pass_seconds(plan).sum(1))).sum())

    def slowdown(self, seconds_before: Sequence[float]) -> list[float] | None:
        """Return by rank how many times as long as its type it took for the passes of the last step taken down.

        A rank that had nothing to do is judged by its empty pass. None without speeds, or before there is a step.
        """
        plan, taken = self._plan_before, np.asarray(seconds_before)
        if plan is None or self.sharing is None or not (taken > 0).all():
            return None
        speeds = self.sharing.speeds
        expected = self.sharing.pass_seconds(plan).sum(1) / np.asarray(speeds.slowdown)
        ratios: list[float] = _ratios(taken, expected).tolist()
        return ratios

    def adopt(self, speeds: Speeds, num_samples: int) -> str:
        """Share the steps that are read from now on by other speeds; say in words how, a step of so many samples."""
        self.sharing = self._with(speeds)
        self.plans = self._make_plans()
        self._since_change, self._plan_before = 0, None
        self._ratios.clear()
        self._steps.clear()
        shared = describe_sharing(self.sharing, num_samples)
        return f"sequences are shared anew, version {speeds.version}: {speeds.why}; {shared}"

    def forget_step(self) -> None:
        """Forget the last step, so that what it took is not compared with the next: ranks went back."""
        self._plan_before = None

    def _make_plans(self) -> Plans:
        if self.sharing is not None:
            return Plans(self.sharing.plan)
        return Plans(lambda num: even_plan(num, self._world_size, size=self._micro_batch_size))

    def _find_better(self, plan: PassPlan, step: int) -> Speeds | None:
        """Return the speeds by what ranks took lately, if a step is predicted to be clearly faster with them."""
        assert self.sharing is not None
        speeds = self.sharing.speeds
        changes = _clear_changes(np.stack(self._ratios))
        slowdown = tuple(to_grain(one * by) for one, by in zip(speeds.slowdown, changes.tolist(), strict=True))
        now = self._with(speeds.model_copy(update={"slowdown": slowdown}))
        takes = now.step_seconds(plan)
        whole = max(takes, median(self._steps))
        if takes - plan.num_samples / now.sum_of_rates <= LEAST_GAIN * whole:  # more cannot be gained
            return None
        gained = takes - now.step_seconds(now.plan(plan.num_samples))
        if gained <= LEAST_GAIN * whole:
            return None
        why = f"passes take other times than before: a step is predicted to take {gained / whole:.1%} less"
        update = {"slowdown": slowdown, "version": speeds.version + 1, "step": step, "why": why}
        return speeds.model_copy(update=update)

    def _with(self, speeds: Speeds) -> Sharing:
        assert self.sharing is not None
        return Sharing(speeds, self.sharing.equal_passes, self.sharing.overlaps)


def describe_sharing(sharing: Sharing, num_samples: int) -> str:
    """Say in words who computes how much of a step: `H100: 2 ranks with 6 sequences each in 1 pass; ...`."""
    plan = sharing.plan(num_samples)
    speeds = sharing.speeds
    words = []
    for number, device in enumerate(speeds.devices):
        ranks = [rank for rank, own in enumerate(speeds.device_of_rank) if own == number]
        shares = Counter(tuple(int(size) for size in plan.sizes[rank] if size) for rank in ranks)
        for passes, count in shares.most_common(4):
            each = " each" if count > 1 else ""
            name = device.kind or device.device
            words.append(f"{name}: {count} rank{'s' * (count > 1)} with {_sequences(passes)}{each}")
    eta = num_samples / (sharing.step_seconds(plan) * sharing.sum_of_rates)
    return f"{'; '.join(words)}; eta {eta:.3f} is predicted"


def _sequences(passes: Sequence[int]) -> str:
    if not passes:
        return "no sequence"
    shown = f"{sum(passes)} sequence{'s' * (sum(passes) > 1)}"
    return shown if len(passes) == 1 else f"{shown} in passes of {', '.join(map(str, sorted(set(passes))[::-1]))}"


def _ratios(taken: Floats, expected: Floats) -> Floats:
    """Return how many times as long as expected ranks took; 1 where it is not known what was to be expected."""
    return np.where(expected > 0, taken / np.where(expected > 0, expected, 1.0), 1.0)


def _clear_changes(ratios: Floats) -> Floats:
    """Return by rank how many times as long as expected it takes, 1 where that may be noise.

    `ratios` is (steps, ranks) of two windows. A change is clear if each of them shows it by itself; the smaller of the
    two counts. The error of a median of n normal values is 1.25 sigma / sqrt(n); sigma is 1.48 times the median
    absolute deviation, of all ranks or of the rank itself, if that is more. Noise exceeds sqrt(2 ln m) of its standard
    errors less than once in m ranks and looks.
    """
    first, second = (_clear_in_window(part) for part in np.array_split(ratios, 2))
    slower, faster = np.minimum(first, second), np.maximum(first, second)
    return np.where(slower > 1, slower, np.where(faster < 1, faster, 1.0))


def _clear_in_window(ratios: Floats) -> Floats:
    middle = np.median(ratios, axis=0)
    own = np.median(np.abs(ratios / middle - 1), axis=0)
    spread = np.maximum(own, np.median(own))
    error = 1.2533 * 1.4826 * spread / len(ratios) ** 0.5
    is_clear = np.abs(middle - 1) > (2 * log(NUM_LOOKS * ratios.shape[1])) ** 0.5 * error
    return np.where(is_clear, middle, 1.0)


def to_grain(slowdown: float) -> float:
    """Return the power of GRAIN that is closest to a slowdown."""
    return float(GRAIN ** round(log(max(slowdown, 1e-6)) / log(GRAIN)))
