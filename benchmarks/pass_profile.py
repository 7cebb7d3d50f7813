"""What passes of 1, 2, 3, ... sequences take on one device, as training measures it, over what a plan predicts.

    python benchmarks/gpu.py run --only "passes 0.3B"

Unlike devices share a step by such times, and a plan chooses by predicted ones. Each size has a ratio of its seconds,
and on a GPU one of its memory, the peak of its tensors. A device without a peak in the table has no predicted seconds.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from cluster.devices import device_by_driver_name
from training.accelerator import is_accelerator
from training.allocation.pass_times import PassTimer
from training.conform.record import Check
from training.conform.scale import Trial
from training.conform.synthetic_job import Bench, make_job, open_trainer
from training.job import Job
from training.sizing.fit import make_layout
from training.sizing.flops import executed_flops_per_token
from training.sizing.recipe_size import find_parameters, measure_model
from training.sizing.step_time import LIKELY, flops_of, member_reach, predict_pass

LARGEST = 8
"""Most sequences of a pass."""


def measure_passes(bench: Bench, trial: Trial, name: str) -> Iterator[Check]:
    """Measure the passes of a trial in ZeRO 1, and compare them with what is predicted."""
    job = make_job(bench, trial, name.replace(" ", "-"), micro_batch_size=LARGEST)
    before = 0
    if is_accelerator(bench.device):
        import torch

        before = int(torch.get_device_module(bench.device).memory_allocated(bench.device))
    with open_trainer(bench, job) as trainer:
        timer = PassTimer(
            trainer.state.built.engine,
            trainer.batches,
            job.placement,
            world_size=1,
            most=LARGEST,
            boundary_id=job.tokenizer.manifest.boundary_id,
            device=bench.device,
            stopwatch=trainer.stopwatch,
            beat=lambda _: None,
        )
        times, attention = timer.measure(), trainer.state.built.traits.attention
    for size, seconds in sorted(times.seconds.items()):
        expected, memory = _predict(job, trial, size, attention=attention, device=bench.device)
        ratio = seconds / expected if expected else None
        detail = (
            f"{seconds * 1e3:.2f} ms measured, {expected * 1e3:.2f} ms predicted"
            if expected
            else f"{seconds * 1e3:.2f} ms"
        )
        yield Check(name=f"{name} {size} sequences", value=ratio, detail=detail)
        if size in times.peak_bytes:
            held = times.peak_bytes[size] - before
            told = f"{held / 2**20:,.0f} MiB measured, {memory / 2**20:,.0f} MiB predicted"
            yield Check(name=f"{name} {size} sequences memory", value=held / memory, detail=told)


def _predict(job: Job, trial: Trial, size: int, *, attention: str, device: Any) -> tuple[float | None, int]:
    """Return the predicted seconds of a pass, None where they are not, and the bytes of its tensors."""
    import torch

    model = find_parameters(job.config, vocab_size=trial.vocab_size)
    measured = measure_model(model, job.config)
    placement = replace(job.placement, attention=attention, leaves_open=(), memory_bytes_per_rank=None)
    found = make_layout(measured, job.config, placement, placement.zero_stage, size).memory
    if not is_accelerator(device):
        return None, found.total - found.process
    known = device_by_driver_name(torch.get_device_module(device).get_device_name(device))
    placement = replace(placement, accelerator=known.ray_names[0] if known and known.ray_names else "")
    rate = flops_of(placement, job.config.precision, LIKELY)
    flops = executed_flops_per_token(
        model.config, model.shapes, sequence_length=trial.sequence_length, attention=attention, recomputes=False
    )
    if rate is None or flops is None:
        return None, found.total - found.process
    reach = member_reach(placement, flops=rate, far=None, assumed=LIKELY)
    seconds = predict_pass(measured, job.config, placement, num_sequences=size, flops=flops, reach=reach)
    return seconds, found.total - found.process
