"""Predicts the memory of a rank that trains, in bytes by part.

It is pure arithmetic on what DeepSpeed 0.19.8, PyTorch 2.13 and training/network/head_loss.py allocate.
benchmarks/memory_model.py compares it with measured runs; docs/planning.md explains the terms and has the results.
"""

from dataclasses import dataclass, fields

from configs.base import GIB, MIB
from training.sizing.activations import activation_bytes, logits_bytes, loss_bytes
from training.sizing.model_size import ModelSize, TrainingLayout
from training.zero.config import (
    ADAMW_MOMENTS,
    ALLREDUCE_BUCKET_ELEMENTS,
    MUON_BUCKET_ELEMENTS,
    MUON_MOMENTS,
    Buffers,
    choose_buffers,
)

PREDICTION_ERROR = 0.15
"""More than the largest relative error against measured runs of 12 million parameters and more, which docs/planning.md
lists. A layout fits only if it still fits with this error."""

CPU_PROCESS_BYTES, CUDA_PROCESS_BYTES = 500 * MIB, GIB
"""Memory of a rank besides tensors: Python with its libraries, 0.41 GiB resident as measured after the imports; on a
GPU the context and NCCL's buffers, 1 GiB as an assumption that was not measured."""


@dataclass(frozen=True)
class Memory:
    """Bytes that one rank holds on its device at the peak of a step; training/sizing/start.py has the others."""

    parameters: int
    gradients: int
    optimizer: int
    """fp32 weights and moments."""

    activations: int
    loss: int
    """A chunk of logits, and the gradients of the output layer, which are made with it."""

    buffers: int
    """Buffers of the collectives that exchange gradients and weights."""

    process: int
    """Libraries, and the context of a GPU."""

    offloaded: int
    """What an optimizer that is offloaded from a GPU takes of the host; no part of the total."""

    @property
    def total(self) -> int:
        """Bytes on the device."""
        return sum(self.parts.values())

    @property
    def parts(self) -> dict[str, int]:
        """Bytes on the device by part."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "offloaded"}


def predict_memory(size: ModelSize, setting: TrainingLayout) -> Memory:
    """Predict the peak memory of one rank.

    Gradient accumulation does not change it: gradients are held from pass to pass in any case.
    """
    parameters = _parameters(size, setting)
    gradients, buffers = _gradients(size, setting), _buffers(size, setting)
    optimizer = _optimizer(size, setting)
    loss, activations = loss_bytes(size, setting), activation_bytes(size, setting)
    offloaded = 0
    if setting.offload_optimizer:
        part = _shard(4 * size.num_trained, setting)
        copies = _offload_copies(size, setting)
        passing = setting.width * size.largest_matrix if setting.zero_stage < 3 else 0  # a gradient on its way
        if setting.device == "cpu":
            optimizer += sum(copies) + 2 * passing
        else:
            on_host = [part, *copies, passing] if setting.zero_stage < 3 else [part, *copies, part]
            offloaded, optimizer = optimizer - part + sum(_offloaded_buffer(held, setting) for held in on_host), 0
            buffers += passing
            gradients -= part if setting.zero_stage == 3 else 0  # the sum is on the host, too
    during_step = _step(size, setting) - gradients - buffers - loss - activations
    return Memory(
        parameters=parameters,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        loss=loss,
        buffers=buffers + max(0, during_step),
        process=CPU_PROCESS_BYTES if setting.device == "cpu" else CUDA_PROCESS_BYTES,
        offloaded=offloaded,
    )


def _shard(num_bytes: float, setting: TrainingLayout, *, from_stage: int = 1) -> int:
    return int(num_bytes / setting.num_ranks if setting.zero_stage >= from_stage else num_bytes)


def _buffers_of(size: ModelSize, setting: TrainingLayout) -> Buffers:
    return choose_buffers(
        setting.zero_optimization,
        device=setting.device,
        zero_stage=setting.zero_stage,
        num_trained=size.num_trained,
    )


def parameters_at_rest(size: ModelSize, setting: TrainingLayout) -> int:
    """Return the bytes of the parameters between passes, when ZeRO-3 has gathered none of them."""
    whole = setting.width * size.num_parameters
    if setting.zero_stage < 3:
        return whole
    num_secondary = _buffers_of(size, setting).num_secondary_ranks
    return _shard(whole, setting) + (whole // num_secondary if num_secondary > 1 else 0)


def _parameters(size: ModelSize, setting: TrainingLayout) -> int:
    live = 0
    if setting.zero_stage == 3 and setting.num_ranks > 1:
        live = min(size.num_parameters, _buffers_of(size, setting).max_live + size.largest_layer)
    return parameters_at_rest(size, setting) + setting.width * live


def _gradients(size: ModelSize, setting: TrainingLayout) -> int:
    """Return the bytes of gradients, whose sum is fp32; what they are summed from is there for a parameter at a time.

    In stage 0 in bf16 all of that is there. Where they are reduced during the pass, the part that the rank owns is.
    """
    trained = size.num_trained
    if setting.zero_stage == 0:
        return (4 if setting.width == 4 else 6) * trained
    in_flight = setting.width * size.largest_matrix if setting.zero_stage == 3 or setting.width == 2 else 0
    if setting.zero_stage == 1:
        reduced = _shard(4 * trained, setting) if _buffers_of(size, setting).overlaps else 0
        return 4 * trained + reduced + (in_flight if setting.width == 2 else 0)
    return _shard(4 * trained, setting) + (in_flight if setting.zero_stage == 3 else 0)


def _optimizer(size: ModelSize, setting: TrainingLayout) -> int:
    """Return the bytes of moments, of a moving average, and of fp32 weights.

    The latter are the parameters themselves without ZeRO in fp32.
    """
    num_adamw = size.num_trained - size.num_muon
    moments = 4 * (len(ADAMW_MOMENTS) * num_adamw + len(MUON_MOMENTS) * size.num_muon + size.num_averaged)
    masters = 0 if setting.zero_stage == 0 and setting.precision == "fp32" else 4 * size.num_trained
    return _shard(moments + masters, setting)


def _offload_copies(size: ModelSize, setting: TrainingLayout) -> list[int]:
    """Return the bytes of what an offloaded optimizer copies on the host (DeepSpeed 0.19.8).

    The gradients that it reads, and below ZeRO-3 the weights that it has updated, in the precision of the passes.
    """
    gradients = _shard(4 * size.num_trained, setting)
    return [gradients] if setting.zero_stage == 3 else [gradients, _shard(setting.width * size.num_trained, setting)]


def pinned_bytes(num_bytes: int) -> int:
    """Return what a pinned (page-locked) buffer on the host takes: PyTorch rounds it up to a power of two."""
    return 1 << (num_bytes - 1).bit_length() if num_bytes else 0


def _offloaded_buffer(num_bytes: int, setting: TrainingLayout) -> int:
    """Return what a buffer of an offloaded optimizer takes, which is pinned unless the pool says otherwise."""
    asked = setting.zero_optimization.offload_optimizer
    return num_bytes if asked is not None and asked.pin_memory is False else pinned_bytes(num_bytes)


def _bucket_elements(size: ModelSize, setting: TrainingLayout) -> int:
    """Return the elements of DeepSpeed's reduce bucket that take memory: on a host only those that are touched."""
    bucket = _buffers_of(size, setting).reduce_bucket
    return min(bucket, size.num_trained) if setting.device == "cpu" else bucket


def _buckets(size: ModelSize, setting: TrainingLayout) -> int:
    """Return the bytes of the buckets of gradients; those that are not copied there wait in memory of their own."""
    buffers, width = _buffers_of(size, setting), 4 if setting.zero_stage == 1 else setting.width
    if setting.zero_stage == 1 and not buffers.is_contiguous:
        return 0  # there they are in any case
    has_two = buffers.overlaps and buffers.is_contiguous and setting.zero_stage < 3
    return (2 if has_two else 1) * width * _bucket_elements(size, setting)


def _buffers(size: ModelSize, setting: TrainingLayout) -> int:
    """Return the bytes of communication buffers while activations are held."""
    if setting.zero_stage == 0:
        return 0
    elements, buckets, buffers = _bucket_elements(size, setting), _buckets(size, setting), _buffers_of(size, setting)
    width = 4 if setting.zero_stage == 1 else setting.width
    converted = setting.reduced_width * elements if setting.reduced_width != width else 0
    # what only the backward pass needs takes the place of the logits
    if setting.zero_stage == 1:
        return buckets + (max(0, converted - logits_bytes(size, setting)) if buffers.overlaps else 0)
    if setting.zero_stage == 2:
        # many buckets a pass are reduced one by one while activations are held, a single one when they are gone
        flattened = width * elements if converted or elements < size.num_trained else 0
        return max(0, buckets + flattened + converted - logits_bytes(size, setting))
    flattened = setting.reduced_width * elements  # ZeRO-3 interleaves the ranks' parts of what it reduces
    in_backward = max(0, flattened + converted - logits_bytes(size, setting)) if setting.num_ranks > 1 else converted
    return buckets + in_backward + _prefetched(size, setting)


def _prefetched(size: ModelSize, setting: TrainingLayout) -> int:
    """Return the bytes in which ZeRO-3 gathers weights on a GPU, before it copies them to where they are used."""
    if setting.device == "cpu" or setting.num_ranks == 1:
        return 0
    return setting.width * min(_buffers_of(size, setting).prefetch_bucket, size.num_parameters)


def _step(size: ModelSize, setting: TrainingLayout) -> int:
    """Return the bytes of gradients and of their reduction after the last pass, or of the optimizer's update.

    Activations are freed by then.
    """
    width, trained = setting.width, size.num_trained
    muon = _muon_round(size, setting)
    if setting.zero_stage == 0 and width == 4:
        return width * trained + max(width * min(ALLREDUCE_BUCKET_ELEMENTS, trained), muon)
    if setting.zero_stage == 0:
        return 6 * trained + max(_allreduce_copies(size, setting), muon)
    elements = _bucket_elements(size, setting)
    update = max(_shard(8 * trained, setting) + width * elements, _shard(4 * trained, setting) + muon)
    if setting.zero_stage > 1:
        return update
    # gradients that are in the bucket are nowhere else; what is reduced is flattened, and its own part kept
    converted = 2 * elements if setting.reduced_width == 2 else 0
    return max(
        update, 4 * trained + max(4 * elements, _buckets(size, setting)) + converted + _shard(4 * trained, setting)
    )


def _muon_round(size: ModelSize, setting: TrainingLayout) -> int:
    """Return the most bytes that a round of Muon's takes: for a bucket of a rank's matrices, or its largest one."""
    if setting.zero_stage == 0 and setting.precision == "fp32":
        own = size.largest_muon  # masters of their own, one after another
    else:
        own = _shard(size.num_muon, setting)
    elements = max(size.largest_muon_matrix, min(MUON_BUCKET_ELEMENTS, own))
    batch = max(size.largest_muon_matrix, min(elements, _shard(size.muon_of_one_shape, setting)))
    # the iteration holds a batch before and after it, and two products that are at most as large
    iterating = 4 * elements + 4 * (4 if setting.device == "cpu" else 2) * batch
    # what is sent may be twice the own matrices: pieces of one rank are not spread evenly over the rounds
    sending = 12 * elements if setting.zero_stage > 0 and setting.num_ranks > 1 else 0
    return max(iterating, sending)


def _allreduce_copies(size: ModelSize, setting: TrainingLayout) -> int:
    """Return the bytes of copies that an all-reduce of whole groups of fp32 gradients makes, one group after another.

    DeepSpeed joins groups until they are larger than its bucket; a group that is so by itself is reduced in place.
    """
    first, rest = size.num_trained - size.num_muon, size.num_muon
    joined = first + rest if first <= ALLREDUCE_BUCKET_ELEMENTS else rest
    converted = 2 * max(first, joined) if setting.reduced_width == 2 else 0
    return 4 * joined + converted
