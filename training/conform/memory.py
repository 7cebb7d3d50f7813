"""The peak memory of training steps as predicted (training/sizing/) and as measured."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from training.accelerator import is_accelerator, peak_memory_bytes
from training.conform.record import Check, attempt, judged
from training.conform.scale import Trial
from training.conform.synthetic_job import Bench, free_memory, make_job, open_trainer, read_inputs, take_step
from training.conform.timing import wait_for_device
from training.job import Job
from training.sizing.fit import choose_layout
from training.sizing.memory import PREDICTION_ERROR
from training.sizing.recipe_size import find_parameters, measure_model
from training.zero.config import CPU_BUCKET_ELEMENTS

_STEPS = 2
_MIN_PARAMETERS = 12_000_000
"""The prediction is made for models from this size on."""


def check_memory(bench: Bench) -> Iterator[Check]:
    """Compare the peak of steps of the large model in ZeRO stages 1 and 3."""
    for stage in (1, 3):
        name = f"memory zero-{stage}"
        yield from attempt(name, partial(measure_memory, bench, bench.scale.large, name, stage))


def measure_memory(bench: Bench, trial: Trial, name: str, stage: int) -> Iterator[Check]:
    """Train steps of a trial, and compare the peak of its tensors with the predicted one."""
    job = make_job(bench, trial, name.replace(" ", "-"), zero_stage=stage)
    free_memory(bench.device)  # else what is freed later counts as less than nothing
    if is_accelerator(bench.device):
        memory = torch.get_device_module(bench.device)
        held = int(memory.memory_allocated(bench.device))
        memory.reset_peak_memory_stats(bench.device)
        _, attention = _train(bench, job)
        measured = peak_memory_bytes(bench.device) - held
    else:
        measured, attention = _measure_on_cpu(lambda: _train(bench, job))
    size = measure_model(find_parameters(job.config, vocab_size=trial.vocab_size), job.config)
    placement = replace(job.placement, attention=attention, leaves_open=(), memory_bytes_per_rank=None)
    found = choose_layout(size, job.config, placement).chosen.memory
    predicted = found.total - found.process
    detail = f"measured {measured / 2**20:,.0f} MiB over predicted {predicted / 2**20:,.0f} MiB"
    ratio = measured / predicted
    if size.num_parameters < _MIN_PARAMETERS:
        yield Check(name=name, value=ratio, detail=f"{detail}; the prediction is not made for a model so small")
        return
    yield judged(name, ratio, limit=1 + PREDICTION_ERROR, detail=detail)


def _train(bench: Bench, job: Job) -> tuple[int, str]:
    """Take steps; return the number of trained parameters, and the implementation of attention."""
    with open_trainer(bench, job) as trainer:
        for step_input in read_inputs(trainer, _STEPS):
            take_step(trainer, step_input)
        wait_for_device(bench.device)
        shapes = trainer.state.built.shapes.values()
        return sum(torch.Size(shape).numel() for shape in shapes), trainer.state.built.traits.attention


def _measure_on_cpu(train: Callable[[], tuple[int, str]]) -> tuple[int, str]:
    """Return the peak of tensors by PyTorch's memory profiler, which sees each that is allocated and freed."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        num_trained, attention = train()
    return find_peak(memory_changes(profiler), num_trained=num_trained), attention


def memory_changes(profiler: profile, *, before: str | None = None) -> list[int]:
    """Return the bytes that were allocated, and less than zero those that were freed, in order.

    With `before`, only those until the first event of that name, such as a torch.profiler.record_function.
    """
    assert profiler.profiler is not None
    results: Any = profiler.profiler.kineto_results
    events = list(results.events())
    end = math.inf if before is None else min(event.start_ns() for event in events if event.name() == before)
    changes = [event for event in events if event.name() == "[memory]" and event.start_ns() < end]
    return [event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns())]


def find_peak(changes: list[int], *, num_trained: int) -> int:
    """Return the peak of what is held, from changes in bytes.

    DeepSpeed's reduce bucket counts as far as it is touched: host memory has no other pages of it.
    """
    held = most = 0
    for change in changes:
        width = abs(change) // CPU_BUCKET_ELEMENTS
        if width in (2, 4) and abs(change) == width * CPU_BUCKET_ELEMENTS:
            change = change * min(num_trained, CPU_BUCKET_ELEMENTS) // CPU_BUCKET_ELEMENTS
        held += change
        most = max(most, held)
    return most
