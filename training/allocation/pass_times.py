"""Measures what forward and backward passes take on each type of device, on the engine that will train.

Every rank times passes over 1, 2, 3, 4, 6, 8, ... sequences, up to what its memory holds, without waiting for others
(training/zero/step_timing.py). What they leave is dropped as that of a step without update is. Ranks whose
devices are alike are one type, whose times are the medians of theirs, kept in the store by all that they hang on.
"""

import hashlib
import json
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as version_of
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.host.files import write_text
from cluster.placement import Placement
from cluster.storage.errors import ignore_transient
from training.accelerator import device_bytes, device_name, is_accelerator
from training.allocation.balance import to_grain
from training.allocation.devices import make_monotone
from training.data.batches import Batches
from training.network.compile import explain_compile_errors
from training.network.packed_lm import PackedLoss
from training.network.packed_rows import PackedRows, pack_rows
from training.network.router_losses import StepRouting
from training.records import DeviceSpeed, Speeds
from training.zero.engine import take_optimizer_step
from training.zero.process_group import from_rank_0
from training.zero.step_timing import Stopwatch

PASS_TIMES = "pass_times"
"""Directory of the store with what passes took, a file for each type of device and kind of pass."""

WARM_UP_PASSES, REPEATS = 2, 2
"""Passes before the first that counts, and how many of each size count: the shortest does."""

USED_MEMORY = 0.92
"""No pass is tried that would take more of a GPU's memory, by what those before it took: the allocator needs the rest
(arXiv 2504.17096)."""

FAR_OFF = 1.1
"""A rank that takes so many times as long as the others of its type begins with a slowdown of its own."""


@dataclass(frozen=True)
class _Identity:
    """What a rank computes on."""

    kind: str
    device: str
    host: str
    """Its machine, of a CPU; CPUs of one architecture differ in all else."""

    key: str
    """A digest of all that its times hang on."""


@dataclass(frozen=True)
class _Times:
    """What one rank measured."""

    seconds: dict[int, float]
    """By sequences of a pass."""

    communication: float
    """The least that it waited for collectives in a pass."""


class _Known(BaseModel):
    """A file of PASS_TIMES."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    speed: DeviceSpeed
    communication: float
    """Seconds that the collectives of a pass took when the others waited for nobody."""


class PassTimer:
    """Measures the passes of one rank. Its methods are collective."""

    def __init__(
        self,
        engine: Any,
        batches: Batches,
        placement: Placement,
        *,
        rank: int,
        world_size: int,
        most: int,
        boundary_id: int,
        device: torch.device,
        stopwatch: Stopwatch,
        beat: Callable[[str], None],
    ) -> None:
        """`placement` is that of the rank's own member; `most` the sequences of a pass that are tried at most."""
        self._engine, self._batches, self._placement = engine, batches, placement
        self._rank, self._world_size, self._boundary_id = rank, world_size, boundary_id
        self._most = min(most, placement.micro_batch_size)
        self._device, self._stopwatch, self._beat = device, stopwatch, beat

    def find_speeds(self, store: Path, *, model: str, attention: str, saved: Speeds | None, step: int) -> Speeds:
        """Return how fast all ranks are.

        That is what a checkpoint has `saved` of the same devices in the same order, else what the store has of all
        their types, else what is measured now, and kept there.
        """
        identities: list[Any] = [None] * self._world_size
        torch.distributed.all_gather_object(identities, self._identity(model, attention))
        if saved is not None and from_rank_0(lambda: _is_of(saved, identities)):
            return saved
        version = saved.version + 1 if saved else 1
        known = from_rank_0(lambda: _read_known(store, identities))
        if known is not None:
            return _join(identities, known, None, step=step, version=version)
        times: list[Any] = [None] * self._world_size
        torch.distributed.all_gather_object(times, self._measure())

        def make() -> Speeds:
            found = {one: _typical(one, identities, times) for one in set(identities)}
            for identity, speed in found.items():
                _keep(store, identity, speed)
            return _join(identities, found, times, step=step, version=version)

        return from_rank_0(make)

    def _identity(self, model: str, attention: str) -> _Identity:
        placement, name = self._placement, device_name(self._device)
        host = "" if is_accelerator(self._device) else socket.gethostname()
        content = {
            "model": model,
            "attention": attention,
            "recomputes": placement.activation_checkpointing,
            "compiled": placement.compile,
            "gathers": placement.zero_stage == 3,
            "most": self._most,
            "threads": placement.cpus_per_rank if host else 0,
            "share": placement.cpu_share if host else 0,
            "emulated": placement.emulated_seconds_per_sequence,
            "device": name,
            "host": host,
            "versions": [version_of(package) for package in ("torch", "transformers", "deepspeed")],
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return _Identity(placement.kind, name, host, digest[:16])

    def _sizes(self) -> list[int]:
        """Return the sizes of passes to time: a compiled pass is filled up to the largest."""
        if self._placement.compile:
            return [self._most]
        steps = [size for base in (2**n for n in range(20)) for size in (base, base * 3 // 2)]
        return sorted({1, *(size for size in steps if size < self._most), self._most})

    def _measure(self) -> _Times:
        """Time the passes of all sizes; a rank with fewer of them runs empty ones beside the others'. Collective."""
        own = [1] * WARM_UP_PASSES + [size for size in self._sizes() for _ in range(REPEATS)]
        most = torch.tensor(len(own), device=self._device)
        torch.distributed.all_reduce(most, op=torch.distributed.ReduceOp.MAX)
        own += [0] * (int(most) - len(own))
        batch = self._batches.batch((range(self._most),))
        seconds: dict[int, float] = {}
        waited = float("inf")
        memory = _MemoryLimit(self._device)
        for number, size in enumerate(own):
            self._beat(f"timing passes, {number + 1} of {len(own)}")
            num_rows = size if memory.may_hold(size) else 0
            micro = self._batches.read(batch, np.arange(max(1, num_rows)), num_targetless=int(not num_rows))
            rows = pack_rows(micro.tokens, micro.lengths, boundary_id=self._boundary_id)
            moved = PackedRows(*(part.to(self._device) for part in rows))
            took = self._time_pass(moved, num_rows, is_last=number == len(own) - 1)
            if took is None:
                memory.limit = min(memory.limit, num_rows - 1)
                continue
            memory.note(num_rows)
            waited = min(waited, took.get("communication", 0.0))
            if number >= WARM_UP_PASSES and num_rows:
                spent = took.get("forward", 0.0) + took.get("backward", 0.0)
                seconds[num_rows] = min(seconds.get(num_rows, spent), spent)
        take_optimizer_step(self._engine, loss_is_finite=False, max_gradient_norm=1.0)
        self._stopwatch.pop_seconds()
        return _Times({size: spent for size, spent in seconds.items() if size <= memory.limit}, waited)

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


class _MemoryLimit:
    """Knows which passes a GPU has the memory for, by what smaller ones took."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._peaks = device, dict[int, int]()
        self._module = torch.get_device_module(device) if is_accelerator(device) else None
        self.limit = 1 << 30

    def may_hold(self, size: int) -> bool:
        """Return whether a pass of so many sequences is within USED_MEMORY, if memory grows as it did."""
        if size > self.limit:
            return False
        known = sorted(one for one in self._peaks if one < size)
        if self._module is None or len(known) < 2 or size in self._peaks:
            return True
        before, last = known[-2:]
        slope = (self._peaks[last] - self._peaks[before]) / (last - before)
        return self._peaks[last] + slope * (size - last) <= USED_MEMORY * device_bytes(self._device)

    def note(self, size: int) -> None:
        """Take down what the pass that was just run held at most."""
        if self._module is not None:
            self._peaks[size] = max(self._peaks.get(size, 0), self._module.max_memory_allocated(self._device))
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


def _is_of(speeds: Speeds, identities: Sequence[_Identity]) -> bool:
    """Return whether speeds are those of such ranks."""
    devices = [speeds.devices[number] for number in speeds.device_of_rank]
    return [(one.kind, one.device) for one in devices] == [(one.kind, one.device) for one in identities]


def _typical(identity: _Identity, identities: Sequence[_Identity], times: Sequence[_Times]) -> _Known:
    """Return what passes take on a type of device: the medians of its ranks, filled in between the sizes."""
    own = [one for other, one in zip(identities, times, strict=True) if other == identity]
    sizes = sorted(set[int].intersection(*(set(one.seconds) for one in own)))
    medians = make_monotone([median(one.seconds[size] for one in own) for size in sizes])
    every = np.interp(np.arange(1, sizes[-1] + 1), sizes, medians)
    speed = DeviceSpeed(
        kind=identity.kind, device=identity.device, pass_seconds=tuple(max(s, 1e-6) for s in every.tolist())
    )
    return _Known(speed=speed, communication=min(one.communication for one in times))


def _join(
    identities: Sequence[_Identity],
    known: Mapping[_Identity, _Known],
    times: Sequence[_Times] | None,
    *,
    step: int,
    version: int,
) -> Speeds:
    """Return the speeds of all ranks; `times` is what they measured, if that was now."""
    types = sorted(known, key=lambda one: identities.index(one))
    slowdown = [1.0] * len(identities)
    for rank, one in enumerate(times or ()):
        usual = known[identities[rank]].speed.pass_seconds
        ratio = median(spent / usual[size - 1] for size, spent in one.seconds.items() if size <= len(usual))
        slowdown[rank] = to_grain(ratio) if ratio > FAR_OFF or ratio < 1 / FAR_OFF else 1.0
    return Speeds(
        version=version,
        step=step,
        why="measured at the start" if times else "measured before, and kept in the store",
        devices=tuple(known[one].speed for one in types),
        device_of_rank=tuple(types.index(one) for one in identities),
        slowdown=tuple(slowdown),
        pass_communication=max(one.communication for one in known.values()),
    )


def _read_known(store: Path, identities: Sequence[_Identity]) -> dict[_Identity, _Known] | None:
    """Return what the store has of all types of devices; None if it lacks any."""
    found = {}
    for one in set(identities):
        try:
            found[one] = _Known.model_validate_json((store / PASS_TIMES / f"{one.key}.json").read_bytes())
        except (OSError, ValidationError):  # it is measured anew
            return None
        if found[one].speed.kind != one.kind:
            found[one] = found[one].model_copy(update={"speed": found[one].speed.model_copy(update={"kind": one.kind})})
    return found


def _keep(store: Path, identity: _Identity, known: _Known) -> None:
    with ignore_transient():
        (store / PASS_TIMES).mkdir(exist_ok=True)
        write_text(store / PASS_TIMES / f"{identity.key}.json", known.model_dump_json())
