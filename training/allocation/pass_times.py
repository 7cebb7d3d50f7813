"""Measures what forward and backward passes take on each type of device, on the engine that will train.

Every rank times passes over 1, 2, 3, 4, 6, 8, ... sequences, up to what its memory holds, without waiting for others
(training/zero/step_timing.py), in rounds over all of them. What they leave is dropped as that of a step without update
is. Ranks whose devices are alike are one type, whose times are the medians of theirs, kept in the store by all that
they hang on.
"""

import socket
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel

from cluster.host.limits import cores_of_time
from cluster.placement import Placement
from training.accelerator import device_bytes, device_name, is_accelerator
from training.allocation.known_times import (
    PASS_TIMES,
    RankTimes,
    RankType,
    Setting,
    join_speeds,
    keep,
    read_known,
    speeds_of,
    typical_times,
)
from training.allocation.link import fit_link
from training.data.batches import EMPTY_TOKENS, Batches
from training.network.compile import explain_compile_errors
from training.network.packed_lm import PackedLoss
from training.network.packed_rows import PackedRows, pack_rows
from training.network.router_losses import StepRouting
from training.speeds import Speeds
from training.zero.engine import take_optimizer_step
from training.zero.process_group import from_rank_0
from training.zero.step_timing import Stopwatch

ROUNDS = 5
"""How often a pass of each size is timed, all sizes once in each round: what disturbs a device for a while hits many
sizes once, and not one of them each time. The shortest time of a size counts."""

BUDGET_SECONDS = 15.0
"""A rank times no pass after which it would have computed for longer, and tries no larger size after which the first
two rounds would take longer: sizes that it did not try are taken to be in proportion."""

USED_MEMORY = 0.92
"""No pass is tried that would take more of a GPU's memory, by what those before it took: the allocator needs the rest
(arXiv 2504.17096)."""


class PassTimer:
    """Measures the passes of one rank. Its methods are collective."""

    def __init__(
        self,
        engine: Any,
        batches: Batches,
        placement: Placement,
        *,
        world_size: int,
        most: int,
        boundary_id: int,
        device: torch.device,
        stopwatch: Stopwatch,
        beat: Callable[[str], None],
    ) -> None:
        """`placement` is that of the rank's own member; `most` the sequences of a pass that are tried at most."""
        self._engine, self._batches, self._placement = engine, batches, placement
        self._world_size, self._boundary_id = world_size, boundary_id
        self._most = min(most, placement.micro_batch_size)
        self._device, self._stopwatch, self._beat = device, stopwatch, beat

    def find_speeds(self, store: Path, *, model: str, attention: str, saved: Speeds | None, step: int) -> Speeds:
        """Return how fast all ranks are.

        That is what a checkpoint has `saved` of the same devices in the same order, else what the store has of all
        their types, else what is measured now, and kept there.
        """
        gathered: list[Any] = [None] * self._world_size
        torch.distributed.all_gather_object(gathered, (self._type(model, attention), socket.gethostname()))
        types, hosts = [one for one, _ in gathered], [host for _, host in gathered]
        if saved is not None and (same := from_rank_0(lambda: speeds_of(saved, types, hosts))) is not None:
            return same
        version = saved.version + 1 if saved else 1
        known = from_rank_0(lambda: read_known(store, types))
        if known is not None:
            return join_speeds(types, known, None, hosts=hosts, step=step, version=version)
        times: list[Any] = [None] * self._world_size
        torch.distributed.all_gather_object(times, self.measure())
        link = fit_link(self._device, devices=[one.device for one in types], hosts=hosts)

        def make() -> Speeds:
            found = {one: typical_times(one, types, times) for one in set(types)}
            files = {f"{identity.setting.key}.json": known for identity, known in found.items()}
            problem = _keep_all(store, files | {link.file_name: link})
            speeds = join_speeds(types, found, times, hosts=hosts, step=step, version=version)
            return speeds.model_copy(update={"why": f"{speeds.why}; {problem}"}) if problem else speeds

        return from_rank_0(make)

    def _type(self, model: str, attention: str) -> RankType:
        placement, on_cpu = self._placement, not is_accelerator(self._device)
        setting = Setting(
            model=model,
            attention=attention,
            recomputes=placement.activation_checkpointing,
            compiled=placement.compile,
            gathers=placement.zero_stage == 3,
            most=self._most,
            device=device_name(self._device),
            host=socket.gethostname() if on_cpu else "",
            threads=placement.cpus_per_rank if on_cpu else 0,
            cpu_share=placement.cpu_share if on_cpu else 0.0,
            cores=cores_of_time() if on_cpu else 0.0,
            emulated=placement.emulated_seconds_per_sequence or 0.0,
            versions=tuple(version_of(package) for package in ("torch", "transformers", "deepspeed")),
        )
        return RankType(placement.kind, setting)

    def _sizes(self) -> list[int]:
        """Return the sizes of passes to time; of compiled ones the ends: each size takes a compilation."""
        if self._placement.compile:
            return sorted({1, self._most})
        steps = [size for base in (2**n for n in range(20)) for size in (base, base * 3 // 2)]
        return sorted({1, *(size for size in steps if size < self._most), self._most})

    def _order(self) -> tuple[list[int], list[int]]:
        """Return the sizes of the passes that warm up, and of those of a round; equally many on all ranks. Collective.

        The first passes, and of compiled ones the first of each size, make what the others find there.
        """
        sizes = self._sizes()
        warming, timed = [0, *(sizes if self._placement.compile else [1])], [0, *sizes]
        most = torch.tensor([len(warming), len(timed)], device=self._device)
        torch.distributed.all_reduce(most, op=torch.distributed.ReduceOp.MAX)
        num_warming, num_timed = most.tolist()
        return warming + [0] * (num_warming - len(warming)), timed + [0] * (num_timed - len(timed))

    def measure(self) -> RankTimes:
        """Time the passes of all sizes; a rank with fewer of them runs empty ones beside the others'. Collective."""
        warming, timed = self._order()
        own = warming + ROUNDS * timed
        batch = self._batches.batch((range(self._most),))
        budget, waited, memory = _Budget(), float("inf"), _MemoryLimit(self._device)
        for number, size in enumerate(own):
            self._beat(f"timing passes, {number + 1} of {len(own)}")
            warms, again = number < len(warming), number >= len(warming) + len(timed)
            has_time = warms or budget.has_time(size, again=again)
            num_rows = size if memory.may_hold(size) and has_time else 0
            micro = self._batches.read(batch, np.arange(max(1, num_rows)), num_targetless=int(not num_rows))
            tokens = micro.tokens if num_rows else micro.tokens[:, : EMPTY_TOKENS + 1]
            rows = pack_rows(tokens, micro.lengths, boundary_id=self._boundary_id)
            moved = PackedRows(*(part.to(self._device) for part in rows))
            took = self._time_pass(moved, num_rows, is_last=number == len(own) - 1)
            if took is None:
                memory.limit = min(memory.limit, num_rows - 1)
                continue
            memory.note(num_rows)
            waited = min(waited, took.get("communication", 0.0))
            if not warms:
                budget.note(num_rows, took.get("forward", 0.0) + took.get("backward", 0.0))
        take_optimizer_step(self._engine, loss_is_finite=False, max_gradient_norm=1.0)
        self._stopwatch.pop_seconds()
        empty, largest = budget.seconds.pop(0), memory.largest(self._most)
        fitting = {n: spent for n, spent in budget.seconds.items() if n <= largest}
        return RankTimes(fitting, waited, empty, largest, {n: peak for n, peak in memory.peaks.items() if n})

    def _time_pass(self, rows: PackedRows, size: int, *, is_last: bool) -> dict[str, float] | None:
        """Run a pass and return its seconds by part; None if the device has too little memory for it.

        Where a pass has collectives it must not fail: the other ranks would wait in it.
        """
        may_fail = is_accelerator(self._device) and self._placement.zero_stage < 2 and not is_last
        self._stopwatch.pop_seconds()
        self._engine.set_gradient_accumulation_boundary(is_last)
        try:
            run_pass(self._engine, rows, self._stopwatch, emulated=self._emulated(size), divisor=1)
        except torch.OutOfMemoryError:
            if not may_fail:
                raise
            torch.get_device_module(self._device).empty_cache()
            return None
        return self._stopwatch.pop_seconds()

    def _emulated(self, size: int) -> float:
        return size * (self._placement.emulated_seconds_per_sequence or 0.0)


def _keep_all(store: Path, files: Mapping[str, BaseModel]) -> str:
    """Keep what was measured, by name; return what to tell if that fails: training goes on without it."""
    try:
        for name, found in files.items():
            keep(store, name, found)
    except OSError as error:
        return f"not kept in the store: {error.strerror or error} ({store / PASS_TIMES})"
    return ""


class _Budget:
    """Knows what passes took, and which a rank has the time for."""

    def __init__(self) -> None:
        self.seconds, self._spent = dict[int, float](), 0.0

    def has_time(self, size: int, *, again: bool) -> bool:
        """Return whether a pass of so many sequences is within BUDGET_SECONDS; `again` after the first round."""
        tried = [n for n in self.seconds if n]
        if not size or (not again and not tried):
            return True
        if again:  # only what the first round had the time and the memory for
            return size in self.seconds and self._spent + self.seconds[size] <= BUDGET_SECONDS
        return 2 * (self._spent + self.seconds[max(tried)] * size / max(tried)) <= BUDGET_SECONDS

    def note(self, size: int, spent: float) -> None:
        """Take down what a pass took."""
        self.seconds[size] = min(self.seconds.get(size, spent), spent)
        self._spent += spent if size else 0.0


class _MemoryLimit:
    """Knows which passes a GPU has the memory for, by what smaller ones took."""

    def __init__(self, device: torch.device) -> None:
        self._device, self.peaks = device, dict[int, int]()
        self._module = torch.get_device_module(device) if is_accelerator(device) else None
        self.limit = 1 << 30
        if self._module is not None:
            self._module.reset_peak_memory_stats(device)  # what building the engine took says nothing

    def may_hold(self, size: int) -> bool:
        """Return whether a pass of so many sequences is within USED_MEMORY, if memory grows as it did."""
        if size > self.limit:
            return False
        known = sorted(one for one in self.peaks if one < size)
        if self._module is None or len(known) < 2 or size in self.peaks:
            return True
        before, last = known[-2:]
        slope = (self.peaks[last] - self.peaks[before]) / (last - before)
        return self.peaks[last] + slope * (size - last) <= USED_MEMORY * device_bytes(self._device)

    def largest(self, most: int) -> int:
        """Return the most sequences, of so many that were to be tried, that the memory holds as far as is known."""
        return max(1, max((size for size in range(1, most + 1) if self.may_hold(size)), default=1))

    def note(self, size: int) -> None:
        """Take down what the pass that was just run held at most."""
        if self._module is not None:
            self.peaks[size] = max(self.peaks.get(size, 0), self._module.max_memory_allocated(self._device))
            self._module.reset_peak_memory_stats(self._device)


def run_pass(
    engine: Any,
    rows: PackedRows,
    stopwatch: Stopwatch,
    *,
    emulated: float,
    divisor: int,
    step: StepRouting | None = None,
) -> PackedLoss:
    """Run a forward and a backward pass of the objective over `divisor`; it takes `emulated` seconds more."""
    with stopwatch.part("forward"), explain_compile_errors():
        found: PackedLoss = engine(rows, step=step)
        time.sleep(emulated)
    with stopwatch.part("backward"):
        engine.backward(found.objective / divisor, scale_wrt_gas=False)
    return found
